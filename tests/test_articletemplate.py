import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embmerge.articles import read_articles
from embmerge.articletemplate import CONSTANTS, SPARE, Template
from embmerge.articlewalk import walk_articles
from embmerge.errors import LocalDataError
from embmerge.records import Records

texts = (
    st.text(max_size=300, alphabet=st.characters(exclude_categories=["Cs"]))
    | st.text("abc ", max_size=300)
    | st.just("東京" * 120)
)
ids = st.integers(-(2**31), 2**31 - 1) | texts
KEYS = ("title", "id", "url")


def article(row):
    return {"id": f"{row}", "title": f"Title {row}", "url": f"u/{row}", "text": f"{row} " * 40}


def apart(value):
    """A text of its own, as whoever reads articles from a file has them: a long one used twice is not taken."""
    return str(value.encode(), "utf-8") if isinstance(value, str) else value


def read(path, raw):
    path.write_bytes(raw)
    return list(read_articles(path))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(texts, ids, texts, texts), min_size=1, max_size=60),
    order=st.permutations(["title", "id", "url", "text"]),
    copies=st.integers(1, 30),
)
def test_articles_of_any_values_and_order_of_keys_are_those_of_pickle_load(tmp_path_factory, rows, order, copies):
    values = [dict(zip(("title", "id", "url", "text"), map(apart, row), strict=True)) for row in rows * copies]
    articles = [{key: each[key] for key in order} for each in values]
    found = read(tmp_path_factory.mktemp("a") / "a.pkl", pickle.dumps(articles, protocol=4))
    assert found == [{key: each[key] for key in KEYS} for each in articles]


def test_a_text_that_looks_like_an_article_is_only_a_text(tmp_path):
    fake = pickle.dumps([article(1)], protocol=4).decode("latin-1")
    articles = [{**article(row), "text": fake * 3, "title": fake} for row in range(500)]
    found = read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))
    assert [each["title"] for each in found] == [fake] * 500


def test_a_text_of_one_character_may_be_a_title_too(tmp_path):
    articles = [{**article(row), "text": "Ü" if row % 2 else ""} for row in range(1000)]
    articles[900].update(title="Ü", url="")
    assert read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))[900] == {"title": "Ü", "id": "900", "url": ""}


def test_a_title_used_again_by_a_later_article_is_found(tmp_path):
    articles = [article(row) for row in range(2000)]
    articles[1500] = {**articles[1500], "title": articles[700]["url"]}
    assert read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))[1500]["title"] == "u/700"


def test_a_url_that_an_earlier_article_named_is_found(tmp_path):
    urls = [f"/w/{row}" for row in range(3000)]
    articles = [{**article(row), "next": apart(f"none {row}"), "url": apart(urls[row])} for row in range(3000)]
    for row in range(1000, 2000, 50):
        articles[row]["next"] = articles[row + 1]["url"]
    assert [each["url"] for each in read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))] == urls


def test_articles_whose_ids_are_now_numbers_now_texts_are_found_together(tmp_path):
    path = tmp_path / "a.pkl"
    articles = [{**article(row), "id": row if row % 2 else f"{row}"} for row in range(900)]
    articles[700]["title"] = articles[699]["url"]  # recalled from behind numbers, which no memo holds
    path.write_bytes(pickle.dumps(articles, protocol=4))
    with path.open("rb", buffering=0) as file:
        assert [len(records) for records in walk_articles(file)] == [1, 699, 1, 199]
    assert list(read_articles(path)) == [{key: each[key] for key in KEYS} for each in articles]


@pytest.mark.parametrize("row", [1, 450, 899])
def test_a_lone_surrogate_is_met_once_a_block(tmp_path, monkeypatch, row):
    articles = [article(row) for row in range(900)]
    articles[row]["title"] += "\ud800"
    looked = []
    runs = Template.runs
    monkeypatch.setattr(Template, "runs", lambda self, *block: looked.append(block) or runs(self, *block))
    found = read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))
    assert found == [{key: each[key] for key in KEYS} for each in articles]
    assert len(looked) <= 2


def test_articles_of_two_looks_in_turn_are_walked(tmp_path):
    articles = [{**article(row), "url": None if row % 2 else f"u{row}"} for row in range(900)]
    found = read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))
    assert found == [{key: each[key] for key in KEYS} for each in articles]


def test_a_first_article_with_a_key_twice_is_no_example(tmp_path):
    def text(value):
        return b"\x8c" + bytes((len(value),)) + value.encode() + b"\x94"

    first = b"}\x94(" + b"".join(map(text, ("title", "t", "title", "u", "id", "i", "url", "l"))) + b"u"
    others = [b"}\x94(h\2%bh\4%bh\6%bh\x08%bu" % tuple(map(text, (f"a{n}", f"b{n}", "i", "l"))) for n in range(20)]
    recalled = b"}(h\2h\x0bh\6Nh\x08Nu"  # by the text that the second one's title was first
    raw = b"\x80\4]\x94(" + first + b"".join(others) + recalled + b"e."
    assert read(tmp_path / "a.pkl", raw)[-1]["title"] == pickle.loads(raw)[-1]["title"] == "a0"


def test_runs_of_any_length_are_read_between_articles_of_another_look(tmp_path):
    articles = [article(row) for row in range(120)]
    for row in [count * (count + 1) // 2 for count in range(15)]:
        articles[row]["url"] = None
    found = read(tmp_path / "a.pkl", pickle.dumps(articles, protocol=4))
    assert found == [{key: each[key] for key in KEYS} for each in articles]


def test_articles_within_bytes_that_are_no_text_are_passed_over_with_them(tmp_path):
    fake = b"}\x94(h\2\x8c\1x\x94h\4\x8c\1x\x94h\6\x8c\1x\x94h\x08\x8c\1x\x94u" * 10
    raw = pickle.dumps([{**article(row), "text": f"{row:03}" + "#" * len(fake)} for row in range(40)], protocol=4)
    found = read(tmp_path / "a.pkl", raw.replace(b"#" * len(fake), fake))
    assert [each["title"] for each in found] == [f"Title {row}" for row in range(40)]


def test_a_number_in_the_place_of_a_key_is_no_key(tmp_path):
    raw = pickle.dumps([article(row) for row in range(40)], protocol=4).replace(b"h\4", b"K\4")
    assert list(pickle.loads(raw)[30]) == ["id", 4, "url", "text"]
    with pytest.raises(LocalDataError, match="article 1 has no title"):
        read(tmp_path / "a.pkl", raw)


def test_an_article_whose_items_nothing_marks_is_refused(tmp_path):
    raw = pickle.dumps([article(row) for row in range(40)], protocol=4)
    with pytest.raises(LocalDataError):
        read(tmp_path / "a.pkl", raw.replace(b"}\x94(h\2", b"}\x94Nh\2"))


def runs(articles, *, cut=0):
    """Those of a block that ends `cut` bytes before the articles do, and where it ends; `SPARE` bytes lie behind it."""
    raw = pickle.dumps(articles, protocol=4)
    template = Template.of(list(articles[0]), [None, None, "id", None, "title", None, "url", None, "text"])
    start, end = len(CONSTANTS), len(CONSTANTS) + len(raw) - cut
    room = np.frombuffer((CONSTANTS.tobytes() + raw + bytes(SPARE))[: end + SPARE], np.uint8)
    return list(template.runs(room, start, end, end - start).values()), end


def test_no_more_is_looked_at_behind_a_block_than_is_spare():
    (run,), _ = runs([{**article(row), "title": f"{row}".ljust(900 if row < 9 else 0)} for row in range(20)])
    assert len(run.records) == 19


@pytest.mark.parametrize("cut", range(2, 120))
def test_no_article_reaches_beyond_the_end_of_its_block(cut):
    (run,), end = runs([article(row) for row in range(20)], cut=cut)
    assert run.end <= end


def test_an_article_that_stands_in_the_list_twice_is_refused(tmp_path):
    articles = [article(row) for row in range(2000)]
    with pytest.raises(LocalDataError, match="is no dict of its own"):
        read(tmp_path / "a.pkl", pickle.dumps([*articles, articles[3]], protocol=4))


def test_an_article_that_is_changed_after_its_end_is_refused(tmp_path):
    raw = pickle.dumps([article(row) for row in range(30)], protocol=4)
    changed = raw[:-2] + b"\x8c\x05title\x8c\x01ose."  # SETITEM on the last article, then APPENDS and STOP
    assert pickle.loads(changed)[29]["title"] == "o"
    with pytest.raises(LocalDataError, match="changed after its end"):
        read(tmp_path / "a.pkl", changed)


def test_articles_within_a_tuple_are_refused(tmp_path):
    articles = [article(row) for row in range(40)]
    with pytest.raises(LocalDataError, match="is no dict of its own"):
        read(tmp_path / "a.pkl", pickle.dumps([articles[0], tuple(articles[1:30]), *articles[30:]], protocol=4))


@pytest.mark.parametrize("beginning", [b"\x94", b"}\x94", b"}\x94(", b"}\x94(h\x01", b"}\x94(h\x01\x8c\x01a\x94"])
def test_a_text_full_of_beginnings_takes_little_memory(tmp_path, beginning):
    path = tmp_path / "a.pkl"
    articles = [{**article(row), "text": beginning.decode("latin-1")} for row in range(2)]
    raw = pickle.dumps(articles, protocol=4)
    many = beginning * (8_000_000 // len(beginning))
    long = b"X" + len(many).to_bytes(4, "little") + many
    short = pickle.SHORT_BINUNICODE + bytes((len(articles[0]["text"].encode()),)) + articles[0]["text"].encode()
    path.write_bytes(raw.replace(short, long).replace(b"\x95" + raw[3:11], b"", 1))
    tracemalloc.start()
    try:
        found = list(read_articles(path))
        assert tracemalloc.get_traced_memory()[1] < 80_000_000
    finally:
        tracemalloc.stop()
    assert [each["id"] for each in found] == ["0", "1"]


@pytest.mark.parametrize("cut", range(1, 400))
def test_articles_cut_short_anywhere_are_refused(tmp_path, cut):
    raw = pickle.dumps([article(row) for row in range(3)], protocol=4)
    with pytest.raises(LocalDataError):
        read(tmp_path / "a.pkl", raw[:-cut])


def test_records_are_cut_where_each_ends_and_given_in_batches():
    records = Records.joined([Records.of([b"a", b"bc"]), Records.of([]), Records.of([b"def"])])
    assert [records[row] for row in range(3)] == [b"a", b"bc", b"def"]
    assert list(records.batches(2)) == [b"abc", b"def"]

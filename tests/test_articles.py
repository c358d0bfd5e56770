import io
import pickle
import threading
import tracemalloc
from pathlib import Path

import pytest

from embmerge import articlewalk
from embmerge.articles import count_articles, first_article, read_articles
from embmerge.errors import LocalDataError
from embmerge.records import Records, decode
from tests.shards import articles_of, make_articles

KEYS = ("title", "id", "url")


def kept(articles):
    return [{key: article.get(key) for key in KEYS} for article in articles]


def read(tmp_path, articles, protocol=4, pickler=pickle.dumps):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickler(articles, protocol=protocol))
    return list(read_articles(path))


@pytest.mark.parametrize("pickler", [pickle.dumps, pickle._dumps])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2500])
def test_title_id_and_url_are_those_of_pickle_load(tmp_path, count, protocol, pickler):
    assert read(tmp_path, articles_of(count), protocol, pickler) == kept(articles_of(count))


def test_long_texts_are_passed_over_wherever_a_block_ends(tmp_path):
    articles = [{"text": "é" * (row * 3001 % 700_000), "id": row, "title": f"t{row}", "url": "u"} for row in range(60)]
    assert read(tmp_path, articles) == kept(articles)


@pytest.mark.parametrize(
    "articles",
    [
        [{"title": "t", "id": 1, "url": "u"}, {"url": "u", "title": "other order", "id": "2"}] * 5,
        [{"title": "no id, no url"}, {"title": "no text", "id": 5, "url": None}],
        [{"title": "t", "id": number, "url": "u"} for number in (0, 255, 256, -1, 2**31, -(2**63), 2**100)],
        [
            {"title": text, "id": text, "url": text}
            for text in ("", "東京", "\x94", "a\x94b", "\ud83d", "x" * 5000, "é" * 99)
        ],
        [
            {"title": "t", "id": 1, "url": "u", "text": "x", "tags": ["a", "b"], "more": {"title": "inner"}}
            for _ in range(3)
        ],
        [
            {
                "id": 1,
                "title": "t",
                "url": "u",
                "score": 1.5,
                "flag": True,
                "nothing": None,
                "both": (1, 2),
                "three": (1, 2, 3),
            }
        ],
        [{"title": "same", "id": "same", "url": "same", "text": "same"}] * 1,
    ],
)
def test_articles_of_other_forms_are_read(tmp_path, articles):
    for protocol in (2, 4, 5):
        assert read(tmp_path, [dict(article) for article in articles], protocol) == kept(articles)


def test_bytes_and_sets_are_passed_over(tmp_path):
    more = {
        "raw": b"x" * 300,
        "long": b"x" * 70_000,
        "set": {1, 2},
        "frozen": frozenset({3}),
        "empty": (),
        "number": 1 << 3000,
        "buffer": bytearray(9),
    }
    articles = [{"id": row, "title": "t", "url": "u", **more} for row in range(3)]
    assert read(tmp_path, articles, 5) == kept(articles)


@pytest.mark.parametrize("row", [0, 1, 1500])
def test_a_title_that_is_a_number_is_named_wherever_it_stands(tmp_path, row):
    articles = articles_of(2000)
    articles[row]["title"] = 5
    with pytest.raises(LocalDataError, match=f"article {row:,} has no title"):
        read(tmp_path, articles)


def test_texts_that_articles_share_are_read(tmp_path):
    shared = str(articles_of(1)[0]["url"])
    articles = [{"id": row, "title": shared, "url": shared, "text": shared * 99} for row in range(1500)]
    assert read(tmp_path, articles) == kept(articles)


def test_a_long_text_that_was_passed_over_is_read_again_as_a_url(tmp_path):
    texts = [f"https://encyclopedia.example/{'x' * 60}/{row}" for row in range(1500)]
    articles = [{"link": text, "url": text, "id": text, "text": text, "title": text} for text in texts]
    assert read(tmp_path, articles) == kept(articles)


def test_a_text_of_many_kilobytes_is_no_title_when_it_is_recalled_either(tmp_path):
    text = "t" * 100_000
    with pytest.raises(LocalDataError, match="title, id or url of more than 65,536 bytes"):
        read(tmp_path, [{"text": text, "title": text}])


def test_a_text_of_many_kilobytes_may_be_recalled_as_anything_else(tmp_path):
    text = "t" * 100_000
    articles = [{"text": text, "again": text, "title": f"{row}", "more": [text]} for row in range(3)]
    assert read(tmp_path, articles) == kept(articles)


@pytest.mark.parametrize("most", [1, 100])
def test_a_file_may_give_few_bytes_at_a_time(tmp_path, most):
    class Dripping(io.FileIO):
        def readinto(self, view):
            return super().readinto(memoryview(view)[:most])

    with Dripping(make_articles(tmp_path / "a.pkl", 30)) as file:
        records = Records.joined(list(articlewalk.walk_articles(file)))
    assert [decode(records[row]) for row in range(30)] == kept(articles_of(30))


def test_articles_may_hold_many_short_texts_each(tmp_path):
    articles = [{"title": "t", "tags": [f"{row} {tag}" for tag in range(200)]} for row in range(2000)]
    assert read(tmp_path, articles) == kept(articles)


def test_an_article_within_an_article_may_be_named_again(tmp_path):
    within = {"title": "w", "id": 2, "url": None}
    articles = [{"title": "t", "id": 1, "url": "u", "more": within, "again": within}, within]
    assert read(tmp_path, articles) == kept(articles)


def test_ids_that_are_neither_text_nor_whole_numbers_become_none(tmp_path):
    articles = [{"title": "t", "id": value, "url": 5} for value in ("a", "b", 1.5, (1,), [2], {"a": 1})]
    assert [article["id"] for article in read(tmp_path, articles)] == ["a", "b", None, None, None, None]
    assert {article["url"] for article in read(tmp_path, articles)} == {None}


def test_an_article_without_a_title_is_named(tmp_path):
    articles = [*articles_of(1234), {"id": 5, "url": "u"}, *articles_of(3)]
    with pytest.raises(LocalDataError, match=r"a\.pkl is not an articles file: article 1,234 has no title"):
        read(tmp_path, articles)


@pytest.mark.parametrize(
    ("value", "said"), [({}, "not a list"), ((), "not a list"), ([[]], "item 0"), (["t"], "item 0")]
)
def test_what_is_no_list_of_dicts_is_refused(tmp_path, value, said):
    with pytest.raises(LocalDataError, match=said):
        read(tmp_path, value)


def test_a_title_beyond_all_bounds_is_refused(tmp_path):
    with pytest.raises(LocalDataError, match="title, id or url of 100,000 bytes"):
        read(tmp_path, [{"title": "t" * 100_000, "id": 1, "url": "u"}])


FIRST = b"}\x94(\x8c\5title\x8c\1tu"  # place 1 of the memo


@pytest.mark.parametrize(
    ("opcodes", "said"),
    [
        (b"](" + FIRST + b"e\x85.", "not a list"),  # within a tuple
        (b"}\x8c\1a](" + FIRST + b"es.", "not a list"),  # within a dict
        (b"(](" + FIRST + b"e.", "not a list"),
        (b"](" + FIRST + b"eN.", "not a list"),  # the list lies under what is given back
        (b"](}(\x8c\5title\x8c\1t\x8c\1x}(\x8c\1aeue.", "no list"),
        (b"]\x94(" + FIRST + b"e(}(\x8c\1xh\1\x8c\5title\x8c\4EVILsue.", "changed after its end"),
        (b"]\x94(" + FIRST.replace(b"\x94", b"\x94\x94") + b"e(}(\x8c\1xh\2\x8c\5title\x8c\1xsue.", "changed after"),
        (b"](}(\x8c\5title\x8c\1t\x8c\1cue.", "a key has no value"),
        (b"](\x8c\1a" + FIRST + b"\x90e.", "no set"),
        (b"](}(\x8c\5titleK\1\x94ue.", "no title"),
        (b"](}(\x8c\5title\x94\x8c\1t\x8c\1ah\0\x94ue.", "not numbered"),  # recalled, and remembered once more
    ],
)
def test_what_no_pickler_writes_is_refused(tmp_path, opcodes, said):
    (tmp_path / "a.pkl").write_bytes(b"\x80\4" + opcodes)
    with pytest.raises(LocalDataError, match=said):
        read_articles(tmp_path / "a.pkl")


@pytest.mark.parametrize("opcodes", [b"}", b"(", b"}\x94"])
def test_opcodes_that_belong_to_no_article_take_little_memory(tmp_path, opcodes):
    (tmp_path / "a.pkl").write_bytes(b"\x80\4](" + opcodes * (4_400_000 // len(opcodes)) + b"e.")
    tracemalloc.start()
    try:
        with pytest.raises(LocalDataError, match="too many values"):
            read_articles(tmp_path / "a.pkl")
        assert tracemalloc.get_traced_memory()[1] < 80_000_000
    finally:
        tracemalloc.stop()


def test_a_long_title_used_again_and_again_takes_little_memory(tmp_path):
    title = b"\x8c\5title\x94X" + (60_000).to_bytes(4, "little") + b"t" * 60_000 + b"\x94"  # places 0 and 1
    (tmp_path / "a.pkl").write_bytes(b"\x80\4](}(" + title + b"ue" + b"(}(h\0h\1ue" * 10_000 + b".")
    with pytest.raises(LocalDataError, match="repeat more than it holds"):
        read_articles(tmp_path / "a.pkl")


def test_counting_and_the_first_one_need_no_list(tmp_path):
    path = make_articles(tmp_path / "a.pkl", 1700)
    assert count_articles(path) == 1700
    assert first_article(path) == kept(articles_of(1))[0]
    path.write_bytes(pickle.dumps([]))
    assert count_articles(path) == 0
    assert first_article(path) is None


def test_articles_can_be_sliced_and_indexed(tmp_path):
    articles = read_articles(make_articles(tmp_path / "a.pkl", 30))
    assert articles[-1] == kept(articles_of(30))[-1]
    assert articles[3:6] == kept(articles_of(30))[3:6]
    assert len(articles) == 30


@pytest.mark.parametrize("row", [30, -31, 1000])
def test_there_is_no_article_beyond_the_last_or_before_the_first(tmp_path, row):
    articles = read_articles(make_articles(tmp_path / "a.pkl", 30))
    with pytest.raises(IndexError):
        articles[row]


def test_reading_ends_when_it_is_asked_to(tmp_path):
    stop = threading.Event()
    stop.set()
    assert len(read_articles(make_articles(tmp_path / "a.pkl", 2500), stop=stop)) < 2500


def test_a_missing_file_says_how_to_name_another(tmp_path):
    with pytest.raises(LocalDataError) as caught:
        read_articles(tmp_path / "none.pkl")
    assert "--articles" in caught.value.hint


def test_a_folder_in_its_place_is_an_error(tmp_path):
    with pytest.raises(LocalDataError, match="cannot read"):
        read_articles(tmp_path)


def one(number, **more):
    text = f"{number:03}" * 100  # of its own: one that articles share is recalled, and they look unlike the first one
    return {"title": f"title {number} ü", "id": number, "url": f"https://x.example/{number}", "text": text, **more}


@pytest.mark.parametrize("keys", [("url", "id", "title"), ("title", "url", "id"), ("id", "title", "url")])
def test_articles_may_turn_their_keys_later(tmp_path, keys):
    plain = [{"title": f"title {n}", "id": f"id {n}", "url": f"https://x.example/{n}"} for n in range(150)]
    turned = [{key: article[key] for key in keys} for article in plain]
    articles = plain[:50] + turned[50:100] + plain[100:]
    assert read(tmp_path, articles) == kept(articles)


@pytest.mark.parametrize(
    "later",
    [
        lambda n: one(n, more="later and longer"),
        lambda n: {key: value for key, value in one(n).items() if key != "text"},
        lambda n: one(n) | {"text": b"y" * 300},
    ],
)
def test_articles_may_have_other_values_later(tmp_path, later):
    articles = [one(n) for n in range(50)] + [later(n) for n in range(50)] + [one(n) for n in range(5)]
    assert read(tmp_path, articles) == kept(articles)


@pytest.mark.parametrize("count", [1, 20])
def test_a_title_that_is_bytes_is_none(tmp_path, count):
    with pytest.raises(LocalDataError, match="article 50 has no title"):
        read(tmp_path, [one(n) for n in range(50)] + [one(n) | {"title": b"%3d" % n * 100} for n in range(count)])


@pytest.mark.parametrize("key", ["title", "id", "url"])
def test_a_text_that_is_not_utf8_is_refused_among_articles_that_look_alike(tmp_path, key):
    articles = [one(n) | {key: f"wrong {n}"} for n in range(50)]
    raw = pickle.dumps(articles, 4).replace(b"wrong 40", b"wrong \xff\xff")
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(LocalDataError, match="damaged or cut short"):
        read_articles(tmp_path / "a.pkl")


@pytest.mark.parametrize("size", range(700, 1300, 3))
def test_long_ids_may_lie_at_any_place_of_a_block(tmp_path, monkeypatch, size):
    monkeypatch.setattr(articlewalk, "_BLOCK", size)
    articles = [one(n) | {"id": (0x7A << 118) + n} for n in range(30)] + [one(n) for n in range(30)]
    assert read(tmp_path, articles) == kept(articles)


def test_articles_cut_at_any_place_of_any_block_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(articlewalk, "_BLOCK", 300)
    raw = pickle.dumps([one(n, text=f"{n}" * 9) for n in range(8)], 4)
    path = tmp_path / "a.pkl"
    for end in range(3, len(raw)):
        path.write_bytes(raw[:end])
        with pytest.raises(LocalDataError):
            read_articles(path)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_what_follows_the_end_is_noticed_wherever_a_block_ends(tmp_path, monkeypatch, parts):
    raw = pickle.dumps([one(n) for n in range(20)], 4)
    monkeypatch.setattr(articlewalk, "_BLOCK", -(-len(raw) // parts))
    (tmp_path / "a.pkl").write_bytes(raw + b"junk")
    with pytest.raises(LocalDataError, match="follows its end"):
        read_articles(tmp_path / "a.pkl")


def test_keys_may_stand_anywhere_in_the_memo(tmp_path):
    articles = [{f"key {k}": k for k in range(300)} | one(n) for n in range(20)]
    assert read(tmp_path, articles) == kept(articles)


def test_a_memo_that_is_numbered_otherwise_is_refused(tmp_path):
    raw = b"\x80\x02](}(X\x05\0\0\0titleq\x07X\x01\0\0\0Aq\x09X\x02\0\0\0idq\x0bK\x01X\x03\0\0\0urlNu}(h\x07h\x09ue."
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(LocalDataError, match="not numbered"):
        read_articles(tmp_path / "a.pkl")


def test_an_articles_file_that_may_not_be_looked_for_is_an_error_of_the_articles(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(LocalDataError, match=r"cannot read the articles file .*: Permission denied"):
        read_articles(tmp_path / "a.pkl")

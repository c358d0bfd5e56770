import math
import tracemalloc

import pytest

from embmerge.errors import LocalDataError
from embmerge.mergedfile.jsontext import (
    METADATA_LIMIT,
    check_article,
    check_metadata,
    dump,
    from_strings,
    load,
    to_strings,
)
from tests.mergedsets import metadata_of, rows_of


def shared(levels, width):
    """A list that takes a few hundred bytes in a pickle, and `width ** levels` values when walked."""
    value = []
    for _ in range(levels):
        value = [value] * width
    return value


@pytest.mark.parametrize("field", ["title", "id", "url"])
@pytest.mark.parametrize("text", ["t" * 65_537, "é" * 32_769])
def test_an_article_that_no_pkl_would_be_read_with_is_refused(field, text):
    article = {"title": "t", "id": 1, "url": None, field: text}
    with pytest.raises(LocalDataError, match=r"article 7 has a title, id or url of more than 65,536 bytes"):
        check_article(article, "x.npy", 7)


def test_the_longest_text_of_an_article_is_taken():
    article = {"title": "é" * 32_768, "id": 1, "url": None}
    assert check_article(article, "x.npy", 7) == article


def test_metadata_survives_as_a_document():
    metadata = metadata_of(rows_of())
    assert check_metadata(load(dump(metadata), "x"), (500, 24), "x") == metadata


def test_metadata_survives_as_texts():
    metadata = metadata_of(rows_of())
    assert check_metadata(from_strings(to_strings(metadata), "x"), (500, 24), "x") == metadata


def test_a_model_that_is_a_number_in_letters_stays_text():
    assert from_strings(to_strings({"model": "123", "timestamp": None}), "x") == {"model": "123", "timestamp": None}


def test_what_json_cannot_say_becomes_none():
    assert load(dump({"a": [math.nan, math.inf, 1.5]}), "x") == {"a": [None, None, 1.5]}


@pytest.mark.parametrize("container", [b"[]", b"{}", b'{"":0}', b"[" * 90 + b"]" * 90])
def test_a_document_of_containers_alone_costs_little(container):
    document = b'{"x":[' + b",".join([container] * (METADATA_LIMIT // (len(container) + 2))) + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(LocalDataError, match=r"^x: its metadata has more than 16,384 lists and objects$"):
            load(document, "x")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [shared(3, 1000), shared(20, 2), b"x", {1: 2}, 1 << 200, object(), {"a": {1, 2}}])
def test_values_that_are_not_plain_or_too_many_are_refused(value):
    with pytest.raises(LocalDataError, match=r"^x: its metadata holds more than plain values, or too many$"):
        check_metadata({**metadata_of(rows_of()), "more": value}, (500, 24), "x")


@pytest.mark.parametrize("key", [2**127, -(2**127)])
def test_an_id_that_a_pickle_has_no_room_for_is_refused(key):
    with pytest.raises(LocalDataError, match=r"^x: article 7 is not a title, an id and a url$"):
        check_article({"title": "t", "id": key, "url": None}, "x", 7)


@pytest.mark.parametrize("dim", [0, 1 << 24])
def test_rows_of_no_columns_or_of_more_than_any_model_has_are_refused(dim):
    with pytest.raises(LocalDataError, match=r"^x: its metadata does not speak of 3 rows of "):
        check_metadata({**metadata_of(rows_of(3)), "embedding_dim": dim}, (3, dim), "x")


def test_rows_may_have_as_many_columns_as_a_shards():
    check_metadata({**metadata_of(rows_of(3)), "embedding_dim": (1 << 24) - 1}, (3, (1 << 24) - 1), "x")


def test_metadata_that_no_reader_would_take_is_not_written():
    for write in (dump, to_strings):
        with pytest.raises(LocalDataError, match="metadata would be longer than") as caught:
            write({"more": "x" * METADATA_LIMIT})
        assert ".pkl" in caught.value.hint


def test_metadata_beyond_the_limit_is_refused_though_it_is_fine_otherwise():
    with pytest.raises(LocalDataError, match=r"^x: its metadata is longer than 1,572,864 bytes$"):
        load(b"{}" + b" " * METADATA_LIMIT, "x")
    with pytest.raises(LocalDataError, match=r"^x: its metadata is longer than 1,572,864 bytes$"):
        from_strings({"model": "x" * METADATA_LIMIT, "timestamp": "y"}, "x")


def test_long_texts_count_as_too_many_values():
    with pytest.raises(LocalDataError, match=r"^x: its metadata holds more than plain values, or too many$"):
        check_metadata({**metadata_of(rows_of(3)), "more": ["x" * (2 << 20)] * 3}, (3, 24), "x")


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("quality_metrics", "has_nan", 0),
        ("quality_metrics", "has_inf", "no"),
        ("quality_metrics", "zero_rows", 1.0),
        ("quality_metrics", "dtype", 4),
        ("chunk_info", "rate", "1"),
        ("chunk_info", "processing_time", True),
        ("chunk_info", "nbytes", "1"),
        ("chunk_info", "mtime", 1.5),
        ("chunk_info", "cluster", 1),
        ("chunk_info", "filepath", 1),
        ("chunk_info", "sha256", [0]),
    ],
)
def test_a_field_of_another_type_is_named(part, field, value):
    metadata = metadata_of(rows_of(3), shards=1)
    entry = metadata[part] if part == "quality_metrics" else metadata[part][0]
    entry[field] = value
    with pytest.raises(LocalDataError, match=rf"^x: its metadata has a {field} of another type$"):
        check_metadata(metadata, (3, 24), "x")


def test_a_name_with_terminal_escapes_is_shown_harmlessly():
    with pytest.raises(LocalDataError) as caught:
        from_strings({"\x1b[2J": "{"}, "x\ny")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("change", [{"embedding_dim": 1.0}, {"embedding_dim": True}, {"total_articles": 3.0}])
def test_a_size_that_only_equals_a_whole_number_is_refused(change):
    with pytest.raises(LocalDataError, match=r"^x: its metadata does not speak of 3 rows of 1$"):
        check_metadata({**metadata_of(rows_of(3, 1)), **change}, (3, 1), "x")


def chunks_of(*ranges):
    return {"chunk_info": [{"start_index": start, "end_index": end} for start, end in ranges]}


@pytest.mark.parametrize("ranges", [[(0, 40)] * 2, [(20, 40), (0, 20)], [(0, 21), (20, 40)], [(-1, 40)], [(40, 0)]])
def test_shards_whose_rows_do_not_follow_one_another_are_refused(ranges):
    with pytest.raises(LocalDataError, match=rf"^x: the rows of shard {len(ranges)} in its chunk_info do not follow"):
        check_metadata(metadata_of(rows_of(40)) | chunks_of(*ranges), (40, 24), "x")


@pytest.mark.parametrize("ranges", [[], [(0, 20), (20, 40)], [(0, 20), (None, 30), (30, 50)], [(0, 0), (0, 40)]])
def test_shards_whose_rows_follow_one_another_are_fine(ranges):
    metadata = metadata_of(rows_of(40)) | chunks_of(*ranges)
    assert check_metadata(metadata, (40, 24), "x") == metadata


def test_more_shards_than_a_report_can_compare_are_refused():
    with pytest.raises(LocalDataError, match=r"^x: its chunk_info has 4,097 shards, and 4,096 are the most$"):
        check_metadata(metadata_of(rows_of(40)) | chunks_of(*[(0, 0)] * 4097), (40, 24), "x")

import contextlib
import json
import subprocess
import sys
import tempfile

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embmerge.errors import LocalDataError
from embmerge.mergedfile.jsontext import to_strings
from embmerge.mergedfile.parquet import ParquetMerged
from embmerge.mergedfile.parquetpages import pages, read_footer
from embmerge.mergedfile.thrift import read_struct
from tests.mergedsets import articles_of, metadata_of, rows_of, write_set


def numbered(count=500, site="encyclopedia.example"):
    return [{**article, "id": 10**12 + row} for row, article in enumerate(articles_of(count, site))]


def written(folder, rows=None, articles=None):
    rows = rows_of() if rows is None else rows
    return write_set(folder / "set.parquet", rows, numbered(len(rows)) if articles is None else articles)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_pyarrow_reads_what_was_written(tmp_path, dtype):
    rows = rows_of(dtype=dtype)
    table = pq.read_table(written(tmp_path, rows))
    assert table.schema.field("embedding").type.list_size == 24
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 24)
    assert vectors.dtype == rows.dtype
    assert np.array_equal(vectors, rows)
    assert table.select(["title", "id", "url"]).to_pylist() == numbered()
    assert table.schema.metadata[b"model"] == b"all-tests-v1"
    assert json.loads(table.schema.metadata[b"quality_metrics"])["dtype"] == rows.dtype.name


def test_polars_reads_what_was_written(tmp_path):
    frame = pl.read_parquet(written(tmp_path))
    assert frame.schema["embedding"] == pl.Array(pl.Float32, 24)
    assert np.array_equal(frame["embedding"].to_numpy(), rows_of())
    assert frame.select("title", "id", "url").to_dicts() == numbered()


def test_duckdb_reads_what_was_written(tmp_path):
    found = duckdb.sql(f"select * from '{written(tmp_path)}' where id = 1000000000123").fetchall()
    ((title, key, url, vector),) = found
    assert {"title": title, "id": key, "url": url} == numbered()[123]
    assert np.array_equal(np.array(vector, "f4"), rows_of()[123])


def test_big_endian_rows_are_turned_around(tmp_path):
    merged = ParquetMerged(written(tmp_path, rows_of(dtype=">f4")))
    assert np.array_equal(merged.rows(0, 500), rows_of())


def test_it_reads_back_what_it_was_given(tmp_path):
    merged = ParquetMerged(written(tmp_path))
    assert merged.shape == (500, 24)
    assert np.array_equal(merged.rows(123, 456), rows_of()[123:456])
    assert list(merged.articles()) == numbered()
    assert merged.metadata == metadata_of(rows_of())


def test_ids_that_are_partly_text_become_text(tmp_path):
    merged = ParquetMerged(written(tmp_path, articles=articles_of()))
    assert [article["id"] for article in merged.articles()] == [str(row) for row in range(500)]


def test_a_number_beyond_64_bits_makes_the_ids_text(tmp_path):
    articles = [*numbered()[:-1], {"title": "last", "id": 2**63, "url": None}]
    assert list(ParquetMerged(written(tmp_path, articles=articles)).articles())[-1]["id"] == str(2**63)


def test_all_numbers_of_64_bits_stay_numbers(tmp_path):
    articles = [{"title": "", "id": key, "url": None} for key in (-(2**63), 0, 2**63 - 1)]
    assert list(ParquetMerged(written(tmp_path, rows_of(3), articles)).articles()) == articles


def test_an_article_without_an_id_has_none_among_texts_too(tmp_path):
    articles = [{"title": "", "id": key, "url": None} for key in ("a", None, "b")]
    assert list(ParquetMerged(written(tmp_path, rows_of(3), articles)).articles()) == articles


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    merged = ParquetMerged(written(tmp_path, rows_of(1), [{"title": "\ud83d", "id": 1, "url": None}]))
    assert next(merged.articles())["title"] == "?"


def test_rows_are_found_in_whichever_row_group_they_lie(tmp_path):
    rows = rows_of(3, 3 << 20)
    path = written(tmp_path, rows)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert np.array_equal(ParquetMerged(path).rows(1, 3), rows[1:])


def test_mixed_ids_in_different_row_groups_become_text_in_all(tmp_path):
    articles = [{"title": "", "id": 1, "url": ""}, {"title": "", "id": "2", "url": ""}]
    merged = ParquetMerged(written(tmp_path, rows_of(2, 3 << 20), articles))
    assert [article["id"] for article in merged.articles()] == ["1", "2"]


def test_no_rows_at_all_are_a_file_too(tmp_path):
    path = written(tmp_path, rows_of(0))
    assert pq.read_table(path).num_rows == 0
    assert ParquetMerged(path).shape == (0, 24)
    assert list(ParquetMerged(path).articles()) == []


def test_nothing_but_the_output_is_left(tmp_path):
    assert [written(tmp_path)] == list(tmp_path.iterdir())


def test_rows_wait_on_the_disk_of_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    assert ParquetMerged(written(tmp_path)).shape == (500, 24)


def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path):
    before = written(tmp_path).read_bytes()
    with pytest.raises(TypeError):
        written(tmp_path, rows_of(5), [None] * 5)
    assert (tmp_path / "set.parquet").read_bytes() == before


def test_without_pyarrow_the_pip_line_is_told():
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; import numpy; from embmerge.errors import UsageError\n"
        "from embmerge.mergedfile.parquet import ParquetWriter\n"
        "try: ParquetWriter(Path('x.parquet'), 1, 1, numpy.dtype('f4'))\n"
        "except UsageError as error: print(error, error.hint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install pyarrow" in run.stdout


VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False), 24)


def table_of(articles=None, vectors=None):
    """What we write, as pyarrow's own table, to be spoilt."""
    table = pa.Table.from_pylist(numbered() if articles is None else articles)
    if vectors is None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows_of().reshape(-1)), type=VECTOR)
    table = table.append_column(pa.field("embedding", vectors.type, nullable=False), vectors)
    return table.replace_schema_metadata(to_strings(metadata_of(rows_of())))


def column(table, number, name, values):
    return table.set_column(number, name, values)


def metadata(table, **texts):
    return table.replace_schema_metadata({**table.schema.metadata, **texts})


PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False}
STRANGE = {
    "no metadata": lambda t: t.replace_schema_metadata(None),
    "metadata of something else": lambda t: t.replace_schema_metadata({b"\xff": b"\xff"}),
    "more columns": lambda t: t.append_column("more", t["title"]),
    "columns in another order": lambda t: t.select(["id", "title", "url", "embedding"]),
    "vectors of integers": lambda t: column(t, 3, "embedding", pa.array([[1] * 24] * 500)),
    "vectors that may be missing": lambda t: column(t, 3, "embedding", t["embedding"]),
    "longer vectors": lambda t: metadata(t, embedding_dim="25"),
    "vectors of a length that is no whole number": lambda t: metadata(t, embedding_dim="24.0"),
    "vectors of a length that is no number": lambda t: metadata(t, embedding_dim="[]"),
    "titles of bytes": lambda t: column(t, 0, "title", pa.array([b"\xff"] * 500)),
    "ids of floats": lambda t: column(t, 1, "id", t["id"].cast(pa.float64())),
    "fewer rows than the metadata says": lambda t: t.slice(1),
    "nested titles": lambda t: column(t, 0, "title", pa.array([["x"]] * 500)),
}


@pytest.mark.parametrize("spoil", STRANGE.values(), ids=STRANGE)
def test_a_table_of_something_else_is_refused(tmp_path, spoil):
    path = tmp_path / "set.parquet"
    pq.write_table(spoil(table_of()), path, **PLAIN)
    with pytest.raises(LocalDataError, match=r"^set\.parquet: its? "):
        list(ParquetMerged(path).articles())


def test_the_table_that_the_strange_ones_are_made_of_is_fine(tmp_path):
    path = tmp_path / "set.parquet"
    pq.write_table(table_of(), path, **PLAIN)
    assert np.array_equal(ParquetMerged(path).rows(0, 500), rows_of())


@pytest.mark.parametrize("how", [{"compression": "zstd"}, {"use_dictionary": True}, {"data_page_version": "2.0"}])
def test_pages_that_could_unfold_are_refused(tmp_path, how):
    path = tmp_path / "set.parquet"
    pq.write_table(table_of(), path, **{**PLAIN, **how})
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is not a \.parquet file as merge writes it"):
        list(ParquetMerged(path).articles())


def test_lists_of_other_lengths_are_refused(tmp_path):
    path = tmp_path / "set.parquet"
    lists = pa.array([[1.0] * 23] * 500, pa.list_(VECTOR.value_field))
    pq.write_table(table_of(vectors=lists), path, **PLAIN)
    with pytest.raises(LocalDataError, match="the columns of a row group differ in length"):
        ParquetMerged(path)


def test_a_missing_title_is_refused(tmp_path):
    articles = numbered()
    articles[7]["title"] = None
    path = tmp_path / "set.parquet"
    pq.write_table(table_of(articles=articles), path, **PLAIN)
    with pytest.raises(LocalDataError, match="article 7 is not a title"):
        list(ParquetMerged(path).articles())


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace("東京".encode(), b"\xff" * 6))
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is not a \.parquet file as merge writes it"):
        list(ParquetMerged(path).articles())


@pytest.mark.parametrize("kept", [0, 3, 4, 8, 12, 100, -1, -8, -100])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is "):
        ParquetMerged(path)


@pytest.mark.parametrize("length", [0, 1, 100, 2**31, 2**32 - 1])
def test_a_forged_footer_length_is_refused(tmp_path, length):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-8] + length.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is "):
        ParquetMerged(path)


def varint(number):
    return bytes((number,)) if number < 128 else bytes((number & 127 | 128,)) + varint(number >> 7)


def thrift(value):
    """(kind, opcodes) of a value in Thrift's compact protocol, as `read_struct` gives it; every number has 64 bits."""
    if isinstance(value, bool):
        return (1 if value else 2), b""
    if isinstance(value, int):
        return 6, varint(2 * value if value >= 0 else -2 * value - 1)
    if isinstance(value, bytes):
        return 8, varint(len(value)) + value
    if isinstance(value, list):
        items = [thrift(each) for each in value]
        return 9, bytes((0xF0 | (items[0][0] if items else 12),)) + varint(len(items)) + b"".join(i[1] for i in items)
    fields = ((key, *thrift(each)) for key, each in value.items())
    return 12, b"".join(bytes((kind,)) + thrift(key)[1] + opcodes for key, kind, opcodes in fields) + b"\0"


def forge(path, change):
    """Let `change` edit the footer, as a dict by field number, in place."""
    content = path.read_bytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer, _ = read_struct(content[at:])
    change(footer)
    new = thrift(footer)[1]
    path.write_bytes(content[:at] + new + len(new).to_bytes(4, "little") + b"PAR1")


def forge_page(path, column, change, before=b""):
    """Let `change` edit the header of a column's first page, in a copy of it behind the others and `before`."""
    content = path.read_bytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    chunk = read_struct(content[at:])[0][4][0][1][column][3]
    pages = content[chunk[9] : chunk[9] + chunk[7]]
    header, length = read_struct(pages)
    change(header)
    new = before + thrift(header)[1] + pages[length:]
    path.write_bytes(content[:at] + new + content[at:])
    forge(path, lambda footer: footer[4][0][1][column][3].update({6: len(new), 7: len(new), 9: at}))


def chunk_of(footer, column=3):
    return footer[4][0][1][column][3]


def claim_rows(footer, count):
    """Have the footer speak of `count` rows wherever it does."""
    footer[3] = footer[4][0][3] = count
    for column in range(4):
        chunk_of(footer, column)[5] = count * (24 if column == 3 else 1)
    (said,) = [pair for pair in footer[5] if pair[1] == b"total_articles"]
    said[2] = str(count).encode()


FOOTERS = {
    "more rows than its groups": lambda f: f.update({3: 501}),
    "a group of many rows": lambda f: claim_rows(f, 1 << 17),
    "fewer rows than none": lambda f: claim_rows(f, -1),
    "a compressed column": lambda f: chunk_of(f).update({4: 1}),
    "a column that would unfold": lambda f: chunk_of(f).update({6: chunk_of(f)[7] + 1}),
    "a dictionary": lambda f: chunk_of(f).update({11: 4}),
    "a column of another kind": lambda f: chunk_of(f).update({1: 5}),
    "a column beyond the end": lambda f: chunk_of(f).update({9: 10**6}),
    "a column before the beginning": lambda f: chunk_of(f).update({9: -4}),
    "a column that ends beyond the end": lambda f: chunk_of(f).update({6: 10**6, 7: 10**6}),
    "a column of less than nothing": lambda f: chunk_of(f).update({6: -1, 7: -1}),
    "a column that begins at a text": lambda f: chunk_of(f).update({9: b"4"}),
    "a group without a column": lambda f: f[4][0][1].pop(),
    "a column that is not as long": lambda f: chunk_of(f, 2).update({5: 499}),
}


@pytest.mark.parametrize("change", FOOTERS.values(), ids=FOOTERS)
def test_a_forged_footer_is_refused_at_once(tmp_path, change):
    path = written(tmp_path)
    forge(path, change)
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is not a \.parquet file as merge writes it"):
        ParquetMerged(path)


def read_all(path):
    with contextlib.closing(ParquetMerged(path)) as merged:
        return merged.rows(0, 500).tobytes(), list(merged.articles())


def test_the_footer_and_the_page_that_forged_ones_are_made_of_are_fine(tmp_path):
    path = written(tmp_path)
    expected = read_all(path)
    forge(path, lambda _footer: None)
    for column in range(4):
        forge_page(path, column, lambda _header: None)
    assert read_all(path) == expected


PAGES = {
    "of another type": lambda h: h.update({1: 2}),
    "that would unfold": lambda h: h.update({2: h[2] + 1}),
    "that is said to be packed": lambda h: h.update({3: h[3] - 1}),
    "of places in a dictionary": lambda h: h[5].update({2: 8}),
    "of other levels": lambda h: h[5].update({3: 4}),
    "of levels that are other ones": lambda h: h[5].update({4: 4}),
    "of more values than the column has": lambda h: h[5].update({1: h[5][1] + 24}),
    "of fewer values than the column has": lambda h: h[5].update({1: h[5][1] - 24}),
    "of less than no values": lambda h: h[5].update({1: -24}),
    "that is longer than the column": lambda h: h.update({2: h[2] + 8, 3: h[3] + 8}),
    "that is shorter than the column": lambda h: h.update({2: h[2] - 8, 3: h[3] - 8}),
    "of less than nothing": lambda h: h.update({2: -8, 3: -8}),
    "without a size": lambda h: h.pop(3),
}


@pytest.mark.parametrize("column", [0, 1, 3], ids=["titles", "ids", "rows"])
@pytest.mark.parametrize("change", PAGES.values(), ids=PAGES)
def test_a_forged_page_is_refused(tmp_path, column, change):
    path = written(tmp_path)
    forge_page(path, column, change)
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is not a \.parquet file as merge writes it"):
        read_all(path)


@pytest.mark.parametrize("change", [-1, 1])
def test_vectors_that_do_not_fill_their_page_are_refused(tmp_path, change):
    path = written(tmp_path)
    with path.open("rb") as file:
        page = next(pages(file, read_footer(file, 1 << 20).groups[0][1][3]))
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[page.start : page.start + 4], "little")
    levels = page.start + 4 + first  # the length of the second ones, behind which the floats begin
    content[levels] += change
    path.write_bytes(content)
    with pytest.raises(LocalDataError, match="a page of vectors is not as large as they are"):
        read_all(path)


def test_a_title_that_ends_beyond_its_page_is_refused(tmp_path):
    path = written(tmp_path)
    last = numbered()[-1]["title"].encode()
    content = path.read_bytes()
    assert content.count(len(last).to_bytes(4, "little") + last) == 1
    path.write_bytes(content.replace(len(last).to_bytes(4, "little") + last, b"\xff\0\0\0" + last))
    with pytest.raises(LocalDataError, match="a text is cut short"):
        read_all(path)


def test_pages_of_nothing_that_only_cost_time_are_refused(tmp_path):
    path = written(tmp_path)
    nothing = thrift({1: 0, 2: 0, 3: 0, 5: {1: 0, 2: 0, 3: 3, 4: 3}})[1]
    forge_page(path, 0, lambda _header: None, nothing * 100)
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is not a \.parquet file as merge writes it"):
        read_all(path)


def test_a_page_of_many_megabytes_is_refused(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    page = thrift({1: 0, 2: 17 << 20, 3: 17 << 20, 5: {1: 500, 2: 0, 3: 3, 4: 3}})[1] + bytes(17 << 20)
    path.write_bytes(content[:at] + page + content[at:])
    forge(path, lambda footer: chunk_of(footer, 0).update({6: len(page), 7: len(page), 9: at}))
    with pytest.raises(LocalDataError, match="a number is not what it can be"):
        read_all(path)


@pytest.mark.parametrize("magic", [b"PARE", b"PAR2", b"\0\0\0\0"])
def test_a_file_that_ends_otherwise_is_refused(tmp_path, magic):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-4] + magic)
    with pytest.raises(LocalDataError, match="it is cut short, or its footer is too long"):
        ParquetMerged(path)


def test_a_page_header_that_announces_more_values_than_the_column_has_is_refused(tmp_path):
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xe8\x07", 4, 40)  # twice 500, as Thrift's compact protocol has it
    content[at + 1] = 0x7F
    path.write_bytes(content)
    with pytest.raises(LocalDataError, match=r"^set\.parquet: it is not a \.parquet file as merge writes it"):
        list(ParquetMerged(path).articles())


def test_no_change_of_a_bit_does_more_than_an_error(tmp_path):
    """pyarrow itself ends the process over some of these."""
    path = written(tmp_path, rows_of(5, 3), numbered(5))
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << (at // 3) % 8
        path.write_bytes(spoilt)
        with contextlib.suppress(LocalDataError), contextlib.closing(ParquetMerged(path)) as merged:
            assert merged.rows(0, 99).shape == merged.shape
            assert len(list(merged.articles())) == merged.shape[0]


def test_rows_of_several_pages_are_read_from_any_place(tmp_path):
    rows = rows_of(6000, 256)
    merged = ParquetMerged(written(tmp_path, rows))
    for start, stop in ((0, 6000), (2500, 2600), (1000, 5999), (5999, 6000)):
        assert np.array_equal(merged.rows(start, stop), rows[start:stop])
    merged.close()


def test_levels_of_a_number_without_end_are_refused(tmp_path):
    path = write_set(tmp_path / "m.parquet", rows_of(40), articles_of(40))
    with contextlib.closing(ParquetMerged(path)) as merged:
        page = next(iter(pages(merged._file, merged._chunks[0][0])))
    raw = bytearray(path.read_bytes())
    raw[page.start : page.start + 14] = (11).to_bytes(4, "little") + b"\xff" * 9 + b"\x7f"
    path.write_bytes(raw)
    with contextlib.closing(ParquetMerged(path)) as merged, pytest.raises(LocalDataError):
        list(merged.articles())

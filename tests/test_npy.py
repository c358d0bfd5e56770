import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from embmerge.errors import DiskError, LocalDataError, UsageError
from embmerge.mergedfile import npy, open_merged
from embmerge.mergedfile.npy import NpyMerged, _edges
from tests.disktrace import DiskTrace
from tests.mergedsets import articles_of, metadata_of, rows_of, write_set

NAMES = ["set.articles.jsonl", "set.json", "set.npy"]


def written(folder, rows=None):
    rows = rows_of() if rows is None else rows
    return write_set(folder / "set.npy", rows)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_numpy_maps_what_was_written(tmp_path, dtype):
    rows = rows_of(dtype=dtype)
    mapped = np.load(written(tmp_path, rows), mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.dtype == rows.dtype
    assert np.array_equal(mapped, rows)


def test_any_json_reader_reads_what_lies_beside_it(tmp_path):
    written(tmp_path)
    lines = (tmp_path / "set.articles.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == articles_of()
    assert json.loads((tmp_path / "set.json").read_text())["model"] == "all-tests-v1"


def test_it_reads_back_what_it_was_given(tmp_path):
    merged = NpyMerged(written(tmp_path))
    assert merged.shape == (500, 24)
    assert np.array_equal(merged.rows(123, 456), rows_of()[123:456])
    assert list(merged.articles()) == articles_of()
    assert merged.metadata == metadata_of(rows_of())


def test_two_readers_of_the_articles_do_not_disturb_each_other(tmp_path):
    merged = NpyMerged(written(tmp_path))
    assert [pair[0] == pair[1] for pair in zip(merged.articles(), merged.articles(), strict=True)] == [True] * 500


def test_half_a_surrogate_pair_in_a_title_survives(tmp_path):
    articles = [{"title": "\ud83d", "id": 1, "url": None}]
    rows = rows_of(1)
    merged = NpyMerged(write_set(tmp_path / "set.npy", rows, articles))
    assert list(merged.articles()) == articles


def test_the_longest_texts_and_number_that_merge_takes_survive(tmp_path):
    text = "\0" * 65_536  # six times as long in JSON
    articles = [{"title": text, "id": text, "url": text}, {"title": text, "id": 2**127 - 1, "url": None}]
    merged = NpyMerged(write_set(tmp_path / "set.npy", rows_of(2), articles))
    assert list(merged.articles()) == articles


def test_no_rows_at_all_are_a_set_too(tmp_path):
    assert np.load(written(tmp_path, rows_of(0)), mmap_mode=None).shape == (0, 24)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    written(tmp_path)
    before = contents(tmp_path)
    written(tmp_path)
    assert contents(tmp_path) == before


def test_a_write_that_fails_midway_leaves_the_old_set(tmp_path):
    written(tmp_path)
    before = contents(tmp_path)

    def articles():
        yield from articles_of(3)
        raise EOFError("the articles file is gone")

    with pytest.raises(EOFError):
        write_set(tmp_path / "set.npy", rows_of(7), articles())
    assert contents(tmp_path) == before


ROOT = Path(__file__).parents[1]
STOPS_BEFORE_A_RENAME = """
import os, sys
from pathlib import Path
from tests.test_npy import rows_of, written

left = int(sys.argv[2])

def stop(event, _args):  # Python tells its audit hooks of a rename before it happens
    global left
    if event == "os.rename":
        left -= 1
        if left < 0:
            os._exit(9)

sys.addaudithook(stop)
written(Path(sys.argv[1]), rows_of(60))
"""


@pytest.mark.parametrize("renames", range(6))
def test_killed_between_any_two_renames_the_set_is_the_old_or_the_new_one(tmp_path, renames):
    old, new = rows_of(40), rows_of(60)
    written(tmp_path, old)
    argv = [sys.executable, "-c", STOPS_BEFORE_A_RENAME, tmp_path, str(renames)]
    assert subprocess.run(argv, check=False, cwd=ROOT).returncode == 9
    merged = NpyMerged(tmp_path / "set.npy")
    expected = old if renames < 3 else new
    assert np.array_equal(merged.rows(0, 60), expected)
    assert list(merged.articles()) == articles_of(len(expected))
    assert merged.metadata == metadata_of(expected)
    written(tmp_path, new)
    assert sorted(contents(tmp_path)) == NAMES


def test_a_reader_meanwhile_sees_the_old_or_the_new_set(tmp_path):
    written(tmp_path, rows_of(40))
    done = threading.Event()

    def replace():
        for number in range(40):
            written(tmp_path, rows_of(40 + number % 2))
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    seen = set()
    while not done.is_set():
        merged = NpyMerged(tmp_path / "set.npy")
        assert np.array_equal(merged.rows(0, 99), rows_of(merged.shape[0]))
        assert len(list(merged.articles())) == merged.shape[0]
        seen.add(merged.shape[0])
        merged.close()
    thread.join()
    assert seen <= {40, 41}


@pytest.mark.parametrize("renames", range(6))
def test_a_rename_that_fails_leaves_the_old_or_the_new_set(tmp_path, monkeypatch, renames):
    written(tmp_path, rows_of(40))
    replace, done = Path.replace, []

    def failing(path, target):
        if len(done) == renames:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done.append(target)
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(DiskError, match="cannot write"):
            written(tmp_path, rows_of(60))
    expected = rows_of(40 if renames < 3 else 60)
    merged = NpyMerged(tmp_path / "set.npy")
    assert np.array_equal(merged.rows(0, 99), expected)
    assert list(merged.articles()) == articles_of(len(expected))


def test_a_replacement_is_decided_on_the_disk_before_a_file_of_the_old_set_goes(tmp_path, monkeypatch):
    written(tmp_path)
    trace = DiskTrace(monkeypatch)
    written(tmp_path)
    renames = [at for at, step in enumerate(trace.steps) if step[0] == "rename"]
    assert [trace.steps[at][2].name for at in renames[2:4]] == [".set.json.next", "set.npy"]
    assert ("sync", tmp_path, None) in trace.steps[renames[2] : renames[3]]


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_articles_than_rows_gets_no_name(tmp_path, count):
    with pytest.raises(DiskError, match=r"set\.npy does not read back as it was written$"):
        write_set(tmp_path / "set.npy", rows_of(5), articles_of(count), metadata_of(rows_of(5)))
    assert contents(tmp_path) == {}


def test_a_reader_waits_for_whoever_gives_a_set_its_names(tmp_path):
    path, opened = written(tmp_path), []
    reader = threading.Thread(target=lambda: opened.append(NpyMerged(path)))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        reader.start()
        reader.join(0.1)
        assert not opened
    finally:
        os.close(folder)
    reader.join(10)
    assert opened


def test_a_folder_that_cannot_be_locked_is_read_and_written(tmp_path, monkeypatch):
    def fails(_folder, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fails)
    assert NpyMerged(written(tmp_path)).shape == (500, 24)


def test_lines_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "set.articles.jsonl").write_text("three weeks of work")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"set\.articles\.jsonl would be overwritten"):
        written(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("document", ['{"name": "my project"}', "[]", "# no JSON at all"])
def test_a_json_file_of_somebody_else_is_not_overwritten(tmp_path, document):
    (tmp_path / "set.json").write_text(document)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"set\.json would be overwritten"):
        written(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_folder_in_the_way_of_a_side_file_is_told_and_the_old_set_stays(tmp_path, name):
    path = written(tmp_path, rows_of(40))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(DiskError, match="is a directory"):
        written(tmp_path)
    assert np.load(path).shape == (40, 24)
    assert sorted(each.name for each in tmp_path.iterdir()) == NAMES


def test_a_replacement_that_cannot_be_completed_is_told(tmp_path):
    path = written(tmp_path)
    (tmp_path / ".set.json.next").mkdir()  # what cannot be renamed over a file, for root either
    with pytest.raises(LocalDataError, match="its replacement was interrupted and cannot be completed"):
        NpyMerged(path)


def test_a_set_that_is_not_there_is_no_damaged_one(tmp_path):
    with pytest.raises(LocalDataError, match=r"set\.npy does not exist$"):
        open_merged(tmp_path / "set.npy")


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_missing_side_file_is_named(tmp_path, name):
    path = written(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(LocalDataError, match=f"set.npy: {name} should lie beside it"):
        NpyMerged(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_set_is_noticed(tmp_path, name):
    path = written(tmp_path)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "set.npy"
    write_set(other, rows_of() + 1, articles_of(site="encyclopedia.invalid"), metadata_of(rows_of()))
    (tmp_path / name).write_bytes(other.with_name(name).read_bytes())
    with pytest.raises(LocalDataError, match="belong to another file"):
        NpyMerged(path)


def test_an_object_array_is_refused_and_never_unpickled(tmp_path):
    path = written(tmp_path)
    np.save(path, np.array([[object()]]), allow_pickle=True)
    with pytest.raises(LocalDataError, match=r"set\.npy: it is no \.npy file of float"):
        NpyMerged(path)


HEADERS = {
    "not numpy": b"\x93NUMPX\x01\x00\x76\x00",
    "zeros": b"\0" * 128,
    "another version": b"\x93NUMPY\x03\x00\x76\x00\x00\x00",
    "huge header": b"\x93NUMPY\x01\x00\xff\xff",
    "nested header": b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118,
    "code": b"\x93NUMPY\x01\x00\x76\x00" + b"__import__('os').abort()".ljust(117) + b"\n",
}
DESCRIPTIONS = [
    "{'descr': '|O', 'fortran_order': False, 'shape': (500, 24), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (500, 24), }",
    "{'descr': '<i4', 'fortran_order': False, 'shape': (500, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (501, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 24), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999999, 999999999999999999), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (12000,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (12000, 0), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (500, 24), }",
]
HEADERS |= {text: b"\x93NUMPY\x01\x00\x76\x00" + text.encode().ljust(117) + b"\n" for text in DESCRIPTIONS}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_forged_header_is_refused(tmp_path, header):
    path = written(tmp_path)
    path.write_bytes(header + path.read_bytes()[len(header) :])
    with pytest.raises(LocalDataError, match=r"^set\.npy: its? "):
        NpyMerged(path)


@pytest.mark.parametrize("change", [-1, 1, 96])
def test_rows_of_another_size_than_the_header_says_are_refused(tmp_path, change):
    path = written(tmp_path)
    os.truncate(path, path.stat().st_size + change)
    trust_anew(tmp_path)
    with pytest.raises(LocalDataError, match=r"^set\.npy: its size of .* bytes is not that of 500 rows of 24$"):
        NpyMerged(path)


def test_no_change_of_a_bit_does_more_than_an_error(tmp_path):
    path = write_set(tmp_path / "set.npy", rows_of(5, 3), articles_of(5))
    for name in NAMES:
        file = tmp_path / name
        content = file.read_bytes()
        for at in range(len(content)):
            spoilt = bytearray(content)
            spoilt[at] ^= 1 << at % 8
            file.write_bytes(spoilt)
            with contextlib.suppress(LocalDataError), contextlib.closing(NpyMerged(path)) as merged:
                assert merged.rows(0, 99).shape == merged.shape
                assert len(list(merged.articles())) == merged.shape[0]
        file.write_bytes(content)


METADATA = [
    b"",
    b"[]",
    b"\xff\xfe",
    b"{",
    b"[" * 100_000,
    b"1" * 100_000,
    b" " * (3 << 20),
    b'{"files": []}',
    b'{"files": {"npy": {}}}',
]


@pytest.mark.parametrize("document", METADATA, ids=lambda document: ascii(document[:12]))
def test_metadata_that_is_something_else_is_refused(tmp_path, document):
    path = written(tmp_path)
    (tmp_path / "set.json").write_bytes(document)
    with pytest.raises(LocalDataError, match=r"^set\.(json|npy): "):
        NpyMerged(path)


def test_metadata_of_many_megabytes_is_refused_before_it_is_read(tmp_path):
    path = written(tmp_path)
    os.truncate(tmp_path / "set.json", 200 << 20)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(LocalDataError, match=r"^set\.json: its metadata is longer than"):
            NpyMerged(path)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("harm", ["missing", "damaged", "of another file", "of something else"])
def test_escapes_in_the_name_of_a_side_file_are_made_harmless(tmp_path, harm):
    path, side = tmp_path / "s\x1b[2J.npy", tmp_path / "s\x1b[2J.json"
    write_set(path, rows_of(5))
    if harm == "missing":
        side.unlink()
    else:
        side.write_text("[" if harm == "damaged" else "{}")
    with pytest.raises((LocalDataError, UsageError)) as caught:
        write_set(path, rows_of(5)) if harm == "of something else" else NpyMerged(path)
    assert "s\\x1b[2J.json" in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"total_articles": 499},
        {"embedding_dim": "24"},
        {"quality_metrics": None},
        {"chunk_info": {}},
        {"chunk_info": [1]},
        {"chunk_info": [{"filepath": ["x"]}]},
        {"chunk_info": [{"start_index": True}]},
        {"quality_metrics": {"mean_norm": "1"}},
        {"more": [[[[[[[[[[[]]]]]]]]]]]},
        {"more": 10**39},
        {"model": ["x"]},
        {"timestamp": 5},
    ],
    ids=str,
)
def test_metadata_of_the_wrong_types_is_refused(tmp_path, change):
    path = written(tmp_path)
    side = tmp_path / "set.json"
    side.write_text(json.dumps({**json.loads(side.read_text()), **change}))
    with pytest.raises(LocalDataError, match=r"^set\.npy: its "):
        NpyMerged(path)


LINES = {
    "nothing": b"",
    "not JSON": b"x\n" * 500,
    "no object": b"[]\n" * 500,
    "a title that is none": b'{"title": 1, "id": 1, "url": ""}\n' * 500,
    "an id that is none": b'{"title": "", "id": [], "url": ""}\n' * 500,
    "a truth as id": b'{"title": "", "id": true, "url": ""}\n' * 500,
    "a url that is none": b'{"title": "", "id": 1, "url": {}}\n' * 500,
    "too few": b'{"title": "", "id": 1, "url": ""}\n' * 499,
    "too many": b'{"title": "", "id": 1, "url": ""}\n' * 501,
    "a cut line": b'{"title": "", "id": 1, "url": ""}\n' * 499 + b'{"title": "", "id": 1, "url": ""}',
    "a huge line": b'{"title": "' + b"x" * (5 << 20) + b'", "id": 1, "url": ""}\n',
    "a huge number": b'{"title": "", "id": ' + b"9" * 900_000 + b', "url": ""}\n' * 500,
    "deep nesting": b"[" * 900_000 + b"\n",
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_articles_that_are_something_else_are_refused(tmp_path, lines):
    path = written(tmp_path)
    (tmp_path / "set.articles.jsonl").write_bytes(lines)
    trust_anew(tmp_path)
    with pytest.raises(LocalDataError, match=r"^set\.npy: .*article"):
        list(NpyMerged(path).articles())


def trust_anew(folder):
    """Make set.json vouch for the files as they are now, as an attacker would."""
    side = folder / "set.json"
    with (folder / "set.npy").open("rb") as rows, (folder / "set.articles.jsonl").open("rb") as articles:
        files = {"npy": _edges(rows), "articles.jsonl": _edges(articles)}
    side.write_text(json.dumps({**json.loads(side.read_text()), "files": files}))


def test_the_folder_is_locked_while_a_set_gets_its_names(tmp_path, monkeypatch):
    check, locked = npy._check_replaceable, []

    def looking(final):
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
            locked.append(False)
        except BlockingIOError:
            locked.append(True)
        finally:
            os.close(folder)
        check(final)

    monkeypatch.setattr(npy, "_check_replaceable", looking)
    written(tmp_path, rows_of(40))
    assert locked == [True]


@pytest.mark.parametrize("renames", range(4))
def test_a_set_that_was_decided_on_is_whole_after_the_next_writer_was_killed_too(tmp_path, renames):
    written(tmp_path, rows_of(40))
    other = STOPS_BEFORE_A_RENAME.replace("rows_of(60)", "rows_of(70)")
    for code, after in ((STOPS_BEFORE_A_RENAME, 3), (other, 3 + renames)):
        stopped = subprocess.run([sys.executable, "-c", code, tmp_path, str(after)], check=False, cwd=ROOT)
        assert stopped.returncode == 9
    merged = NpyMerged(tmp_path / "set.npy")
    count = merged.shape[0]
    assert count in (60, 70)
    assert len(list(merged.articles())) == count
    assert np.array_equal(merged.rows(0, 99), rows_of(count))
    merged.close()

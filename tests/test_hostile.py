"""Each hand-made file is refused in one line or read right, in little memory, time and stack, and runs nothing."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from embmerge.articles import count_articles, read_articles
from embmerge.errors import LocalDataError, ShardError
from embmerge.merge import merge
from embmerge.mergedfile import open_merged
from embmerge.shard import read_header
from embmerge.shardrows import addressable, read_rows
from tests.hostile import ARTICLES, FIELDS, ROWS, SHARDS, TRICKS, array, shard, text
from tests.shards import dumped, make_articles, make_dataset, make_shard, rows_of, shard_of

ROOT = Path(__file__).resolve().parent.parent
MEMORY, SECONDS, STACK = 80 << 20, 20, 512 << 10  # seconds of the processor; a thread's stack as macOS has it


def guarded(work):
    """What `work()` returns or raises, run on a small stack, its memory and time measured."""
    outcome = []

    def run():
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001  handed on below
            outcome.append((None, error))

    before = threading.stack_size(STACK)
    thread = threading.Thread(target=run)
    tracemalloc.start()
    began = time.process_time()  # a busy machine takes its time
    try:
        thread.start()
        thread.join()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        threading.stack_size(before)
    assert time.process_time() - began < SECONDS
    assert peak < MEMORY
    result, error = outcome[0]
    if error:
        raise error
    return result


def rows_in(path):
    """All rows of the shard at `path`."""
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size, path.name)
        with addressable(file, header) as (plain, placed):
            return read_rows(plain, placed, 0, header.rows)


def check_line(error, name):
    assert name in error.message
    assert error.message.isprintable()
    assert len(error.message) < 500
    assert error.hint


@pytest.mark.parametrize("name", SHARDS)
def test_a_hostile_shard_is_refused_in_one_line_or_read_right(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cluster1_gpu0.pkl"
    path.write_bytes(SHARDS[name])
    try:
        rows = guarded(lambda: rows_in(path))
    except ShardError as error:
        check_line(error, path.name)
    else:
        assert np.array_equal(rows, ROWS)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", TRICKS)
def test_what_no_pickler_writes_is_refused(name):
    with pytest.raises(ShardError) as caught:
        read_header(io.BytesIO(TRICKS[name]), len(TRICKS[name]), "cluster1_gpu0.pkl")
    check_line(caught.value, "cluster1_gpu0.pkl")


@pytest.mark.parametrize("name", ARTICLES)
def test_a_hostile_articles_file_is_refused_in_one_line_or_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wikipedia.pkl"
    path.write_bytes(ARTICLES[name])
    try:
        articles = guarded(lambda: read_articles(path))
    except LocalDataError as error:
        check_line(error, path.name)
    else:
        assert all(type(article["title"]) is str for article in articles)
        assert len(articles) <= 3
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", [*list(SHARDS)[::3], *list(ARTICLES)[::3]])
def test_a_hostile_merged_file_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "merged.pkl"
    path.write_bytes(SHARDS.get(name) or ARTICLES.get(name) or b"")
    with pytest.raises(LocalDataError) as caught:
        guarded(lambda: list(opened(path)))
    check_line(caught.value, path.name)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def opened(path):
    with contextlib.closing(open_merged(path)) as merged:
        merged.rows(0, 5)
        yield from merged.articles()


ALL_CASES = """
import resource, sys, time
from pathlib import Path
from embmerge.articles import read_articles
from embmerge.errors import LocalDataError
from tests.hostile import ARTICLES, SHARDS
from tests.test_hostile import opened, rows_in

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)

path = Path("merged.pkl")
readers = ((SHARDS, rows_in), (ARTICLES, read_articles), (SHARDS | ARTICLES, lambda path: list(opened(path))))
before = most()
for cases, read in readers:
    for name, content in cases.items():
        path.write_bytes(content)
        began = time.process_time()
        try:
            read(path)
        except LocalDataError:
            pass
        spent = time.process_time() - began
        assert spent < 2, (name, spent)
assert most() - before < 90 << 10, most() - before
"""


def test_no_hostile_file_takes_two_seconds_or_more_memory_than_its_size(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALL_CASES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_case_is_there_twice():
    assert len(set(SHARDS.values())) >= 150
    assert len(set(ARTICLES.values())) >= 80


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_shard_cut_anywhere_is_refused_by_name(protocol):
    whole = dumped(shard_of(rows_of(3, 2)), protocol)
    for end in range(len(whole)):
        with pytest.raises(ShardError) as caught:
            read_header(io.BytesIO(whole[:end]), end, "cluster1_gpu0.pkl")
        check_line(caught.value, "cluster1_gpu0.pkl")


def test_articles_cut_anywhere_are_refused_by_name(tmp_path):
    whole = make_articles(tmp_path / "a.pkl", 5).read_bytes()
    path = tmp_path / "cut.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(LocalDataError) as caught:
            count_articles(path)
        check_line(caught.value, "cut.pkl")


def test_a_merged_file_cut_anywhere_is_refused_by_name(tmp_path):
    shards, articles, _ = make_dataset(tmp_path, 5, 2, 2)
    whole = merge(shards, articles, tmp_path / "m.pkl").output.read_bytes()
    path = tmp_path / "cut.pkl"
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        with pytest.raises(LocalDataError) as caught:
            list(opened(path))
        check_line(caught.value, "cut.pkl")


def test_a_forged_merged_file_costs_no_stack_and_no_time(tmp_path):
    path = tmp_path / "forged.pkl"
    fields = {"total_articles": b"K\x08", "embedding_dim": b"K\4", "quality_metrics": b"}", "chunk_info": b"]"}
    for value in (b"]" * 40_000 + b"a" * 39_999, b")" + b"\x85" * 80_000, b"N]\x94" + b"(" + b"h\0" * 9 + b"e"):
        opcodes = b"".join(text(key) + each for key, each in (fields | {"model": value}).items())
        path.write_bytes(b"\x80\x04}(" + text("embeddings") + array() + opcodes + b"u" + text("articles") + b"]s.")
        with pytest.raises(LocalDataError) as caught:
            guarded_more(path)
        check_line(caught.value, path.name)


def guarded_more(path):
    before = threading.stack_size(STACK)
    try:
        outcome = []

        def run():
            try:
                outcome.append(list(opened(path)))
            except LocalDataError as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
    finally:
        threading.stack_size(before)
    assert outcome, "it neither read nor refused the file"
    if isinstance(outcome[0], Exception):
        raise outcome[0]


def test_terminal_escapes_in_a_file_name_do_not_reach_the_message(tmp_path):
    path = tmp_path / "cluster1_gpu0.pkl\x1b[2J"
    path.write_bytes(b"nothing")
    with pytest.raises(ShardError) as caught, path.open("rb") as file:
        read_header(file, 7, path.name)
    assert caught.value.message.isprintable()


def test_a_models_escapes_are_made_harmless(tmp_path):
    path = make_shard(tmp_path, rows_of(), model="\x1b[2J\u202eevil")
    with path.open("rb") as file:
        assert read_header(file, path.stat().st_size, path.name).model == "\\x1b[2J\\u202eevil"


def test_an_honest_shard_made_by_hand_is_read():
    assert set(FIELDS) >= {"embeddings", "start_index"}
    raw = shard()
    assert read_header(io.BytesIO(raw), len(raw), "cluster1_gpu0.pkl").rows == 8

"""Where what arrives comes down: whole blocks, few notes, and never much that is not noted."""

import random

import pytest

from embmerge.errors import DiskError
from embmerge.remote.cluster import RemoteFile
from embmerge.remote.landing import BLOCK, Landing
from embmerge.remote.partial import Partial
from embmerge.remote.work import Download, Work

KB = 1024
READ = 255 * KB


def downloads(tmp_path, *sizes):
    files = [RemoteFile("a", f"cluster0_gpu{n}.pkl", f"/{n}", size, 5) for n, size in enumerate(sizes)]
    work = Work([Download(file, n, len(files)) for n, file in enumerate(files, 1)], tmp_path)
    return list(dict.fromkeys(stretch.download for stretch in iter(work.take, None)))


def cut(data, length=32 * KB):
    """What comes of it in packets."""
    return [memoryview(data)[at : at + length] for at in range(0, len(data), length)]


@pytest.fixture
def written(monkeypatch):
    """Where each write began and ended."""
    places = []
    write = Partial.write

    def listen(each, offset, parts):
        write(each, offset, parts)
        places.append((offset, offset + sum(map(len, parts))))

    monkeypatch.setattr(Partial, "write", listen)
    return places


def test_what_arrives_in_order_is_written_in_whole_blocks(tmp_path, written):
    (download,) = downloads(tmp_path, 4 * BLOCK)
    sink = Landing(lambda: 4 * BLOCK).sink(download)
    for offset in range(0, 4 * READ, READ):
        sink(offset, cut(bytes(READ)))
    sink(4 * READ, cut(bytes(4 * KB)))
    assert written == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK), (3 * BLOCK, 4 * BLOCK)]


def test_what_is_less_than_a_block_waits_for_more_if_there_is_more_to_come(tmp_path, written):
    (download,) = downloads(tmp_path, 1000)
    landing = Landing(lambda: BLOCK)
    landing.sink(download)(0, [memoryview(b"abc")])
    assert landing.settle(more_to_come=True) == []
    assert written == []
    assert landing.settle() == [(download, 3)]
    assert written == [(0, 3)]


def test_what_is_noted_is_told_once(tmp_path):
    (download,) = downloads(tmp_path, 1000)
    landing = Landing(lambda: BLOCK)
    landing.sink(download)(0, [memoryview(b"abc")])
    landing.settle()
    assert landing.settle() == []


@pytest.mark.parametrize("unnoted", [0, 1, READ, BLOCK, 3 * BLOCK + 1])
def test_no_more_than_allowed_is_here_and_not_noted(tmp_path, unnoted):
    (download,) = downloads(tmp_path, 12 * READ)
    sink = Landing(lambda: unnoted).sink(download)
    for offset in range(0, 12 * READ, READ):
        sink(offset, cut(bytes(READ)))
        assert offset + READ - download.partial.done.nbytes <= unnoted


def test_what_may_wait_is_noted_seldom(tmp_path):
    (download,) = downloads(tmp_path, 40 * READ)
    landing = Landing(lambda: 3 * BLOCK)
    for offset in range(0, 40 * READ, READ):
        landing.sink(download)(offset, cut(bytes(READ)))
    assert len(landing.settle()) <= 14


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_in_whatever_order_lies_at_its_place(tmp_path, seed):
    rng = random.Random(seed)
    contents = [rng.randbytes(rng.randrange(1, 3 * BLOCK)) for _ in range(3)]
    files = downloads(tmp_path, *map(len, contents))
    landing = Landing(lambda: BLOCK)
    places = [
        (download, content, at, rng.randrange(1, READ))
        for download, content in zip(files, contents, strict=True)
        for at in range(0, len(content), READ)
    ]
    for download, content, at, packet in rng.sample(places, len(places)):
        landing.sink(download)(at, cut(content[at : at + READ], packet))
    told = dict.fromkeys(files, 0)
    for download, nbytes in landing.settle():
        told[download] += nbytes
    assert list(told.values()) == list(map(len, contents))
    assert [download.partial.path.read_bytes() for download in files] == contents


def test_what_could_not_be_written_is_not_noted_later(tmp_path, monkeypatch):
    (download,) = downloads(tmp_path, 4 * BLOCK)
    landing = Landing(lambda: 4 * BLOCK)
    landing.sink(download)(0, cut(bytes(BLOCK + 5)))
    sink = landing.sink(download)
    with monkeypatch.context() as patch:
        patch.setattr(Partial, "write", _full)
        with pytest.raises(DiskError):
            sink(BLOCK + 5, cut(bytes(BLOCK)))
    assert landing.settle() == [(download, BLOCK)]
    assert list(download.partial.done) == [(0, BLOCK)]


def _full(_partial, _offset, _parts):
    raise DiskError("the disk is full")

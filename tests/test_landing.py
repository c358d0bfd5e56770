"""Where what arrives comes down: at its place, noted seldom, and never much that is not noted."""

import random
import threading

import pytest

from embmerge.errors import DiskError
from embmerge.remote.files import RemoteFile
from embmerge.remote.landing import Landing
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


def told(landing):
    """How many bytes of each download."""
    total = {}
    for download, nbytes in landing.settle():
        total[download] = total.get(download, 0) + nbytes
    return total


def _fails(*_args):
    raise DiskError("the disk is full")


def test_what_arrives_is_written_at_once(tmp_path):
    (download,) = downloads(tmp_path, 1000)
    Landing(lambda: READ).sink(download)(0, [memoryview(b"ab"), memoryview(b"c")])
    assert download.partial.path.read_bytes() == b"abc"


def test_what_is_noted_is_told_once(tmp_path):
    (download,) = downloads(tmp_path, 1000)
    landing = Landing(lambda: READ)
    landing.sink(download)(0, [memoryview(b"abc")])
    assert landing.settle() == [(download, 3)]
    assert landing.settle() == []


@pytest.mark.parametrize("unnoted", [0, 1, READ, 3 * READ])
def test_no_more_than_allowed_is_here_and_not_noted(tmp_path, unnoted):
    (download,) = downloads(tmp_path, 12 * READ)
    sink = Landing(lambda: unnoted).sink(download)
    for offset in range(0, 12 * READ, READ):
        sink(offset, cut(bytes(READ)))
        assert offset + READ - download.partial.done.nbytes <= unnoted


def test_what_comes_in_order_is_noted_seldom(tmp_path):
    (download,) = downloads(tmp_path, 12 * READ)
    landing = Landing(lambda: 3 * READ)
    for offset in range(0, 12 * READ, READ):
        landing.sink(download)(offset, cut(bytes(READ)))
    assert landing.settle() == [(download, 4 * READ)] * 3


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_in_whatever_order_lies_at_its_place(tmp_path, seed):
    rng = random.Random(seed)
    contents = [rng.randbytes(rng.randrange(1, 3 * READ)) for _ in range(3)]
    files = downloads(tmp_path, *map(len, contents))
    landing = Landing(lambda: READ)
    places = [
        (download, content, at, rng.randrange(1, READ))
        for download, content in zip(files, contents, strict=True)
        for at in range(0, len(content), 100 * KB)
    ]
    for download, content, at, packet in rng.sample(places, len(places)):
        landing.sink(download)(at, cut(content[at : at + 100 * KB], packet))
    assert told(landing) == {each: len(content) for each, content in zip(files, contents, strict=True)}
    assert [download.partial.path.read_bytes() for download in files] == contents


@pytest.mark.parametrize("call", ["write", "add"])
def test_bytes_that_the_disk_refuses_are_not_noted_later_and_those_before_them_are(tmp_path, monkeypatch, call):
    (download,) = downloads(tmp_path, 4 * READ)
    landing = Landing(lambda: 0)
    sink = landing.sink(download)
    sink(0, cut(bytes(READ)))
    with monkeypatch.context() as patch:
        patch.setattr(Partial, call, _fails)
        with pytest.raises(DiskError):
            sink(READ, cut(bytes(READ)))
    assert told(landing) == {download: READ}
    assert list(download.partial.done) == [(0, READ)]


def test_what_could_not_be_noted_is_noted_by_whoever_asks_next(tmp_path, monkeypatch):
    (download,) = downloads(tmp_path, 1000)
    landing = Landing(lambda: READ)
    landing.sink(download)(0, [memoryview(b"abc")])
    with monkeypatch.context() as patch:
        patch.setattr(Partial, "add", _fails)
        with pytest.raises(DiskError):
            landing.settle()
    assert landing.settle() == [(download, 3)]


def test_what_is_being_noted_while_somebody_asks_is_told_once(tmp_path, monkeypatch):
    (download,) = downloads(tmp_path, 1000)
    landing, news, add = Landing(lambda: 0), [], Partial.add
    asking = threading.Thread(target=lambda: news.extend(landing.settle()), daemon=True)

    def slow(*noted):
        if not asking.ident:
            asking.start()
            asking.join(0.1)  # it waits for us
        add(*noted)

    monkeypatch.setattr(Partial, "add", slow)
    landing.sink(download)(0, [memoryview(b"abc")])
    asking.join(5)
    assert news == [(download, 3)]

"""What a plain connection makes of the answers of paramiko's client, of its errors, and of its threads that die."""

import errno
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import paramiko
import pytest

from embmerge.errors import ConnectionLost, RemoteChanged, RemoteDataError
from embmerge.remote import plainlane
from embmerge.remote.files import RemoteFile
from embmerge.remote.pace import Pace
from embmerge.remote.plainlane import PlainLane
from embmerge.remote.ranges import Ranges
from embmerge.remote.work import Download, Work

SIZES = (1_300_000, 3, 700_000)
FREE = Pace(None)
GONE = FileNotFoundError(errno.ENOENT, "No such file")


class Client:
    """Answers like paramiko's `SFTPClient` whose server holds zeros, until it is asked `until` times; then it fails.

    `fails` is what it raises then, None for data that end too early; `over`: its session has ended by then.
    """

    def __init__(self, sizes, *, until=-1, fails=None, over=False, at="readv"):
        self.sizes, self.until, self.fails, self.over, self.at = sizes, until, fails, over, at
        self.channel = SimpleNamespace(closed=False, eof_received=False, settimeout=lambda _seconds: None)
        self.asked, self.together, self.closed = 0, 0, False

    def get_channel(self):
        return self.channel

    def _is_last(self, what):
        if what == self.at:
            self.until -= 1
        if what != self.at or self.until:
            return False
        self.channel.closed = self.over
        if self.fails:
            raise self.fails
        return True

    def stat(self, path):
        self._is_last("stat")
        return SimpleNamespace(st_size=self.sizes[path], st_mtime=5)

    @contextmanager
    def open(self, path, _mode):
        self._is_last("open")
        yield SimpleNamespace(readv=lambda places: self._read(path, places))

    def _read(self, path, places):
        self.together = max(self.together, len(places))
        for at, length in places:
            assert at + length <= SIZES[int(path[1:])]
            self.asked += length
            here = min(length, max(0, self.sizes[path] - at))
            yield bytes(here // 2 if self._is_last("readv") else here)

    def close(self):
        self.closed = True
        if self.over:
            raise EOFError


class Scene:
    """A lane at work on downloads of `SIZES`, which ends when all have ended or were looked at once more."""

    def __init__(self, tmp_path, monkeypatch, *, pace=FREE, now=SIZES, **client):
        files = [RemoteFile("a", f"cluster0_gpu{n}.pkl", f"/{n}", size, 5) for n, size in enumerate(SIZES)]
        self.downloads = [Download(file, n, len(files)) for n, file in enumerate(files, 1)]
        self.client = Client({file.path: size for file, size in zip(files, now, strict=True)}, **client)
        monkeypatch.setattr(paramiko.SFTPClient, "from_transport", lambda _transport: self.client)
        self.work, self.stop, self.line_closed = Work(self.downloads, tmp_path), threading.Event(), threading.Event()
        self.work.wait = lambda _seconds: self.stop.set()  # nothing is left to do
        line = SimpleNamespace(close=self.line_closed.set)
        self.lane = PlainLane(line, self.work, pace=pace, stop=self.stop, stall_timeout=7)

    def run(self, error=None):
        """Let it work; it ends with `error`."""
        if not error:
            return self.lane.run()
        with pytest.raises(error) as caught:
            self.lane.run()
        return caught.value


def test_all_is_fetched_and_looked_at_once_more(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    scene.run()
    assert [each.missing for each in scene.downloads] == [0, 0, 0]
    assert [each.now.nbytes for each in scene.downloads] == list(SIZES)
    assert scene.lane.received == scene.client.asked == sum(SIZES)


def test_bytes_are_hashed_as_they_come(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    scene.run()
    assert [each.digest.nbytes for each in scene.downloads] == list(SIZES)


@pytest.mark.parametrize("until", range(1, 8))
@pytest.mark.parametrize("fails", [EOFError(), OSError("Socket is closed"), paramiko.SSHException("x"), None], ids=repr)
def test_when_the_line_is_cut_every_byte_is_either_here_or_free_to_be_taken(tmp_path, monkeypatch, until, fails):
    scene = Scene(tmp_path, monkeypatch, until=until, fails=fails, over=True)
    scene.run(ConnectionLost)
    begun = [each for each in scene.downloads if each.began]
    assert [Ranges(each.free).nbytes for each in begun] == [each.missing for each in begun]
    assert [Ranges([*each.free, *each.partial.done]).nbytes for each in begun] == [each.file.nbytes for each in begun]
    assert [each.lent for each in begun] == [0] * len(begun)
    assert scene.lane.received == scene.work.received == sum(each.partial.done.nbytes for each in begun)


def test_a_line_that_is_silent_is_closed(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch, until=2, fails=TimeoutError())
    assert "no byte for 7 s" in scene.run(ConnectionLost).message
    assert scene.line_closed.is_set()


@pytest.mark.parametrize("at", ["open", "readv", "stat"])
def test_what_is_wrong_with_a_file_fails_it_alone(tmp_path, monkeypatch, at):
    scene = Scene(tmp_path, monkeypatch, until=1, fails=GONE, at=at)
    scene.run()
    assert sorted(type(each.error).__name__ for each in scene.downloads) == ["NoneType", "NoneType", "RemoteChanged"]
    assert [each.lent for each in scene.downloads] == [0, 0, 0]


def test_a_file_that_ends_too_early_has_become_shorter(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch, now=(1_299_999, *SIZES[1:]))
    scene.run()
    assert [type(each.error) for each in scene.downloads] == [RemoteChanged, type(None), type(None)]
    assert "has become shorter" in scene.downloads[0].error.message


def test_data_that_end_too_early_in_a_file_that_has_not_become_shorter_are_a_lost_line(tmp_path, monkeypatch):
    Scene(tmp_path, monkeypatch, until=2, fails=None, over=False).run(ConnectionLost)


@pytest.mark.parametrize(
    ("fails", "lives", "told", "said"),
    [
        (EOFError(), False, ConnectionLost, "closed by the server"),
        (OSError("Socket is closed"), False, ConnectionLost, "Socket is closed"),
        (EOFError(), True, paramiko.ChannelException, "it has no SFTP there"),
        (paramiko.ChannelException(1, "Too many"), True, paramiko.ChannelException, "Too many"),
    ],
    ids=repr,
)
def test_a_session_that_cannot_begin_is_told_apart_from_a_lost_line(tmp_path, monkeypatch, fails, lives, told, said):
    def begin(_line):
        raise fails

    monkeypatch.setattr(paramiko.SFTPClient, "from_transport", begin)
    line = SimpleNamespace(close=lambda: None, join=lambda _seconds: None, is_active=lambda: lives)
    with pytest.raises(told, match=said):
        PlainLane(line, Work([], tmp_path), pace=FREE, stop=threading.Event(), stall_timeout=7)


def test_who_asked_about_a_file_and_got_no_answer_leaves_it_to_the_next_to_ask(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch, until=1, fails=EOFError(), at="stat")
    scene.run(ConnectionLost)
    assert scene.work.take_check() is not None


def test_a_lane_that_is_stopped_asks_for_nothing_more(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    scene.stop.set()
    scene.run()
    assert scene.client.asked == 0
    assert scene.client.closed


def test_what_comes_after_a_stop_is_not_taken(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    monkeypatch.setattr(scene.client, "_is_last", lambda what: what == "readv" and scene.stop.set())
    scene.run()
    assert scene.lane.received == 0
    assert all(each.lent == 0 for each in scene.downloads)


def test_under_a_limit_every_block_is_a_turn_of_its_own_that_is_waited_for(tmp_path, monkeypatch):
    turns, waits = [], []
    pace = SimpleNamespace(
        limited=True, largest=lambda _nbytes: 4096, reserve=lambda nbytes: turns.append(nbytes) or 0.25
    )
    scene = Scene(tmp_path, monkeypatch, pace=pace)
    monkeypatch.setattr(scene.stop, "wait", waits.append)
    scene.run()
    assert (sum(turns), max(turns)) == (sum(SIZES), 4096)
    assert waits == [0.25] * len(turns)


def test_a_file_that_cannot_be_read_is_no_line_that_is_lost(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch, until=2, fails=OSError(errno.EIO, "Input/output error"))
    scene.run()
    assert [type(each.error) for each in scene.downloads].count(RemoteDataError) == 1


@pytest.mark.parametrize(("name", "told"), [("_prefetch_thread", 0), ("another", 1)])
def test_a_thread_that_prefetches_dies_in_silence_and_no_other_does(monkeypatch, name, told):
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    plainlane._hush.__wrapped__()  # as it is called once in a process

    def fail():
        raise EOFError

    thread = threading.Thread(target=fail, name=f"Thread-7 ({name})")
    thread.start()
    thread.join()
    assert len(died) == told

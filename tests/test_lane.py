"""What a connection asks for, gives back and closes, over a channel that answers from memory."""

import errno
import threading

import pytest

from embmerge.errors import ConnectionLost, RemoteChanged, RemoteDataError
from embmerge.remote.files import RemoteFile, RemoteStat
from embmerge.remote.lane import UNNOTED, FastLane, file_problem
from embmerge.remote.pace import Pace
from embmerge.remote.ranges import Ranges
from embmerge.remote.work import Download, Work

READ = 32 * 1024
SIZES = (25 * READ + 7, 3, 9 * READ)


class Channel:
    """Answers like an `SftpChannel` whose server holds zeros; all that is due is answered in one `wait`.

    The line is cut in the wait number `cut`, when half of what is due has come. Files named in `bad` cannot be read
    from their second read on, those in `gone` not opened.
    """

    largest_read, round_trip = READ, 1.0

    def __init__(self, sizes, *, cut=-1, bad=(), gone=()):
        self.sizes, self.cut, self.bad, self.gone = sizes, cut, bad, gone
        self.due, self.files, self.closed = [], [], False
        self.most = self.most_unnoted = 0  # bytes that were asked for, that had come, at the same time
        self.came, self.noted = 0, lambda: 0

    @property
    def waiting_for(self):
        return len(self.due)

    def open(self, path, then):
        if path in self.gone:
            self.due.append(([], lambda: then(FileNotFoundError(errno.ENOENT, "No such file"))))
        else:
            self.files.append(path)
            self.due.append(([], lambda: then(path.encode())))

    def stat(self, path, then):
        self.due.append(([], lambda: then(RemoteStat(self.sizes[path], 5, regular=True))))

    def close_file(self, handle):
        assert handle not in [path for reads, _ in self.due for path, _ in reads]
        self.files.remove(handle.decode())

    def read(self, handle, reads, then):
        path = handle.decode()
        assert path in self.files
        assert all(read.offset + read.length <= self.sizes[path] for read in reads)
        broken = path in self.bad and any(read.offset for read in reads)
        self.due.append(
            ([(handle, read) for read in reads], lambda: then(OSError(errno.EIO, "bad") if broken else None))
        )
        self.most = max(self.most, sum(read.length for reads, _ in self.due for _, read in reads))

    def wait(self, _timeout, _patience):
        self.cut -= 1
        due, self.due = self.due, []
        for reads, answer in due:
            for handle, read in reads:
                come = read.length if self.cut else read.length // 2
                if come and not (read.offset and handle.decode() in self.bad):
                    read.sink(read.offset, [memoryview(bytes(come))])
                    read.received = come
                    self.came += come
                    self.most_unnoted = max(self.most_unnoted, self.came - self.noted())
            if self.cut:
                answer()
        if not self.cut:
            raise ConnectionLost("cut")

    def close(self):
        self.closed = True


class Scene:
    """A lane at work on downloads of `SIZES`, which ends when all have ended or were looked at once more."""

    def __init__(self, tmp_path, *, on_the_way=20 * READ, rate=None, **channel):
        files = [RemoteFile("a", f"cluster0_gpu{n}.pkl", f"/{n}", size, 5) for n, size in enumerate(SIZES)]
        self.downloads = [Download(file, n, len(files)) for n, file in enumerate(files, 1)]
        self.channel = Channel({file.path: file.nbytes for file in files}, **channel)
        self.work = Work(self.downloads, tmp_path)
        self.stop = threading.Event()
        self.lane = FastLane(self.channel, self.work, pace=Pace(rate), stop=self.stop, on_the_way=on_the_way)

    def run(self):
        """Let it work, up to a cut if there is one."""
        really = self.channel.wait

        def wait(*how):
            really(*how)
            if all(each.ended or each.now for each in self.downloads) and not self.channel.waiting_for:
                self.stop.set()

        self.channel.wait = wait
        self.lane.run()


@pytest.mark.parametrize("rate", [None, 50_000_000])
@pytest.mark.parametrize("on_the_way", [1, 20 * READ])
def test_all_is_fetched_and_looked_at_once_more_and_every_file_is_closed(tmp_path, on_the_way, rate):
    scene = Scene(tmp_path, on_the_way=on_the_way, rate=rate)
    scene.run()
    assert [each.missing for each in scene.downloads] == [0, 0, 0]
    assert [each.now.nbytes for each in scene.downloads] == list(SIZES)
    assert scene.lane.received == sum(SIZES)
    assert scene.channel.files == []


@pytest.mark.parametrize("cut", range(1, 6))
def test_when_the_line_is_cut_every_byte_is_either_here_or_free_to_be_taken(tmp_path, cut):
    scene = Scene(tmp_path, cut=cut)
    with pytest.raises(ConnectionLost):
        scene.run()
    begun = [each for each in scene.downloads if each.began]
    here = [each.partial.done.nbytes for each in begun]
    assert [Ranges(each.free).nbytes for each in begun] == [each.missing for each in begun]
    assert [Ranges([*each.free, *each.partial.done]).nbytes for each in begun] == [each.file.nbytes for each in begun]
    assert [each.lent for each in begun] == [0] * len(begun)
    assert scene.lane.received == scene.work.received == sum(here)


def test_nothing_is_given_back_before_the_channel_is_closed(tmp_path):
    scene, lent = Scene(tmp_path, cut=3), []
    scene.channel.close = lambda: lent.append(sum(each.lent for each in scene.downloads))
    with pytest.raises(ConnectionLost):
        scene.run()
    assert sum(lent) > 0


@pytest.mark.parametrize("rate", [None, 50_000_000])
@pytest.mark.parametrize("trouble", ["bad", "gone"])
def test_a_file_that_fails_fails_alone_and_nothing_of_it_stays_taken(tmp_path, trouble, rate):
    scene = Scene(tmp_path, rate=rate, **{trouble: ["/0"]})
    scene.run()
    assert [bool(each.error) for each in scene.downloads] == [True, False, False]
    assert scene.downloads[0].lent == 0
    assert scene.channel.files == []


def test_of_a_file_with_a_bad_spot_is_kept_what_came(tmp_path):
    scene = Scene(tmp_path, bad=["/0"])
    scene.run()
    assert list(scene.downloads[0].partial.done) == [(0, READ)]


def test_no_more_is_on_its_way_than_is_allowed(tmp_path):
    scene = Scene(tmp_path, on_the_way=8 * READ)
    scene.run()
    assert scene.channel.most < 12 * READ  # four reads are asked for together


def test_of_what_comes_each_of_several_connections_leaves_no_more_than_its_share_unnoted(tmp_path):
    scene = Scene(tmp_path)
    scene.work.lanes = 4
    scene.channel.noted = lambda: sum(each.partial.done.nbytes for each in scene.downloads if each.began)
    scene.run()
    assert 0 < scene.channel.most_unnoted <= UNNOTED // 4


def test_who_asked_about_a_file_and_got_no_answer_leaves_it_to_the_next_to_ask(tmp_path):
    scene = Scene(tmp_path)
    stat = scene.channel.stat

    def ask(path, then):
        stat(path, then)
        scene.channel.cut = 1

    scene.channel.stat = ask
    with pytest.raises(ConnectionLost):
        scene.run()
    assert scene.work.take_check() is not None


def test_what_was_answered_about_a_file_is_not_asked_again(tmp_path):
    scene = Scene(tmp_path)
    scene.run()
    assert scene.work.take_check() is None


def test_a_file_that_is_gone_when_it_is_looked_at_once_more_has_failed(tmp_path):
    scene = Scene(tmp_path)
    scene.channel.stat = lambda _path, then: scene.channel.due.append(
        ([], lambda: then(FileNotFoundError(errno.ENOENT, "No such file")))
    )
    scene.run()
    assert [type(each.error) for each in scene.downloads] == [RemoteChanged] * 3


def test_a_lane_ends_when_all_have_ended(tmp_path):
    scene = Scene(tmp_path, gone=["/0", "/1", "/2"])
    scene.lane.run()
    assert scene.work.over


def test_a_lane_that_is_stopped_asks_for_nothing_more(tmp_path):
    scene = Scene(tmp_path)
    scene.stop.set()
    scene.lane.run()
    assert scene.channel.most == 0
    assert scene.channel.closed


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENODATA, RemoteChanged, "has become shorter"),
        (errno.ENOENT, RemoteChanged, "is not there any more"),
        (errno.EACCES, RemoteDataError, "may not be read"),
        (errno.EIO, RemoteDataError, "cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line_that_steers_no_terminal(number, kind, said):
    file = RemoteFile("a", "cluster0_gpu0.pkl", "/\x1b[2J", 1, 5)
    error = file_problem(file, OSError(number, "\x1b[2J"))
    assert type(error) is kind
    assert said in error.message
    assert (error.message + error.hint).isprintable()

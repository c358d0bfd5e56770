"""The handing out of stretches: every byte once, to whoever asks, whatever is given back."""

import hashlib
import itertools
import random
import threading

import pytest

from embmerge.errors import RemoteChanged, RemoteDataError
from embmerge.events import ShardFailed, ShardProgress, ShardStarted
from embmerge.remote import work as work_module
from embmerge.remote.digest import Digest
from embmerge.remote.files import RemoteFile, RemoteStat
from embmerge.remote.kept import left_behind
from embmerge.remote.partial import Partial, begin
from embmerge.remote.verification import Expected, finish_all
from embmerge.remote.work import AT_ONCE, LONGEST, Download, Work

MB = 1 << 20


def work_on(tmp_path, *sizes, lanes=2, observer=lambda _event: None):
    files = [RemoteFile("a", f"cluster0_gpu{n}.pkl", f"/{n}", size, 5) for n, size in enumerate(sizes)]
    downloads = [Download(file, n, len(files)) for n, file in enumerate(files, 1)]
    return Work(downloads, tmp_path, lanes=lanes, observer=observer)


def arrive(work, download, start, end):
    download.partial.add(start, end)
    work.arrived(download, end - start)


def test_every_byte_is_handed_out_once(tmp_path):
    work = work_on(tmp_path, 9 * MB, 1, 3 * MB)
    got = {}
    while stretch := work.take():
        got.setdefault(stretch.download.file.name, []).append((stretch.start, stretch.end))
    for name, size in (("cluster0_gpu0.pkl", 9 * MB), ("cluster0_gpu1.pkl", 1), ("cluster0_gpu2.pkl", 3 * MB)):
        ends = sorted(got[name])
        assert ends[0][0] == 0
        assert ends[-1][1] == size
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


def test_stretches_get_shorter_near_the_end(tmp_path):
    work = work_on(tmp_path, 40 * MB, lanes=4)
    lengths = []
    while stretch := work.take():
        lengths.append(stretch.end - stretch.start)
        arrive(work, stretch.download, stretch.start, stretch.end)
    assert max(lengths) <= LONGEST + 256 * 1024
    assert lengths[-1] < lengths[0] / 4


def test_what_is_given_back_is_handed_out_again(tmp_path):
    work = work_on(tmp_path, 1000)
    stretch = work.take()
    assert work.take() is None
    arrive(work, stretch.download, 0, 300)
    work.give_back(stretch.download, 300, 1000)
    again = work.take()
    assert (again.start, again.end) == (300, 1000)


def test_a_whole_file_is_to_be_checked(tmp_path):
    work = work_on(tmp_path, 1000)
    stretch = work.take()
    assert work.take_check() is None
    arrive(work, stretch.download, 0, 1000)
    assert work.take_check() is stretch.download
    work.give_back_check(stretch.download)
    assert work.take_check() is stretch.download


def test_an_empty_file_is_whole_at_once(tmp_path):
    work = work_on(tmp_path, 0)
    assert work.take() is None
    assert work.take_check() is not None


def test_so_many_files_are_open_at_once_and_no_more(tmp_path):
    work = work_on(tmp_path, *[10] * (AT_ONCE + 5))
    taken = []
    while stretch := work.take():
        taken.append(stretch)
    assert len(taken) == AT_ONCE
    arrive(work, taken[0].download, 0, 10)
    work.finished(taken[0].download)
    assert work.take() is not None


def test_whether_it_is_over_is_told_while_another_thread_is_busy_with_it(tmp_path):
    work, told = work_on(tmp_path, 10), []
    with work._changed:  # as while a download begins, on a disk that hangs
        thread = threading.Thread(target=lambda: told.append(work.over), daemon=True)
        thread.start()
        thread.join(5)
        assert told == [False]


def test_the_work_is_over_when_all_have_ended(tmp_path):
    work = work_on(tmp_path, 10, 10)
    first, second = work.take(), work.take()
    arrive(work, first.download, 0, 10)
    work.finished(first.download)
    assert not work.over
    work.failed(second.download, RemoteDataError("unreadable"))
    assert work.over


def test_what_failed_is_kept_when_the_last_connection_is_done_with_it(tmp_path):
    work = work_on(tmp_path, 1000)
    stretch = work.take()
    work.failed(stretch.download, RemoteDataError("unreadable"))
    stretch.download.partial.write(0, [memoryview(b"still open")])
    arrive(work, stretch.download, 0, 10)
    work.give_back(stretch.download, 10, 1000)
    assert [folder.name.split(".")[2][:4] for folder in (tmp_path / ".partial").iterdir()] == ["left"]


def test_what_has_changed_remotely_is_thrown_away(tmp_path):
    work = work_on(tmp_path, 1000)
    stretch = work.take()
    arrive(work, stretch.download, 0, 500)
    work.give_back(stretch.download, 500, 1000)
    work.failed(stretch.download, RemoteChanged("another one"))
    assert list((tmp_path / ".partial").iterdir()) == []


def test_what_is_left_says_how_much_it_is(tmp_path):
    work = work_on(tmp_path, 1000, 1000)
    stretch = work.take()
    arrive(work, stretch.download, 0, 400)
    work.give_back(stretch.download, 400, 1000)
    assert work.leave() == 400


def test_a_digest_follows_what_arrives_in_any_order(tmp_path):
    content = random.Random(1).randbytes(3 * MB)
    work = work_on(tmp_path, len(content))
    download = work.take().download
    for start in (2 * MB, 0, MB):
        download.partial.write(start, [memoryview(content)[start : start + MB]])
        arrive(work, download, start, start + MB)
        download.digest.follow(download.partial, threading.Event())
    assert download.digest.hexdigest() == hashlib.sha256(content).hexdigest()


def test_what_arrives_in_order_is_synced_now_and_then_too(tmp_path, monkeypatch):
    work = work_on(tmp_path, 3 * MB)
    download = work.take().download
    work.news.get_nowait()  # that it has begun
    for start, due in ((0, False), (MB, True)):
        monkeypatch.setattr(work_module, "_SYNC_EVERY", 0.0 if due else 1000.0)
        download.write(start, [memoryview(bytes(MB))])
        arrive(work, download, start, start + MB)
        assert work.news.empty() is not due


def test_events_tell_what_happens_to_a_shard(tmp_path):
    events = []
    work = work_on(tmp_path, 1000, observer=events.append)
    stretch = work.take()
    arrive(work, stretch.download, 0, 1000)
    work.failed(stretch.download, RemoteDataError("no"))
    assert [type(event) for event in events] == [ShardStarted, ShardProgress, ShardFailed]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_given_back_every_byte_arrives_once(tmp_path, seed):
    chance = random.Random(seed)
    work = work_on(tmp_path, 5 * MB, 3, 2 * MB)
    held, total = [], 0
    while not work.over:
        if stretch := work.take():
            held.append(stretch)
        chance.shuffle(held)
        for stretch in held[: chance.randrange(3)]:
            held.remove(stretch)
            cut = chance.randrange(stretch.start, stretch.end + 1)
            arrive(work, stretch.download, stretch.start, cut)
            work.give_back(stretch.download, cut, stretch.end)
            total += cut - stretch.start
        while download := work.take_check():
            work.finished(download)
    assert total == 5 * MB + 3 + 2 * MB


def test_each_connection_stays_with_its_own_file(tmp_path):
    work = work_on(tmp_path, 20 * MB, 20 * MB)
    one, other = work.take(), work.take()
    assert one.download is not other.download
    for last in (one, other):
        more = work.take(last.download)
        assert (more.download, more.start) == (last.download, last.end)


def test_a_connection_without_a_file_of_its_own_helps_with_another(tmp_path):
    work = work_on(tmp_path, 20 * MB, 1000)
    large, small = work.take(), work.take()
    assert work.take(small.download).download is large.download


def test_bytes_that_come_in_order_are_hashed_as_they_come(tmp_path):
    work = work_on(tmp_path, 1000)
    download = work.take().download
    download.write(0, [memoryview(b"a" * 600), memoryview(b"b" * 100)])
    download.write(700, [memoryview(b"c" * 300)])
    assert download.digest.nbytes == 1000
    assert download.digest.hexdigest() == hashlib.sha256(b"a" * 600 + b"b" * 100 + b"c" * 300).hexdigest()


def test_bytes_that_came_too_early_are_hashed_when_their_turn_comes(tmp_path):
    work = work_on(tmp_path, 1000)
    download = work.take().download
    for start, text in ((600, b"b" * 400), (0, b"a" * 600)):
        download.write(start, [memoryview(text)])
        arrive(work, download, start, start + len(text))
    assert download.digest.nbytes == 600
    download.digest.follow(download.partial, threading.Event())
    assert download.digest.hexdigest() == hashlib.sha256(b"a" * 600 + b"b" * 400).hexdigest()


def test_a_download_is_whole_when_all_that_was_taken_of_it_is_accounted_for(tmp_path):
    work = work_on(tmp_path, 20 * MB)
    stretches = []
    while stretch := work.take():
        stretches.append(stretch)
    download = stretches[0].download
    for stretch in stretches:
        download.partial.add(stretch.start, stretch.end)
    for stretch in stretches[:-1]:
        work.arrived(download, stretch.end - stretch.start)
        assert work.take_check() is None
    work.arrived(download, stretches[-1].end - stretches[-1].start)
    assert (work.take_check(), work.take_check()) == (download, None)


def test_a_download_that_was_given_up_is_not_asked_about(tmp_path):
    work = work_on(tmp_path, 1000)
    stretch = work.take()
    work.failed(stretch.download, RemoteDataError("x"))
    stretch.download.partial.add(0, 1000)
    work.arrived(stretch.download, 1000)
    assert work.take_check() is None


def test_a_download_fails_once(tmp_path):
    work = work_on(tmp_path, 1000, 1000)
    download = work.take().download
    work.failed(download, RemoteDataError("x"))
    work.failed(download, RemoteDataError("y"))
    assert [each.error.message for each in work.failures] == ["x"]
    assert not work.over


def test_what_a_connection_has_not_given_back_stays_open(tmp_path):
    work = work_on(tmp_path, 1000)
    stretch = work.take()
    work.leave()
    stretch.download.partial.write(0, [memoryview(b"x")])


def test_nothing_is_to_be_done_any_more_once_all_is_left(tmp_path):
    work = work_on(tmp_path, 1000, 1000)
    work.take()
    work.leave()
    assert work.over
    assert work.take() is None


def test_what_was_kept_and_not_begun_again_is_still_kept(tmp_path):
    file = RemoteFile("a", "cluster0_gpu0.pkl", "/0", 1000, 5)
    part = begin(tmp_path, file)
    part.write(0, [memoryview(bytes(300))])
    part.add(0, 300)
    part.leave()
    work = Work([Download(file, 1, 1, *left_behind(tmp_path))], tmp_path)
    assert work.leave() == 300


def test_hashing_ends_when_it_is_asked_to(tmp_path):
    work, halt = work_on(tmp_path, 1000), threading.Event()
    download = work.take().download
    download.partial.write(0, [memoryview(bytes(1000))])
    arrive(work, download, 0, 1000)
    halt.set()
    download.digest.follow(download.partial, halt)
    assert download.digest.nbytes == 0


def test_after_a_wait_for_the_disk_the_next_is_due_a_while_later(tmp_path, monkeypatch):
    work, halt = work_on(tmp_path, 1000), threading.Event()
    download = work.take().download
    download.synced -= 1000
    monkeypatch.setattr(Partial, "sync", lambda _partial: halt.set())
    finish_all(work, tmp_path, Expected(), halt=halt)
    assert halt.is_set()
    assert not download.due_for_sync


def test_what_was_not_hashed_to_its_end_gets_no_name_and_is_no_failure(tmp_path, monkeypatch):
    work, halt = work_on(tmp_path, 1000), threading.Event()
    download = work.take().download
    download.partial.write(0, [memoryview(bytes(1000))])
    arrive(work, download, 0, 1000)
    work.checked(download, RemoteStat(1000, 5, regular=True))
    monkeypatch.setattr(Digest, "follow", lambda _digest, _partial, halt: halt.set())
    finish_all(work, tmp_path, Expected(), halt=halt)
    assert not download.ended


def test_a_download_that_fails_while_it_is_hashed_stops_no_other(tmp_path, monkeypatch):
    work = work_on(tmp_path, 1000)
    download = work.take().download
    download.partial.write(0, [memoryview(bytes(1000))])
    arrive(work, download, 0, 1000)
    read = Partial.read

    def read_too_late(partial, start, into):
        work.failed(download, RemoteDataError("unreadable"))  # which closes it
        return read(partial, start, into)

    monkeypatch.setattr(Partial, "read", read_too_late)
    finish_all(work, tmp_path, Expected(), halt=threading.Event())
    assert [each.error.message for each in work.failures] == ["unreadable"]


def test_no_more_downloads_are_begun_than_may_be_at_once(tmp_path):
    files = [RemoteFile("a", f"cluster0_gpu{number}.pkl", f"/{number}", 1, 5) for number in range(5)]
    downloads = [Download(file, number, 5) for number, file in enumerate(files, 1)]
    work = Work(downloads, tmp_path, at_once=2)
    taken = [work.take() for _ in range(3)]
    assert [each and each.download for each in taken] == [*downloads[:2], None]

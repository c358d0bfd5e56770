"""Bad lines, bad servers, bad disks: after each, the local shards are the remote ones or absent, and it is said why."""

import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import asyncssh
import paramiko
import pytest

from embmerge.demo.server import Home
from embmerge.errors import ConnectionLost, DiskError, Interrupted, LoginError, RemoteChanged, RemoteDataError
from embmerge.events import Retrying, ShardFailed, Warned
from embmerge.remote import manifest, retry, transfer
from tests.syncing import MB, Lab, partials, write_shard

ROOT = Path(__file__).resolve().parent.parent
TWICE = MB  # bytes that a cut may cost
READ_AT_ONCE = 16 * MB  # bytes a second: slow enough to be read as they come, since a reset loses what is unread
OVERHEAD = 600_000  # bytes of logins, of packets around the data


pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def lab(tmp_path):
    with Lab(tmp_path) as lab:
        yield lab


both_ways = pytest.mark.parametrize("transfer", ["fast", "plain"])


@both_ways
@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_after_any_tenth_of_a_file(lab, tenth, transfer):
    (path,) = lab.shards(1, rows=3000)
    size = path.stat().st_size
    lab.relay.rate = READ_AT_ONCE
    lab.relay.cut_after(size * tenth // 10 + 5000, how="reset" if tenth % 2 else "fin")
    assert lab.sync(connections=1, transfer=transfer).error is None
    assert lab.same()
    assert lab.relay.reached.is_set()
    assert lab.relay.passed < size + TWICE + OVERHEAD


@both_ways
def test_a_cut_a_hundred_bytes_before_the_end(lab, transfer):
    (path,) = lab.shards(1, rows=1000)
    lab.relay.cut_after(path.stat().st_size + 2000)
    assert lab.sync(connections=1, transfer=transfer).error is None
    assert lab.same()


@both_ways
def test_twenty_random_cuts_in_one_sync(lab, transfer):
    paths = lab.shards(4, rows=2500)
    size = sum(path.stat().st_size for path in paths)
    chance, cuts = random.Random(20), itertools.count(1)

    def cut_again():
        lab.relay.cut(chance.choice(["reset", "fin"]))
        if next(cuts) < 20:
            lab.relay.call_after(chance.randrange(size // 25), cut_again)

    lab.relay.call_after(100_000, cut_again)
    assert lab.sync(connections=3, retries=30, transfer=transfer).error is None
    assert len(lab.same()) == 4
    assert next(cuts) > 20


def test_a_session_that_ends_before_its_line_is_tried_again(lab, monkeypatch):
    lab.shards(2)
    ask, calls = paramiko.SFTPClient.open, itertools.count(1)

    def too_late(client, *about):
        if next(calls) == 1:
            client.get_channel().close()
        return ask(client, *about)

    monkeypatch.setattr(paramiko.SFTPClient, "open", too_late)
    assert lab.sync(transfer="plain").error is None
    assert len(lab.same()) == 2


def test_a_session_that_ends_within_a_shard_does_not_make_it_shorter(tmp_path):
    reads = itertools.count(1)

    class Ending(Home):
        def read(self, file, offset, size):
            if next(reads) == 20:
                self.channel.exit(1)
            return super().read(file, offset, size)

    with Lab(tmp_path, home=Ending) as lab:
        lab.shards(2, rows=2000)
        assert lab.sync(transfer="plain").error is None
        assert len(lab.same()) == 2


def test_an_end_that_paramiko_finds_in_a_file_that_goes_on_is_tried_again(lab, monkeypatch):
    lab.shards(2)
    read, calls = paramiko.SFTPFile.readv, itertools.count(1)

    def short(file, blocks):
        parts = list(read(file, blocks))
        return [part[:-1] for part in parts] if next(calls) == 1 else parts

    monkeypatch.setattr(paramiko.SFTPFile, "readv", short)
    assert lab.sync(transfer="plain").error is None
    assert len(lab.same()) == 2


def test_the_first_connect_is_tried_again(lab):
    lab.shards(1)
    lab.relay.refuse(connections=1)
    assert lab.sync().error is None
    assert lab.same()
    assert lab.seen(Retrying)


def test_a_line_that_does_not_come_back_is_given_up_and_what_is_here_is_kept(lab):
    lab.shards(1, rows=6000)
    lab.relay.rate = READ_AT_ONCE
    lab.relay.call_after(3 * MB, lambda: (lab.relay.cut(), lab.relay.refuse()))
    result = lab.sync(retries=2)
    assert isinstance(result.error, ConnectionLost)
    assert "what is here is kept" in result.error.hint
    assert [event.attempt for event in lab.seen(Retrying)][-1] == 2
    lab.relay.accept()
    before = lab.relay.passed
    assert lab.sync().error is None
    assert lab.same()
    assert lab.relay.passed - before < 4 * MB + OVERHEAD


@both_ways
def test_a_frozen_line_is_given_up_after_the_stall_timeout_and_opened_again(lab, transfer):
    lab.shards(1, rows=4000)
    lab.relay.call_after(MB, lambda: lab.relay.freeze(seconds=1.2))
    assert lab.sync(stall_timeout=0.5, connect_timeout=0.5, retries=30, transfer=transfer).error is None
    assert lab.same()
    assert any("no byte for 0.5 s" in event.reason for event in lab.seen(Retrying))


def test_a_server_that_is_restarted(lab):
    lab.shards(2, rows=6000)
    lab.relay.call_after(2 * MB, lambda: None)

    def restarting():
        lab.relay.reached.wait(20)
        lab.server.stop()
        lab.server.start()

    thread = threading.Thread(target=restarting)
    thread.start()
    assert lab.sync(retries=50, stall_timeout=1, connect_timeout=1).error is None
    thread.join()
    assert len(lab.same()) == 2


def test_a_corrupted_line_never_makes_a_corrupted_shard(lab):
    lab.shards(1, rows=4000)
    lab.relay.corrupt_after(MB)
    assert lab.sync().error is None
    assert lab.same()


def test_a_slow_line_is_no_lost_line(lab):
    (path,) = lab.shards(1, rows=300)
    lab.relay.rate = path.stat().st_size
    assert lab.sync(stall_timeout=0.5).error is None
    assert lab.same()
    assert not lab.seen(Retrying)


def test_a_wrong_password_is_never_tried_again(lab):
    lab.shards(1)
    path = lab.credentials / "a.credentials"
    path.write_text(path.read_text().replace("secret", "wrong"))
    result = lab.sync()
    assert isinstance(result.error, LoginError)
    assert not lab.seen(Retrying)


@both_ways
def test_a_file_that_is_replaced_during_the_download(lab, transfer):
    (path,) = lab.shards(1, rows=4000)
    os.utime(path, (1_700_000_000, 1_700_000_000))

    def replace():
        write_shard(path.with_name("cluster0_gpu99.pkl"), rows=4000, seed=7).rename(path)

    lab.relay.call_after(MB, replace)
    result = lab.sync(transfer=transfer)
    assert isinstance(result.error, RemoteChanged)
    assert lab.same() == set()
    assert not partials(lab.local)
    assert lab.sync(transfer=transfer).error is None
    assert lab.same()


@both_ways
def test_a_file_that_is_truncated_during_the_download(lab, transfer):
    (path,) = lab.shards(1, rows=4000)
    lab.relay.call_after(MB // 2, lambda: os.truncate(path, 2 * MB))
    result = lab.sync(connections=1, transfer=transfer)
    assert isinstance(result.error, RemoteChanged)
    assert result.error.exit_code == 4
    assert lab.same() == set()
    assert not partials(lab.local)


def test_a_file_that_grows_during_the_download(lab):
    (path,) = lab.shards(1, rows=4000)

    def grow():
        with path.open("ab") as file:
            file.write(b"more")

    lab.relay.call_after(MB, grow)
    result = lab.sync()
    assert isinstance(result.error, RemoteChanged)
    assert "changed during the download" in result.error.message
    assert lab.same() == set()


def test_a_partial_of_another_version_is_thrown_away(lab):
    (path,) = lab.shards(1, rows=6000)
    lab.relay.rate = READ_AT_ONCE
    lab.relay.call_after(3 * MB, lambda: (lab.relay.cut(), lab.relay.refuse()))
    lab.sync(retries=0)
    assert len(partials(lab.local)) == 1
    write_shard(path, rows=6000, seed=5)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    lab.relay.accept()
    result = lab.sync()
    assert [step.action for step in result.clusters[0].steps] == ["fetch"]
    assert lab.same()
    assert not partials(lab.local)


def test_only_shards_are_taken_among_odd_names_and_many_files(lab):
    lab.shards(1)
    (lab.remote / "cluster1_gpu0.pkl.part").write_bytes(b"x")
    (lab.remote / "progress.json").write_text("{}")
    (lab.remote / "cluster1_gpu1.pkl").mkdir()
    (lab.remote / "cluster1_gpu2.pkl").symlink_to(lab.remote / "cluster0_gpu0.pkl")
    (lab.remote.parent / "cluster1_gpu0.pkl").write_bytes(b"above")
    for number in range(2000):
        (lab.remote / f"unrelated_{number}.log").touch()
    assert lab.sync().error is None
    assert "cluster0_gpu0.pkl" in lab.same()
    assert "cluster1_gpu1.pkl" not in lab.same()


class UnreadableAfterAMegabyte(Home):
    """A disk with a bad spot, in the middle of one file."""

    def read(self, file_obj, offset, size):
        if b"gpu1" in os.fsencode(file_obj.name) and offset > MB:
            raise asyncssh.SFTPError(asyncssh.FX_FAILURE, "input/output error")
        return super().read(file_obj, offset, size)


@both_ways
def test_a_read_error_at_the_server_fails_that_file_alone(tmp_path, transfer):
    with Lab(tmp_path, home=UnreadableAfterAMegabyte) as lab:
        lab.shards(3, rows=3000)
        result = lab.sync(transfer=transfer)
        assert isinstance(result.error, RemoteDataError)
        assert "cluster0_gpu1.pkl cannot be read" in result.error.message
        assert lab.same() == {"cluster0_gpu0.pkl", "cluster0_gpu2.pkl"}
        assert [event.name for event in lab.seen(ShardFailed)] == ["cluster0_gpu1.pkl"]


@both_ways
def test_of_a_file_with_a_bad_spot_what_came_is_kept(tmp_path, transfer):
    with Lab(tmp_path, home=UnreadableAfterAMegabyte) as lab:
        lab.shards(2, rows=3000)
        lab.sync(transfer=transfer)
        (planned,) = lab.sync(dry_run=True, transfer=transfer).clusters
        assert [step.action for step in planned.steps] == ["skip", "resume"]


@both_ways
def test_a_file_with_a_bad_spot_takes_no_other_ones_turn_under_a_limit(tmp_path, transfer):
    with Lab(tmp_path, home=UnreadableAfterAMegabyte) as lab:
        lab.shards(3, rows=3000)
        lab.sync(connections=1, limit_rate=20 * MB, transfer=transfer)
        assert lab.same() == {"cluster0_gpu0.pkl", "cluster0_gpu2.pkl"}


@both_ways
def test_several_files_that_cannot_be_read_are_one_error_of_the_same_kind(tmp_path, transfer):
    class Broken(Home):
        def read(self, *_request):
            raise asyncssh.SFTPError(asyncssh.FX_FAILURE, "input/output error")

    with Lab(tmp_path, home=Broken) as lab:
        lab.shards(3)
        error = lab.sync(transfer=transfer).error
        assert isinstance(error, RemoteDataError)
        assert "3 of 3 shards could not be fetched; the first: a: " in error.message


@both_ways
def test_a_file_that_is_gone_when_it_is_opened_leaves_nothing(tmp_path, transfer):
    class Losing(Home):
        def open(self, *_request):
            raise asyncssh.SFTPNoSuchFile("no such file")

    with Lab(tmp_path, home=Losing) as lab:
        lab.shards(1)
        error = lab.sync(transfer=transfer).error
        assert isinstance(error, RemoteChanged)
        assert "is not there any more" in error.message
        assert not partials(lab.local)
        assert not lab.seen(Retrying)


@both_ways
def test_a_file_that_may_not_be_read(tmp_path, transfer):
    class Forbidding(Home):
        def open(self, *_request):
            raise asyncssh.SFTPPermissionDenied("permission denied")

    with Lab(tmp_path, home=Forbidding) as lab:
        lab.shards(1)
        result = lab.sync(transfer=transfer)
        assert "may not be read" in result.error.message
        assert result.error.exit_code == 4


class SmallAnswers(Home):
    """A server that never sends more than 40 KB at a time, whatever was asked."""

    def read(self, file_obj, offset, size):
        return super().read(file_obj, offset, min(size, 40_000))


def test_a_server_that_answers_less_than_was_asked(tmp_path):
    with Lab(tmp_path, home=SmallAnswers) as lab:
        lab.shards(2, rows=2000)
        assert lab.sync().error is None
        assert len(lab.same()) == 2


def test_a_full_disk_is_said_and_nothing_is_half_written(lab):
    lab.shards(1, rows=4000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MB, before[1]))
    try:
        with pytest.raises(DiskError, match="still to come") as caught:
            lab.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 6
    assert lab.same() == set()
    assert lab.sync().error is None
    assert lab.same()


def test_fewer_connections_than_asked_are_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_BYTES_A_LANE", MB)
    with Lab(tmp_path, relay={"at_most": 2, "rate": 8 * MB}) as lab:
        lab.shards(2, rows=4000)
        assert lab.sync(connections=4).error is None
        assert len(lab.same()) == 2
        assert len([event for event in lab.seen(Warned) if "fewer connections" in event.text]) == 1


def start_sync(lab):
    """`invoke sync`, as a person starts it in the folder above the shards."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")}
    own |= {"HOME": str(lab.home), "LANG": "C.UTF-8"}
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), "sync", "--connections", "2"]
    return subprocess.Popen(command, cwd=lab.local.parent, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_sigkill_of_invoke_sync_at_ten_random_moments_then_a_run_to_the_end(lab):
    paths = lab.shards(3, rows=6000)
    size = sum(path.stat().st_size for path in paths)
    chance = random.Random(10)
    lab.relay.rate = 25 * MB  # what has passed is with the client then, and not somewhere in the system
    for _ in range(10):
        lab.relay.call_after(chance.randrange(50_000, size // 8), lambda: None)
        with start_sync(lab) as run:
            while not lab.relay.reached.wait(0.05) and run.poll() is None:
                pass
            run.kill()
        assert run.returncode == -signal.SIGKILL
        if lab.local.exists():
            lab.same()
    with start_sync(lab) as run:
        _, said = run.communicate()
    assert run.returncode == 0, said
    assert len(lab.same()) == 3
    assert not partials(lab.local)
    assert lab.relay.passed < size + 10 * (TWICE + OVERHEAD)


def test_ctrl_c_of_invoke_sync_lets_it_note_how_fast_the_line_was(lab):
    lab.shards(1, rows=16_000)
    lab.relay.rate = 20 * MB
    lab.relay.call_after(6 * MB, lambda: None)
    with start_sync(lab) as run:
        lab.relay.reached.wait(20)
        run.send_signal(signal.SIGINT)
    assert run.returncode == 130
    assert manifest.read(lab.local).rates["a"] > MB


def test_a_stop_while_the_line_is_frozen_is_heard_within_two_seconds(lab):
    lab.shards(1, rows=4000)
    stopped = []

    def freeze():
        lab.relay.freeze()
        stopped.append(time.monotonic())
        lab.stop.set()

    lab.relay.call_after(MB, freeze)
    with pytest.raises(Interrupted, match="kept"):
        lab.sync(stall_timeout=30)
    assert time.monotonic() - stopped[0] < 2


@both_ways
def test_a_cut_while_the_last_look_at_a_file_is_on_its_way(tmp_path, monkeypatch, transfer):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    cuts = []

    class Cutting(Home):
        def stat(self, path):
            if lab.relay.passed > 200_000 and not cuts:
                cuts.append(path)
                lab.relay.cut()
            return super().stat(path)

    with Lab(tmp_path, home=Cutting) as lab:
        lab.shards(1, rows=400)
        assert lab.sync(connections=1, transfer=transfer).error is None
        assert lab.same()
    assert cuts

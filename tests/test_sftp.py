"""The channel, on real servers: many questions at once, few round trips."""

import contextlib
import errno
import struct
import time

import asyncssh
import pytest

from embmerge.demo.server import Home
from embmerge.errors import ConnectionLost
from embmerge.remote.files import RemoteStat
from embmerge.remote.sftp import Read, SftpChannel, WireError
from tests.syncing import Lab

both_servers = pytest.mark.parametrize("sshd", [None, {}], ids=["embedded", "OpenSSH"])


@contextlib.contextmanager
def channel_to(tmp_path, sshd=None, *, stall_timeout=5.0, home=Home, **relay):
    with Lab(tmp_path, sshd=sshd, home=home, relay=relay) as lab:
        cluster = lab.cluster(lab.settings())
        cluster.connect()
        channel = SftpChannel(cluster.connection.transport, stall_timeout=stall_timeout)
        try:
            yield lab, channel
        finally:
            channel.close()
            cluster.close()


def opened(channel):
    """The handle of /out/x."""
    handles = []
    channel.open("/out/x", handles.append)
    while not handles:
        channel.wait(1)
    return handles[0]


@both_servers
def test_stats_answer_in_order(tmp_path, sshd):
    with channel_to(tmp_path, sshd) as (lab, channel):
        (lab.remote / "x").write_bytes(b"12345")
        at = lab.remote_dir
        there, missing, folder = channel.stats([f"{at}/x", f"{at}/y", at])
        assert there == RemoteStat(5, int((lab.remote / "x").stat().st_mtime), regular=True)
        assert missing.errno == errno.ENOENT
        assert folder.regular is False


@both_servers
def test_blocks_are_read_from_many_files(tmp_path, sshd):
    with channel_to(tmp_path, sshd) as (lab, channel):
        for name in "xy":
            (lab.remote / name).write_bytes(name.encode() * 10)
        at = lab.remote_dir
        blocks = channel.read_blocks([(f"{at}/x", 0, 3), (f"{at}/y", 8, 50), (f"{at}/x", 99, 1), (f"{at}/no", 0, 1)])
        assert blocks[:3] == [b"xxx", b"yy", b""]
        assert blocks[3].errno == errno.ENOENT


def test_blocks_of_many_files_cost_few_round_trips(tmp_path):
    with channel_to(tmp_path, delay=0.05) as (lab, channel):
        for number in range(32):
            (lab.remote / f"{number}").write_bytes(b"x")
        began = time.monotonic()
        channel.read_blocks([(f"/out/{number}", 0, 1) for number in range(32)])
        assert time.monotonic() - began < 0.6  # three round trips, and not 64


def test_a_long_read_goes_to_its_place(tmp_path):
    with channel_to(tmp_path) as (lab, channel):
        content = bytes(range(256)) * 4000
        (lab.remote / "x").write_bytes(content)
        handle = opened(channel)
        got, ended = bytearray(len(content)), []

        def sink(offset, parts):
            data = b"".join(parts)
            got[offset : offset + len(data)] = data

        for offset in range(0, len(content), 100_000):
            channel.read(handle, [Read(offset, min(100_000, len(content) - offset), sink)], ended.append)
        while channel.waiting_for:
            channel.wait(1)
        assert bytes(got) == content
        assert set(ended) == {None}


def test_reading_after_the_end_says_so(tmp_path):
    with channel_to(tmp_path) as (lab, channel):
        (lab.remote / "x").write_bytes(b"12345")
        ended = []
        channel.read(opened(channel), [Read(0, 10, lambda _offset, _parts: None)], ended.append)
        while not ended:
            channel.wait(1)
        assert ended[0].errno == errno.ENODATA


def test_a_line_that_is_cut_is_a_lost_connection(tmp_path):
    with channel_to(tmp_path) as (lab, channel):
        lab.relay.cut()
        with pytest.raises(ConnectionLost):
            channel.stats(["/out"])


def test_a_silent_line_is_a_lost_connection(tmp_path):
    with channel_to(tmp_path, stall_timeout=0.3) as (lab, channel):
        lab.relay.freeze()
        with pytest.raises(ConnectionLost, match=r"no byte for 0\.3 s"):
            channel.stats(["/out"])


class CutShort(Home):
    """A server whose attributes end before they are complete."""

    def stat(self, _path):
        class Attributes(asyncssh.SFTPAttrs):
            def encode(self, _version):
                return struct.pack(">I", 0xD) + bytes(2)

        return Attributes()


def test_attributes_that_are_cut_short_are_no_sftp(tmp_path):
    with channel_to(tmp_path, home=CutShort) as (_lab, channel), pytest.raises(WireError):
        channel.stats(["/out"])


def test_a_silent_line_is_closed_for_whoever_comes_next(tmp_path):
    with channel_to(tmp_path, stall_timeout=0.5) as (lab, channel):
        lab.relay.freeze()
        with pytest.raises(ConnectionLost):
            channel.stats(["/out"])
        assert not channel._transport.is_active()


def test_a_session_that_the_server_ends_is_a_lost_connection_at_once(tmp_path):
    class Ending(Home):
        def stat(self, path):
            self.channel.exit(1)
            return super().stat(path)

    with channel_to(tmp_path, home=Ending) as (_lab, channel):
        with pytest.raises(ConnectionLost, match="closed by the server"):
            channel.stats(["/out"])
        assert channel._transport.is_active()


def test_a_question_after_a_long_silence_is_given_its_time(tmp_path):
    with channel_to(tmp_path, delay=0.02) as (_lab, channel):
        answers = []
        channel._inbox._heard -= 1000
        channel.stat("/out", answers.append)
        channel.wait(0.001)
        assert answers == []


def test_what_comes_after_the_end_of_a_session_is_written_nowhere(tmp_path):
    with channel_to(tmp_path) as (lab, channel):
        (lab.remote / "x").write_bytes(b"12345")
        handle, written = opened(channel), []
        lab.relay.freeze()
        channel.read(handle, [Read(0, 5, lambda *taken: written.append(taken))], lambda _error: None)
        channel.wait(0.001)
        channel.close()
        lab.relay.thaw()
        another = SftpChannel(channel._transport, stall_timeout=5)
        another.stats(["/out"])  # by whose answer the bytes have come
        another.close()
        assert written == []
        assert channel._channel.closed


class Counting(Home):
    """Knows how many files are open."""

    files = 0

    def open(self, *request):
        Counting.files += 1
        return super().open(*request)

    def close(self, file):
        Counting.files -= 1
        super().close(file)


def test_files_whose_blocks_were_read_are_closed(tmp_path):
    with channel_to(tmp_path, home=Counting) as (lab, channel):
        (lab.remote / "x").write_bytes(b"12345")
        assert channel.read_blocks([("/out/x", 0, 3), ("/out/x", 3, 2)]) == [b"123", b"45"]
        channel.stats(["/out"])
        assert Counting.files == 0

"""What a transfer makes of what OpenSSH's server grants, and of a server that does not fit."""

import asyncio
import contextlib
import threading
import time

import asyncssh
import pytest

from embmerge.demo.server import Accounts, Home
from embmerge.errors import ConnectError, DiskError, HostKeyError
from embmerge.events import Detail, Retrying, ShardFetched, ShardProgress, ShardsFound, Warned
from embmerge.remote import gate, retry, transfer
from embmerge.remote.cluster import Cluster
from embmerge.remote.credentials import load_credentials
from embmerge.remote.partial import Partial
from embmerge.remote.transfer import lanes
from tests.servers import Login
from tests.syncing import MB, Lab, write_shard

both_ways = pytest.mark.parametrize("transfer", ["fast", "plain"])


pytestmark = pytest.mark.usefixtures("short_pauses")


@contextlib.contextmanager
def openssh(tmp_path, *lines, shell=True):
    with Lab(tmp_path, sshd={"lines": lines, "shell": shell}) as lab:
        yield lab


def warnings(lab):
    return [event.text for event in lab.seen(Warned)]


def test_connections_are_opened_only_where_they_are_worth_it():
    assert lanes(1000, 1, 4) == 1
    assert lanes(10 << 20, 1, 4) == 2
    assert lanes(1 << 30, 1, 4) == 4
    assert lanes(1000, 100, 4) == 4


@both_ways
def test_openssh_gives_what_it_has(tmp_path, transfer):
    with openssh(tmp_path) as lab:
        lab.shards(4, rows=9000)
        assert lab.sync(transfer=transfer).error is None
        assert len(lab.same()) == 4
        assert warnings(lab) == []


@both_ways
def test_one_session_a_connection_is_enough(tmp_path, transfer):
    with openssh(tmp_path, "MaxSessions 1") as lab:
        lab.shards(2, rows=20_000)
        assert lab.sync(transfer=transfer, connections=2).error is None
        assert len(lab.same()) == 2


@both_ways
def test_one_session_that_ends_late_on_the_one_connection_is_enough(tmp_path, transfer):
    late = "ForceCommand /usr/lib/openssh/sftp-server; sleep 0.3"
    with Lab(tmp_path, sshd={"lines": ["MaxSessions 1", late]}, relay={"at_most": 1}) as lab:
        lab.shards(2)
        assert lab.sync(transfer=transfer, connections=1, retries=0).error is None
        assert len(lab.same()) == 2


def test_fewer_logins_at_the_same_time_than_asked_are_enough(tmp_path):
    with openssh(tmp_path, "MaxStartups 1") as lab:
        lab.shards(2, rows=30_000)
        assert lab.sync(connections=4).error is None
        assert len(lab.same()) == 2


def test_a_slow_cipher_is_said_once(tmp_path):
    with openssh(tmp_path, "Ciphers aes256-ctr") as lab:
        lab.shards(2, rows=10_000)
        assert lab.sync(connections=2).error is None
        assert warnings(lab) == ["the server offers no AES-GCM; aes256-ctr is slower"]


def test_a_login_without_a_shell_syncs_but_cannot_compare_checksums(tmp_path):
    with openssh(tmp_path, shell=False) as lab:
        lab.shards(1)
        assert lab.sync().error is None
        assert lab.same()
        result = lab.sync(checksum=True, stall_timeout=1)
        assert isinstance(result.error, ConnectError)
        assert "no shell with sha256sum" in result.error.message


def test_checksums_of_openssh_are_compared(tmp_path):
    with openssh(tmp_path) as lab:
        (path,) = lab.shards(1)
        lab.sync()
        assert [step.action for step in lab.sync(checksum=True).clusters[0].steps] == ["skip"]
        (lab.local / path.name).write_bytes(b"x" * path.stat().st_size)
        assert lab.sync(checksum=True).error is None
        assert lab.same()


@both_ways
@pytest.mark.parametrize("lines", [[], ["Subsystem sftp /bin/false"]], ids=["no subsystem", "one that ends at once"])
def test_a_server_without_sftp_is_told_at_once(tmp_path, transfer, lines):
    lab = Lab(tmp_path, sshd={})
    lab.server.lines = [line for line in lab.server.lines if not line.startswith("Subsystem")] + lines
    with lab:
        lab.shards(1)
        result = lab.sync(transfer=transfer)
        assert result.error.exit_code == 3
        assert "it has no SFTP there" in result.error.message
        assert lab.seen(Retrying) == []


@both_ways
def test_a_login_that_prints_text_before_sftp_is_told_at_once(tmp_path, transfer):
    lab = Lab(tmp_path, sshd={})
    greeting = "Subsystem sftp echo Welcome to the cluster; exec /usr/lib/openssh/sftp-server"
    lab.server.lines = [line for line in lab.server.lines if not line.startswith("Subsystem")] + [greeting]
    with lab:
        result = lab.sync(transfer=transfer)
        assert result.error.exit_code == 3
        assert "does the login print text?" in result.error.message
        assert lab.seen(Retrying) == []


@pytest.fixture
def _one_at_work(monkeypatch):
    """Only one connection at a time gets sessions."""
    granted, really = [], asyncssh.SSHServerConnection._process_session_open

    def grant(connection, packet):
        if granted and granted[-1] is not connection and not granted[-1].is_closed():
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many sessions")
        granted.append(connection)
        return really(connection, packet)

    monkeypatch.setattr(asyncssh.SSHServerConnection, "_process_session_open", grant)


@pytest.mark.usefixtures("_one_at_work")
def test_a_connection_that_gets_no_session_is_closed(tmp_path, monkeypatch):
    with Lab(tmp_path, relay={"delay": 0.01, "rate": 16 * MB}) as lab:
        lab.shards(2, rows=9000)
        assert lab.sync(connections=3).error is None
        assert lab.relay.connections > 1
        assert lab.relay.over.wait(5)


@pytest.mark.usefixtures("_one_at_work")
def test_a_line_that_drops_is_tried_again_where_further_connections_get_no_session(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_BYTES_A_LANE", MB)
    with Lab(tmp_path, relay={"delay": 0.01}) as lab:
        lab.shards(2, rows=4000)
        lab.relay.rate = 8 * MB
        lab.relay.call_after(4 * MB, lab.relay.cut)
        assert lab.sync(connections=3).error is None
        assert len(lab.same()) == 2
        assert len(lab.seen(Retrying)) == 1


def test_a_password_that_is_refused_for_further_connections_is_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_BYTES_A_LANE", MB)
    tries = []

    class Once(Accounts):
        def validate_password(self, _username, _password):
            tries.append(None)
            return len(tries) == 1

    with Lab(tmp_path, relay={"delay": 0.01}) as lab:
        lab.server._accounts = lambda: Once({"user": "secret"})
        lab.shards(2, rows=4000)
        lab.relay.rate = 8 * MB
        assert lab.sync(connections=3).error is None
        assert len(tries) == 3


def test_a_refusal_of_before_does_not_end_a_sync_that_finds_no_line_later(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_BYTES_A_LANE", MB)
    tries = []

    class AllButTheSecond(Accounts):
        def validate_password(self, _username, _password):
            tries.append(None)
            return len(tries) != 2

    with Lab(tmp_path, relay={"delay": 0.01, "rate": 8 * MB}) as lab:
        lab.server._accounts = lambda: AllButTheSecond({"user": "secret"})
        lab.shards(1, rows=4000)
        lab.relay.call_after(2 * MB, lambda: (lab.relay.cut(), lab.relay.refuse()))
        monkeypatch.setattr(
            lab, "see", lambda event: (lab.events.append(event), len(lab.seen(Retrying)) == 2 and lab.relay.accept())
        )
        assert lab.sync(connections=2).error is None
        assert len(lab.seen(Retrying)) >= 2
        assert lab.same()


def test_a_restart_of_sshd_costs_a_retry(tmp_path):
    with openssh(tmp_path) as lab:
        lab.shards(2, rows=9000)
        lab.relay.rate = 30 * MB
        lab.relay.call_after(3 * MB, lambda: None)

        def restart():
            lab.relay.reached.wait(20)
            lab.server.stop()
            lab.relay.cut()  # sshd's sessions outlive it; those of a machine that restarts do not
            lab.server.start()

        restarting = threading.Thread(target=restart)
        restarting.start()
        result = lab.sync(retries=50, connections=1)
        restarting.join()
        assert result.error is None
        assert len(lab.same()) == 2
        assert lab.seen(Retrying)


class Generous(Home):
    """A server that answers more than was asked, which paramiko's client lives with."""

    def read(self, file_obj, offset, size):
        return super().read(file_obj, offset, size + 1000)


def test_a_server_that_does_not_fit_is_read_plainly(tmp_path):
    with Lab(tmp_path, home=Generous) as lab:
        lab.shards(2, rows=2000)
        assert lab.sync().error is None
        assert len(lab.same()) == 2
        assert [text.partition(",")[0] for text in warnings(lab)] == ["goes on with paramiko's own SFTP client"]


def test_connections_that_drop_are_told_in_detail(tmp_path):
    with openssh(tmp_path) as lab:
        lab.shards(1, rows=9000)
        lab.relay.cut_after(2 * MB)
        assert lab.sync(connections=1).error is None
        assert any("connection lost" in event.text for event in lab.seen(Detail))


def test_a_connection_that_drops_while_others_go_on_is_said(tmp_path):
    with Lab(tmp_path, relay={"delay": 0.005, "rate": 60 * MB}) as lab:
        lab.shards(2, rows=30_000)
        lab.relay.call_after(30 * MB, lab.relay.cut_one)  # both have brought something by then
        assert lab.sync(connections=2).error is None
        assert len(lab.same()) == 2
        assert any(text.startswith("a connection dropped, and another takes its place") for text in warnings(lab))


def test_a_disk_that_fails_while_the_line_is_waited_for_is_what_is_told(tmp_path, monkeypatch):
    waiting = threading.Event()
    with Lab(tmp_path) as lab:
        lab.shards(1)
        write_shard(lab.remote / "cluster0_gpu9.pkl", start=64, rows=12_000, seed=3)
        monkeypatch.setattr(retry, "FIRST_PAUSE", 5.0)
        monkeypatch.setattr(lab, "see", lambda event: waiting.set() if isinstance(event, Retrying) else None)

        def full(_self, _target):
            waiting.wait(20)
            raise DiskError("No space left on device")

        def cut():
            lab.relay.cut()
            lab.relay.refuse()

        monkeypatch.setattr(Partial, "promote", full)
        lab.relay.rate = 16 * MB
        lab.relay.call_after(6 * MB, cut)
        with pytest.raises(DiskError):
            lab.sync(connections=1)


@contextlib.contextmanager
def asking_for_a_code(tmp_path):
    """A lab whose server asks for a second factor, and what somebody was asked."""
    asked = []

    def answer(prompt):
        asked.append(prompt)
        return "123456"

    with Lab(tmp_path) as lab:
        lab.server._accounts = lambda: Login(questions=[("Code: ", "123456")])
        credentials = load_credentials(lab.name, lab.credentials)
        lab.cluster = lambda settings: Cluster(credentials, settings, observer=lab.see, stop=lab.stop, ask=answer)
        yield lab, asked


@both_ways
def test_where_a_code_is_asked_one_connection_brings_all(tmp_path, transfer):
    with asking_for_a_code(tmp_path) as (lab, asked):
        lab.shards(1, rows=9000)  # worth two
        assert lab.sync(connections=4, transfer=transfer).error is None
        assert lab.same()
        assert (lab.relay.connections, len(asked)) == (1, 1)


def test_where_a_code_was_asked_a_line_that_drops_ends_the_sync_and_nobody_is_asked_again(tmp_path):
    with asking_for_a_code(tmp_path) as (lab, asked):
        lab.shards(1, rows=4000)
        lab.relay.rate = 16 * MB
        lab.relay.cut_after(2 * MB)
        error = lab.sync().error
        assert isinstance(error, ConnectError)
        assert "another connection needs another code" in error.message
        assert "what is here is kept" in error.hint
        assert len(asked) == 1
        assert not lab.seen(Retrying)


def test_a_host_key_that_changes_while_shards_come_ends_the_sync_without_another_try(tmp_path):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    reads, so_far = [], set()

    class Pausing(Home):
        async def read(self, *request):
            reads.append(request)
            if len(reads) > 4:
                await asyncio.Event().wait()
            return super().read(*request)

    def see(event):
        lab.events.append(event)
        if isinstance(event, ShardsFound):  # by the first connection; the second is refused
            (lab.credentials / "known_hosts").write_text(f"[127.0.0.1]:{lab.relay.port} {other}")
        elif isinstance(event, ShardProgress) or (isinstance(event, Detail) and "host key" in event.text):
            so_far.add(type(event))
            if len(so_far) == 2:
                lab.relay.cut()

    with Lab(tmp_path, home=Pausing, relay={"delay": 0.005}) as lab:
        lab.see = see
        lab.shards(1, rows=9000)  # worth two connections
        assert isinstance(lab.sync(connections=2).error, HostKeyError)
        assert not lab.seen(Retrying)


def test_a_further_connection_that_is_not_taken_is_asked_for_twice_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    monkeypatch.setattr(gate, "_PROBE", 0.1)  # by then the first one is at work
    with Lab(tmp_path, relay={"rate": 16 * MB, "at_most": 1}) as lab:
        lab.shards(1, rows=9000)  # worth two
        assert lab.sync(connections=2).error is None
        assert lab.relay.connections == 3


def test_a_further_connection_that_dies_before_it_brings_anything_is_not_opened_again(tmp_path):
    lines, died = [], asyncio.Event()

    class Dying(Home):
        def __init__(self, chan):
            super().__init__(chan)
            self.line = chan.get_connection()
            lines.append(self.line)

        async def read(self, *request):
            if self.line is lines[0]:
                await died.wait()
            else:
                died.set()
                self.line.abort()
            return super().read(*request)

    with Lab(tmp_path, home=Dying, relay={"delay": 0.005}) as lab:
        lab.shards(1, rows=17_000)  # worth two
        assert lab.sync(connections=2).error is None
        assert lab.relay.connections == 2


def test_no_connection_of_a_sync_stays_open(tmp_path):
    with Lab(tmp_path, relay={"delay": 0.005, "rate": 40 * MB}) as lab:
        lab.shards(2, rows=9000)
        assert lab.sync(connections=3).error is None
        assert lab.relay.connections == 3
        assert lab.relay.over.wait(5)


@both_ways
def test_few_files_are_open_at_the_server_at_the_same_time(tmp_path, transfer):
    opened, most = set(), []

    class Counting(Home):
        def open(self, *request):
            file = super().open(*request)
            opened.add(file)
            most.append(len(opened))
            return file

        def close(self, file):
            opened.discard(file)
            super().close(file)

    with Lab(tmp_path, home=Counting) as lab:
        lab.shards(100, rows=1, dim=8)
        assert lab.sync(connections=1, transfer=transfer).error is None
    assert max(most) <= 64


def test_after_a_drop_there_is_a_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.5)
    times = {}
    with Lab(tmp_path) as lab:
        (path,) = lab.shards(1, rows=400)
        monkeypatch.setattr(lab, "see", lambda event: times.setdefault(type(event), (time.monotonic(), event)))
        lab.relay.cut_after(path.stat().st_size)
        assert lab.sync(connections=1).error is None
    (dropped, event), (done, _) = times[Retrying], times[ShardFetched]
    assert done - dropped >= event.pause

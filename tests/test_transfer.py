"""What a transfer makes of what OpenSSH's server grants, and of a server that does not fit."""

import contextlib
import threading

import pytest

from embmerge.demo.server import Home
from embmerge.errors import ConnectError
from embmerge.events import Detail, Retrying, Warned
from embmerge.remote import retry
from embmerge.remote.transfer import lanes
from tests.syncing import MB, Lab

both_ways = pytest.mark.parametrize("transfer", ["fast", "plain"])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)


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


def test_a_server_without_sftp_is_a_connect_error(tmp_path):
    with openssh(tmp_path, "ForceCommand /bin/false") as lab:
        lab.shards(1)
        assert lab.sync(retries=0).error.exit_code == 3


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

"""What tests of several files share."""

import os

import pytest

from embmerge.remote import checksum, retry, session, transfer
from tests.servers import Desk

# What our own processes compile is kept for the next ones, as everywhere but on test machines: 0.13 s for each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """A home without keys, known hosts, configuration and agent: the real one may have them. Returns its `.ssh`."""
    ssh = tmp_path / "me" / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(ssh.parent))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return ssh


@pytest.fixture
def desk(tmp_path, own_home):
    """This side of the line."""
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
def short_pauses(monkeypatch):
    """Short pauses before another try, and a short moment until a line that is gone is known to be: ours are near."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(transfer, "_SECOND_CHANCE", 0.01)
    for room in (checksum, session):
        monkeypatch.setattr(room, "_MOMENT", 0.2)

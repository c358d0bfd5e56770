"""The embedded SSH cluster of the demo, asked by OpenSSH's and paramiko's own clients."""

import socket
from pathlib import Path

import paramiko
import pytest

from embmerge.demo.server import Accounts, Home, Server


@pytest.fixture
def server(tmp_path):
    (tmp_path / "home").mkdir()
    with Server(tmp_path / "home", lambda: Accounts({"ada": "pw"})) as server:
        yield server


@pytest.fixture
def enter(server):
    """Log in; returns paramiko's client."""
    clients = []

    def enter(username="ada", password="pw"):
        client = paramiko.SSHClient()
        clients.append(client)
        client.get_host_keys().add(
            f"[127.0.0.1]:{server.port}", "ssh-ed25519", paramiko.Ed25519Key(data=server.host_key.public_data)
        )
        client.connect("127.0.0.1", server.port, username, password, allow_agent=False, look_for_keys=False, timeout=10)
        return client

    yield enter
    for client in clients:
        client.close()


def test_the_right_password_opens(enter):
    assert enter().get_transport().is_authenticated()


@pytest.mark.parametrize("who", [("ada", "wrong"), ("eve", "pw"), ("ada", "")])
def test_nothing_else_opens(enter, who):
    with pytest.raises(paramiko.AuthenticationException):
        enter(*who)


def test_the_folder_is_the_root_that_a_login_sees(server, enter):
    (server.folder / "note").write_text("hello")
    with enter().open_sftp() as sftp:
        assert sftp.normalize(".") == "/"
        assert sftp.listdir("/") == ["note"]


def test_nothing_outside_the_folder_can_be_read(server, enter):
    (server.folder.parent / "outside").write_text("secret")
    with enter().open_sftp() as sftp, pytest.raises(OSError, match="No such file"):
        sftp.stat("/../outside")


def test_a_command_finds_the_paths_that_sftp_shows(server, enter):
    (server.folder / "note").write_text("hello")
    _, out, _ = enter().exec_command("cat /note")
    assert out.read() == b"hello"


def test_a_command_finds_them_below_a_relative_folder_with_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("Ada's \u00fc & $(co)")
    folder.mkdir()
    (folder / "note").write_text("hello")
    with Server(folder, lambda: Accounts({"ada": "pw"})) as server, paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", server.port, "ada", "pw", allow_agent=False, look_for_keys=False, timeout=10)
        _, out, _ = client.exec_command("cat /note < /dev/null")
        assert out.read() == b"hello"


def test_a_command_says_how_it_ended(enter):
    _, out, _ = enter().exec_command("exit 7")
    assert out.channel.recv_exit_status() == 7


def test_a_server_that_was_stopped_listens_no_more(server):
    server.stop()
    with socket.socket() as line:
        assert line.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_server_that_starts_again_has_its_port_and_key(server, enter):
    port = server.port
    server.stop()
    server.start()
    assert server.port == port
    assert enter().get_transport().is_authenticated()


def test_stopping_hangs_up_on_everybody(server, enter):
    transport = enter().get_transport()
    server.stop()
    transport.join(10)
    assert not transport.is_active()


def test_what_a_guest_who_left_did_not_read_is_not_worth_a_line(server, enter, caplog):
    enter()
    (guest,) = server._guests
    line = guest._transport

    async def write_on():
        line.abort()
        for _ in range(20):
            line.write(b"x")

    server._run(write_on())
    assert caplog.records == []


def test_a_class_of_ones_own_serves_the_files(tmp_path):
    class Other(Home):
        """Files of its own."""

    with Server(tmp_path, lambda: Accounts({}), home=Other) as server:
        assert issubclass(server._home, Other)
        assert server._home.folder == tmp_path

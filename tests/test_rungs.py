"""Doctor's lower rungs, each broken by a real socket."""

import contextlib
import socket
import threading

import pytest

from embmerge.errors import ConnectError
from embmerge.remote.rungs import open_tcp, read_banner, resolve


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def answering(listener, text):
    """A connection to a server that says `text` and hangs up."""

    def serve():
        line, _ = listener.accept()
        with line, contextlib.suppress(OSError):  # who has read enough hangs up first
            line.sendall(text)

    threading.Thread(target=serve, daemon=True).start()
    return open_tcp("127.0.0.1", listener.getsockname()[1], 5)[0]


def test_a_name_that_nobody_knows_is_named():
    with pytest.raises(ConnectError, match=r"no machine is known by the name no-such-host\.invalid") as caught:
        resolve("no-such-host.invalid", 22)
    assert "VPN" in caught.value.hint


def test_a_name_that_cannot_be_one_is_no_traceback():
    with pytest.raises(ConnectError, match="no machine"):
        resolve("a" * 70 + ".example", 22)


def test_a_refused_connection_names_host_and_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectError, match=f"connection refused by 127.0.0.1:{port}"):
        open_tcp("127.0.0.1", port, 5)


def test_the_banner_is_read_past_what_is_said_before_it(listener):
    with answering(listener, b"Welcome\r\nSSH-2.0-OpenSSH_9.9\r\n") as line:
        assert read_banner(line, 5) == "SSH-2.0-OpenSSH_9.9"


def test_a_web_server_is_no_ssh_server(listener):
    with (
        answering(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n") as line,
        pytest.raises(ConnectError, match="no SSH server: it said 'HTTP"),
    ):
        read_banner(line, 5)


def test_who_hangs_up_at_once_is_told_from_who_is_silent(listener):
    with answering(listener, b"") as line, pytest.raises(ConnectError, match="hung up without a word"):
        read_banner(line, 5)


def test_a_silent_server_is_given_up(listener):
    line, seconds = open_tcp("127.0.0.1", listener.getsockname()[1], 5)
    with line, pytest.raises(ConnectError, match=r"says nothing for 0\.05 s"):
        read_banner(line, 0.05)
    assert 0 <= seconds < 5


def test_an_endless_welcome_is_given_up(listener):
    with answering(listener, b"Welcome\r\n" * 100_000) as line, pytest.raises(ConnectError, match="no SSH server"):
        read_banner(line, 5)

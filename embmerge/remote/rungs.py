"""The rungs of doctor's ladder below SSH's login: name, TCP, banner. Each says what it found or raises."""

import socket
import time

from embmerge.errors import ConnectError
from embmerge.plaintext import printable

BANNER_LINES = 50  # a server may say a few lines before its version (RFC 4253, 4.2); more is no SSH server
BANNER_BYTES = 16 * 1024


def resolve(host: str, port: int) -> list[str]:
    """The addresses that `host` stands for. `ConnectError` if there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectError(
            f"no machine is known by the name {printable(host)}",
            hint=f"try: ping {printable(host)}   (is the name spelled right, is the VPN up?)",
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def open_tcp(host: str, port: int, timeout: float) -> tuple[socket.socket, float]:
    """A connection and the seconds it took to open, about one round trip. `ConnectError`, which says why not."""
    began = time.monotonic()
    try:
        line = socket.create_connection((host, port), timeout)
    except TimeoutError as error:
        raise ConnectError(
            f"no answer from {host}:{port} within {timeout:g} s",
            hint=f"try: nc -vz {host} {port}   (a firewall drops it, or the VPN is down)",
        ) from error
    except ConnectionRefusedError as error:
        raise ConnectError(
            f"connection refused by {host}:{port}",
            hint=f"try: nc -vz {host} {port}   (nothing listens there: wrong port, or sshd is not running)",
        ) from error
    except OSError as error:
        raise ConnectError(
            f"cannot reach {host}:{port}: {error.strerror or error}",
            hint=f"try: nc -vz {host} {port}   (is the VPN up?)",
        ) from error
    return line, time.monotonic() - began


def read_banner(line: socket.socket, timeout: float) -> str:
    """The version line of the SSH server at the other end. `ConnectError` if something else answers, or nothing."""
    line.settimeout(timeout)
    came = b""
    where = "{}:{}".format(*line.getpeername()[:2])
    hint = "try: ssh -v -p {1} {0}   (the port is right, but is it the SSH server's?)".format(*line.getpeername()[:2])
    try:
        while b"SSH-" not in came or not came.endswith(b"\n"):
            block = line.recv(1024)
            if not block or len(came) > BANNER_BYTES or came.count(b"\n") > BANNER_LINES:
                said = f"it said {printable(came[:40])!a}" if came else "it hung up without a word"
                raise ConnectError(f"{where} is no SSH server: {said}", hint=hint)
            came += block
    except TimeoutError as error:
        raise ConnectError(f"{where} accepts the connection but says nothing for {timeout:g} s", hint=hint) from error
    except OSError as error:
        raise ConnectError(f"{where} hung up: {error.strerror or error}", hint=hint) from error
    version = next(text for text in came.splitlines() if b"SSH-" in text)
    return printable(version.strip(), 80)

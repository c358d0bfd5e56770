"""The rungs of doctor's ladder that nothing else climbs: name, TCP, banner, and a read that is timed."""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from embmerge.errors import ConnectError, RemoteDataError
from embmerge.plaintext import printable
from embmerge.remote.cluster import Cluster
from embmerge.remote.files import RemoteFile
from embmerge.remote.sftp import SftpChannel, WireError
from embmerge.settings import Settings

BANNER_LINES = 50  # a server may say a few lines before its version (RFC 4253, 4.2); more is no SSH server
BANNER_BYTES = 16 * 1024
READ = 16 << 20  # bytes that the rate is measured by,
LONGEST_READ = 8.0  # or as many as come within so many seconds
FIRST_BLOCK, PART = 256 << 10, 128 << 10  # bytes of the first block, and of one request


def resolve(host: str, port: int) -> list[str]:
    """The addresses that `host` stands for. `ConnectError` if there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectError(
            f"no machine is known by the name {printable(host)}",
            hint="is the name spelled right, is the VPN up?",
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
            hint="the VPN is down, or a firewall between drops it",
        ) from error
    except ConnectionRefusedError as error:
        raise ConnectError(
            f"connection refused by {host}:{port}",
            hint="nothing listens there: the wrong port, or its SSH server is not running",
        ) from error
    except OSError as error:
        raise ConnectError(
            f"cannot reach {host}:{port}: {error.strerror or error}",
            hint="is the VPN up?",
        ) from error
    return line, time.monotonic() - began


def read_banner(line: socket.socket, timeout: float) -> str:
    """The version line of the SSH server at the other end. `ConnectError` if something else answers, or nothing."""
    line.settimeout(timeout)
    came = b""
    where = "{}:{}".format(*line.getpeername()[:2])
    hint = "something listens there, but is this the SSH server's port?"
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


def read_rate(cluster: Cluster, file: RemoteFile, settings: Settings) -> tuple[int, float, float]:
    """Read up to 16 MB of `file` and throw them away: bytes read, bytes a second, seconds of a round trip.

    It is read in the way in which a sync would. Raises `ConnectionLost`, or `RemoteDataError` if the server does not
    let us read.
    """
    if settings.transfer == "fast":
        with suppress(WireError):
            return _read_fast(cluster, file, settings.stall_timeout)
    return _read_plainly(cluster, file)


def _read_fast(cluster: Cluster, file: RemoteFile, stall_timeout: float) -> tuple[int, float, float]:
    """Blocks grow, and the last one tells the rate: a line takes a while to run at full speed."""
    channel = SftpChannel(cluster.connection.transport, stall_timeout=stall_timeout)
    try:
        trip = min(_seconds(lambda: channel.stats([file.path])) for _ in range(3))
        read, block, rate, began = 0, FIRST_BLOCK, 0.0, time.monotonic()
        most = min(READ, file.nbytes)
        while read < most and time.monotonic() - began < LONGEST_READ:
            end = min(read + block, most)
            wanted = [(file.path, offset, min(PART, end - offset)) for offset in range(read, end, PART)]
            started = time.monotonic()
            came = _total(channel.read_blocks(wanted), file)
            rate = came / max(time.monotonic() - started - trip, 1e-6)  # one of its two round trips opened the file
            read, block = read + came, block * 2
    finally:
        channel.close()
    return read, rate, trip


def _read_plainly(cluster: Cluster, file: RemoteFile) -> tuple[int, float, float]:
    with cluster.sftp() as sftp:
        trip = min(_seconds(lambda: sftp.stat(file.path)) for _ in range(3))
        read, began, most = 0, time.monotonic(), min(READ, file.nbytes)
        try:
            with sftp.open(file.path, "rb") as remote:
                remote.prefetch(most)
                while read < most and time.monotonic() - began < LONGEST_READ and (data := remote.read(PART)):
                    read += len(data)
        except PermissionError as error:
            raise RemoteDataError(f"{printable(file.path)} cannot be read: permission denied") from error
        return read, read / max(time.monotonic() - began - trip, 1e-6), trip


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _total(pieces: Sequence[bytes | OSError], file: RemoteFile) -> int:
    """How many bytes came."""
    for piece in pieces:
        if isinstance(piece, OSError):
            raise RemoteDataError(f"{printable(file.path)} cannot be read: {printable(str(piece.strerror))}")
    total = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
    if not total:
        raise RemoteDataError(f"{printable(file.path)} became shorter while it was read")
    return total

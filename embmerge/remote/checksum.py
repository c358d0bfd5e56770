"""`sync --checksum`: what the cluster's own `sha256sum` says, and what the bytes that are here say."""

import hashlib
import os
import re
import shlex
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import paramiko

from embmerge.errors import ConnectError, ConnectionLost, RemoteDataError
from embmerge.plaintext import printable
from embmerge.remote import manifest
from embmerge.remote.cluster import Cluster
from embmerge.remote.files import RemoteFile
from embmerge.remote.session import no_session

_AT_ONCE = 32  # files a command, so that a command line never gets too long
_SLOWEST = 5 << 20  # bytes a second that a cluster's disk reads at least
_LOOK_AROUND = 0.05
_MOMENT = 1.0  # seconds
_BLOCK = 1 << 20
_LINE = re.compile(r"\\?([0-9a-f]{64}) [ *]")


def remote_sums(
    cluster: Cluster, files: Sequence[RemoteFile], *, timeout: float, stop: threading.Event
) -> dict[str, str]:
    """The sha256 of each file by its name, by `sha256sum` on the cluster.

    Raises `ConnectError` where there is no shell or no such program (one that is silent for `timeout` seconds counts as
    none), `RemoteDataError` for a file that it cannot read, and `ConnectionLost`.
    """
    probe = _run(cluster, "sha256sum < /dev/null", timeout, stop)
    if not probe or not _LINE.match(probe[1]):
        raise ConnectError(
            f"{cluster.name}: there is no shell with sha256sum, so --checksum cannot compare",
            hint="sync without --checksum; size, mtime and header of every shard are checked all the same",
        )
    sums: dict[str, str] = {}
    for first in range(0, len(files), _AT_ONCE):
        some = files[first : first + _AT_ONCE]
        patience = timeout + sum(file.nbytes for file in some) / _SLOWEST
        command = " ".join(["sha256sum", "--", *(shlex.quote(file.path) for file in some)])
        answer = _run(cluster, command, patience, stop)
        if not answer:
            raise ConnectError(
                f"{cluster.name}: sha256sum gave no answer for {patience:.0f} s", hint="is the disk there very busy?"
            )
        lines = [match[1] for line in answer[1].splitlines() if (match := _LINE.match(line))]
        if not answer[0] or len(lines) != len(some):
            raise RemoteDataError(
                f"{cluster.name}: sha256sum cannot read every shard: {printable(answer[2].strip())}",
                hint="run invoke verify-remote to see which",
            )
        sums |= {file.name: line for file, line in zip(some, lines, strict=True)}
    return sums


def same(directory: Path, sums: dict[str, str], stop: threading.Event) -> frozenset[str]:
    """The names of the files in `directory` whose bytes have the sha256 in `sums`."""
    return frozenset(name for name, sha256 in sums.items() if local_sum(directory / name, stop) == sha256)


def take_times(directory: Path, files: Iterable[RemoteFile]) -> None:
    """Give shards in `directory` that are the same as `files` their mtime, by which a plain sync will know them.

    One that belongs to somebody else keeps its own. Raises `DiskError`.
    """
    known = manifest.read(directory).shards
    fresh = {}
    for file in files:
        path = directory / file.name
        with suppress(OSError):
            if int(path.stat().st_mtime) != file.mtime:
                os.utime(path, (file.mtime, file.mtime))
            if file.name in known and known[file.name].mtime != file.mtime:
                fresh[file.name] = replace(known[file.name], mtime=file.mtime)
    if fresh:
        manifest.record(directory, shards=fresh)


def local_sum(path: Path, stop: threading.Event) -> str:
    """The sha256 of a file that is here; of a part of it after `stop`, and '' if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while not stop.is_set() and (block := file.read(_BLOCK)):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _run(cluster: Cluster, command: str, timeout: float, stop: threading.Event) -> tuple[bool, str, str] | None:
    """Whether `command` succeeded, its stdout and its stderr; None if it does not end or cannot be run.

    Raises `ConnectionLost`.
    """
    deadline = time.monotonic() + timeout
    transport = cluster.connection.transport
    result = None
    try:
        promise = cluster.begun(lambda: cluster.connection.run(command, hide=True, warn=True, asynchronous=True))
        while not promise.runner.process_is_finished:
            if stop.is_set() or time.monotonic() > deadline:
                promise.runner.kill()
                return None
            time.sleep(_LOOK_AROUND)
        result = promise.join()
    except paramiko.ChannelException as error:
        raise no_session(cluster.name, error) from error
    except Exception:  # noqa: BLE001, S110  Fabric's, Invoke's and paramiko's ways to say that there is no shell
        pass
    if result:  # which it is if the command succeeded
        return True, result.stdout, result.stderr
    transport.join(_MOMENT)  # a command that failed, or a line that is gone and will be known to be in a moment
    if not transport.is_active():
        raise ConnectionLost(f"{cluster.name}: the connection was lost while sha256sum was at work")
    return None if result is None else (False, result.stdout, result.stderr)

"""A download that is whole is looked at again, and gets its own name only if nothing speaks against it."""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from embmerge.errors import DiskError, LocalDataError, RemoteChanged, RemoteDataError, ShardError
from embmerge.events import Observer, Warned
from embmerge.plaintext import printable
from embmerge.remote import manifest
from embmerge.remote.checksum import local_sum
from embmerge.remote.files import RemoteFile, RemoteStat
from embmerge.remote.work import Download, Work
from embmerge.shard import ShardHeader, read_header

_LOOK_AROUND = 0.2  # seconds after which `halt` is seen
_WRITE_EVERY = 1.0  # seconds between two manifests, of which each is written whole


@dataclass(frozen=True)
class Expected:
    """What is known beforehand of a cluster's shards, by file name: headers, sha256. Both may be empty."""

    headers: Mapping[str, ShardHeader] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


def finish_all(work: Work, directory: Path, expected: Expected, *, halt: threading.Event) -> None:
    """Hash what arrives; verify and rename what is whole; until the work is over or `halt`. Raises `DiskError`."""
    fresh: dict[str, manifest.Entry] = {}
    written = time.monotonic()
    try:
        while not work.over and not halt.is_set():
            if fresh and time.monotonic() - written > _WRITE_EVERY:
                manifest.record(directory, shards=fresh)
                fresh, written = {}, time.monotonic()
            try:
                download = work.news.get(timeout=_LOOK_AROUND)
            except queue.Empty:
                continue
            try:
                entry = None if download.ended else _advance(download, directory, expected, halt)
            except (LocalDataError, RemoteDataError) as error:
                work.failed(download, error, keep=False)
                continue
            except DiskError:
                if download.ended:  # a connection has failed it meanwhile, and closed its file
                    continue
                raise
            if entry:
                fresh[download.file.name] = entry
                work.finished(download)
    finally:
        if fresh:
            manifest.record(directory, shards=fresh)


def take_in(directory: Path, files: Sequence[RemoteFile], observer: Observer, stop: threading.Event) -> None:
    """Have the manifest know `files`, all here and unchanged: it may have been lost, or a file be elsewhere now.

    What the merge says of a shard's cluster comes from there.
    """
    known = manifest.read(directory).shards
    unknown = [file for file in files if file.name not in known]
    moved = [file for file in files if file.name in known and known[file.name].cluster != file.cluster]
    if unknown:
        some = f"{len(unknown)} of the shards here" if len(unknown) > 1 else printable(unknown[0].name)
        observer(Warned(f"{manifest.NAME} does not know {some}: read and entered"))
    fresh = {file.name: replace(known[file.name], cluster=file.cluster, path=file.path) for file in moved}
    for file in unknown:
        path = directory / file.name
        with suppress(RemoteDataError, OSError):  # no shard: the merge will say so
            header, sha256 = check_header(file, path, None), local_sum(path, stop)
            if sha256 and not stop.is_set():
                fresh[file.name] = _entry(file, header, sha256)
    with suppress(DiskError):  # it is a record, without which all goes on
        if fresh:
            manifest.record(directory, shards=fresh)


def _advance(download: Download, directory: Path, expected: Expected, halt: threading.Event) -> manifest.Entry | None:
    """Go on with one download; its entry for the manifest if it has got its own name by that."""
    download.digest.follow(download.partial, halt)
    if halt.is_set():
        return None
    if download.now:
        return _finish(download, directory, download.now, expected)
    if download.due_for_sync:
        download.partial.sync()
        download.synced = time.monotonic()
    return None


def _finish(download: Download, directory: Path, now: RemoteStat, expected: Expected) -> manifest.Entry:
    file, sha256 = download.file, download.digest.hexdigest()
    check_unchanged(file, now)
    check_sum(file, sha256, expected.sha256.get(file.name))
    header = check_header(file, download.partial.path, expected.headers.get(file.name))
    download.partial.promote(directory / file.name)
    return _entry(file, header, sha256)


def _entry(file: RemoteFile, header: ShardHeader, sha256: str) -> manifest.Entry:
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return manifest.Entry(file.cluster, file.path, file.nbytes, file.mtime, sha256, (header.start, header.end), when)


def check_unchanged(file: RemoteFile, now: RemoteStat) -> None:
    """Raises `RemoteChanged` unless the server's file still has the size and mtime that it had at the beginning."""
    if (now.nbytes, now.mtime) != (file.nbytes, file.mtime):
        change = f"{file.nbytes:,} bytes, now {now.nbytes:,}" if now.nbytes != file.nbytes else "it was written again"
        raise RemoteChanged(
            f"{_where(file)} changed during the download: {change}",
            hint="is its worker still writing? run invoke sync again when it is done",
        )


def check_sum(file: RemoteFile, sha256: str, remote: str | None) -> None:
    """Raises `RemoteChanged` if the cluster has another sha256 for the file than came here; None: it was not asked."""
    if remote and sha256 != remote:
        raise RemoteChanged(
            f"{_where(file)} has another sha256 there than what came here", hint="run invoke sync --checksum again"
        )


def check_header(file: RemoteFile, path: Path, seen: ShardHeader | None) -> ShardHeader:
    """The header of the download at `path`. Raises `RemoteDataError` if it has none, or not the one that was `seen`."""
    try:
        with path.open("rb") as data:
            header = read_header(data, path.stat().st_size, file.name, cluster=file.cluster)
    except ShardError as error:
        raise RemoteDataError(f"{file.cluster}: {error.message}", hint=error.hint) from error
    if seen and replace(header, cluster=None) != replace(seen, cluster=None):
        raise RemoteChanged(
            f"{_where(file)} has another header than verify-remote saw", hint="run invoke verify-remote again"
        )
    return header


def _where(file: RemoteFile) -> str:
    return f"{file.cluster}: {printable(file.name)}"

"""Downloads that are not whole yet, on disk, so that a later run goes on where this one stopped.

Each is a folder `.partial/SHARD.OWNER` of two files:

    data      the bytes, each at its place
    journal   lines of JSON: first what they are part of, then `[start, end]` of each range that is in `data`,
              and now and then `{"synced": [[start, end], …]}`: what would survive a power cut, too

An owner is one run of one process, and part of the folder's name: who renames the folder owns it. No two runs that
may both be alive ever write into one `data`: a run takes over the folder of one that has ended for sure, copies from
one that it knows nothing of, and leaves alone what a living one has.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from embmerge import atomic
from embmerge.errors import DiskError
from embmerge.plaintext import printable, size
from embmerge.remote import owner
from embmerge.remote.files import RemoteFile
from embmerge.remote.ranges import Ranges

FOLDER = ".partial"
FORGOTTEN = 24 * 3600.0  # seconds of silence after which a run of unknown fate counts as ended

_LARGEST = 64 << 20  # bytes of a journal; a line of some 30 tells of up to a megabyte
_COPY = 1 << 20
_TRIES = 100  # to make a folder that another run removes at the same time
_AT_ONCE = 1024  # parts that the system writes at once (IOV_MAX of Linux and macOS)
_PATIENCE = 0.3  # seconds
_CLOSED = -1


class Partial:
    """One download on disk, owned by this run. `done` tells which bytes are here; `add` is the way to extend it.

    `write` may be called by several threads at once for different ranges. All raise `DiskError`.
    """

    def __init__(self, folder: Path, file: RemoteFile, done: Ranges, *, new: bool) -> None:
        self.folder, self.file, self.done = folder, file, done
        self._lock = threading.Lock()
        with self._disk_errors():
            self._data = os.open(folder / "data", os.O_RDWR | os.O_CREAT, 0o666)
            self._journal = os.open(folder / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                self._note(asdict(file))
            else:
                os.write(self._journal, b"\n")  # the run before may have ended within a line

    def write(self, offset: int, parts: Sequence[memoryview]) -> None:
        """Put `parts`, one after the other, at `offset`. They count once they were added."""
        with self._disk_errors():
            written = os.pwritev(self._data, parts[:_AT_ONCE], offset)
            rest = memoryview(b"".join(parts))[written:] if written < sum(map(len, parts)) else None
            while rest:  # the disk is about to be full, or a signal came, or those were tiny parts
                written += (more := os.pwrite(self._data, rest, offset + written))
                rest = rest[more:]

    def add(self, start: int, end: int) -> None:
        """The bytes `[start, end)` are in place."""
        with self._lock, self._disk_errors():
            self._note([start, end])
            self.done.add(start, end)

    def sync(self) -> None:
        """Wait until what is here is on the disk itself."""
        done = list(self.done)
        with self._disk_errors():
            _sync_data(self._data)
        with self._lock, self._disk_errors():
            self._note({"synced": done})

    def read(self, start: int, into: memoryview) -> int:
        """Fill `into` with bytes that are here, from `start` on; returns how many were read."""
        with self._disk_errors():
            read = os.preadv(self._data, [into], start)
            if not read:
                raise OSError(errno.EIO, "what was written there is gone")
            return read

    @property
    def path(self) -> Path:
        """Where the bytes are."""
        return self.folder / "data"

    def promote(self, target: Path) -> None:
        """Give the whole file its own name and the remote file's mtime, durably; the partial is gone then."""
        with self._lock, self._disk_errors():
            os.truncate(self._data, self.file.nbytes)
            os.utime(self._data, (self.file.mtime, self.file.mtime))
            os.fsync(self._data)
            self._close()
            self.path.rename(target)
            atomic.sync(target.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> int:
        """Keep what is here for whoever comes next; returns how many bytes that are."""
        if self._lock.acquire(timeout=_PATIENCE):  # else the disk hangs: then it stays open, and is kept all the same
            try:
                self._close()
                with contextlib.suppress(OSError):
                    self.folder = self.folder.rename(_named(self.folder.parent, self.file.name, owner.nobody()))
            finally:
                self._lock.release()
        return self.done.nbytes

    def discard(self) -> None:
        """Throw everything away."""
        with self._lock:
            self._close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _note(self, line: Any) -> None:
        os.write(self._journal, f"{json.dumps(line)}\n".encode())

    def _close(self) -> None:
        """A number that was closed belongs to another file soon, so it is forgotten at once."""
        for number in (self._data, self._journal):
            if number != _CLOSED:
                os.close(number)
        self._data = self._journal = _CLOSED

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            rest = size(self.file.nbytes - self.done.nbytes)
            raise DiskError(
                f"cannot write {printable(str(self.folder))}: {error.strerror}; {rest} of this shard are still to come",
                hint="make room there, then run the same command again: what is here is kept",
            ) from error


@dataclass(frozen=True)
class Kept:
    """A download that some run has begun; `gone`: that run has ended for sure, `silent`: seconds since its last byte.

    `done` is what can be trusted: all that was written, if the machine was not restarted since.
    """

    folder: Path
    file: RemoteFile
    done: tuple[tuple[int, int], ...]
    gone: bool
    silent: float

    @property
    def nbytes(self) -> int:
        """How many bytes are here."""
        return Ranges(self.done).nbytes

    def resume(self) -> Partial | None:
        """Make it this run's own; None if another run was quicker, or may still be at it. Raises `DiskError`."""
        if not self.gone:
            return None
        folder = _named(self.folder.parent, self.file.name, owner.this_process())
        try:
            self.folder.rename(folder)
        except OSError:
            return None
        return Partial(folder, self.file, Ranges(self.done), new=False)

    def discard(self) -> None:
        """Throw it away, unless it may belong to a living run."""
        if self.gone or self.silent > FORGOTTEN:
            _remove(self.folder)

    def copied(self, stop: threading.Event) -> "Kept":
        """One like it that this run may take over: a copy, if nobody knows what became of the run that has begun it.

        The copy ends early when `stop` is set, and where the original cannot be read. Raises `DiskError`.
        """
        if self.gone or stop.is_set():
            return self
        copy = begin(self.folder.parent.parent, self.file)
        try:
            for at, data in self._pieces(stop):
                copy.write(at, [memoryview(data)])
                copy.add(at, at + len(data))
        finally:
            copy.leave()
        if not stop.is_set():
            self.discard()
        return Kept(copy.folder, self.file, tuple(copy.done), gone=True, silent=0.0)

    def _pieces(self, stop: threading.Event) -> Iterator[tuple[int, bytes]]:
        with contextlib.suppress(OSError), (self.folder / "data").open("rb") as source:
            for start, end in self.done:
                for at in range(start, end, _COPY):
                    data = os.pread(source.fileno(), min(_COPY, end - at), at)
                    if stop.is_set() or not data:
                        return
                    yield at, data


def begin(directory: Path, file: RemoteFile) -> Partial:
    """A new, empty partial below `directory`. Raises `DiskError`."""
    folder = _named(directory / FOLDER, file.name, owner.this_process())
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True)
            break
        except FileNotFoundError:  # another run has just tidied up the folder above
            continue
        except OSError as error:
            where = printable(str(folder.parent))
            raise DiskError(
                f"cannot write {where}: {atomic.in_the_way(error)}", hint="choose another --embeddings folder"
            ) from error
    return Partial(folder, file, Ranges(), new=True)


def left_behind(directory: Path) -> list[Kept]:
    """What other runs have begun in `directory` and may be taken over or copied, most complete first.

    What a living run of this machine has is not among them, nor folders in which nothing can be understood.
    """
    found = [_look(folder) for folder in _folders(directory)]
    return sorted((kept for kept in found if kept), key=lambda kept: -kept.nbytes)


def sweep(directory: Path) -> None:
    """Remove folders in which nothing can be understood, if their run has ended."""
    for folder in _folders(directory):
        if not _look(folder):
            gone = owner.is_gone(_owner(folder))
            if gone or (gone is None and _silent(folder) > FORGOTTEN):
                _remove(folder)


def tidy(directory: Path) -> None:
    """Remove the folder for partials if nothing is in it."""
    with contextlib.suppress(OSError):
        (directory / FOLDER).rmdir()


def _look(folder: Path) -> Kept | None:
    gone = owner.is_gone(_owner(folder))
    if gone is False:
        return None
    journal, data = folder / "journal", folder / "data"
    try:
        if not (journal.is_file() and data.is_file()):  # a pipe would be waited for
            return None
        if journal.stat().st_size > _LARGEST:
            return None
        origin, *lines = _lines(journal.read_bytes())
        file = msgspec.convert(origin, RemoteFile)
        done = _trusted(lines, survived=owner.is_of_this_boot(_owner(folder)))
        if not _fits(done, min(file.nbytes, data.stat().st_size)):
            return None
    except (OSError, LookupError, ValueError, RecursionError):  # msgspec raises a child of ValueError
        return None
    return Kept(folder, file, tuple(done), bool(gone), _silent(folder))


def _owner(folder: Path) -> str:
    return folder.suffix[1:]


def _silent(folder: Path) -> float:
    """Seconds since the last byte came to a partial."""
    for path in (folder / "journal", folder):
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime
    return 0.0


def _lines(raw: bytes) -> Iterator[Any]:
    """The lines of a journal; one that was being written when its run ended is no line."""
    for line in raw.split(b"\n"):
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _trusted(lines: Sequence[Any], *, survived: bool) -> Ranges:
    """What a journal says is here; if the machine may have been restarted since, only what was waited for."""
    said = [line for line in lines if isinstance(line, list)]
    if not survived:
        said = next((line["synced"] for line in reversed(lines) if isinstance(line, dict)), [])
    return Ranges(msgspec.convert(said, list[tuple[int, int]]))


def _fits(done: Ranges, nbytes: int) -> bool:
    return all(start >= 0 and end <= nbytes for start, end in done)


def _folders(directory: Path) -> list[Path]:
    try:
        return [path for path in (directory / FOLDER).iterdir() if path.is_dir()]
    except OSError:
        return []


def _named(parent: Path, name: str, by: str) -> Path:
    return parent / f"{name}.{by}"


def _remove(folder: Path) -> None:
    """Rename first: of two runs that remove (or of which one takes over) only one gets it."""
    mine = folder.with_suffix(f".{owner.this_process()}")
    with contextlib.suppress(OSError):
        folder.rename(mine)
        shutil.rmtree(mine, ignore_errors=True)


def _sync_data(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)  # macOS has the latter only

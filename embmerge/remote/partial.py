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
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embmerge import atomic
from embmerge.errors import DiskError
from embmerge.plaintext import printable, size
from embmerge.remote import owner
from embmerge.remote.files import RemoteFile
from embmerge.remote.ranges import Ranges

FOLDER = ".partial"

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
                    self.folder = self.folder.rename(named(self.folder.parent, self.file.name, owner.nobody()))
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


def begin(directory: Path, file: RemoteFile) -> Partial:
    """A new, empty partial below `directory`. Raises `DiskError`."""
    folder = named(directory / FOLDER, file.name, owner.this_process())
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


def named(parent: Path, name: str, by: str) -> Path:
    """The folder of the partial of a shard's `name`, owned `by` that run."""
    return parent / f"{name}.{by}"


def _sync_data(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)  # macOS has the latter only

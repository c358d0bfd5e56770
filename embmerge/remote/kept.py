"""Downloads that other runs have begun: which of them this run may take over, copy or throw away.

What one looks like on disk, and why nobody shares one, is told in `partial`.
"""

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from embmerge.remote import owner
from embmerge.remote.files import RemoteFile
from embmerge.remote.partial import FOLDER, Partial, begin, named
from embmerge.remote.ranges import Ranges

FORGOTTEN = 24 * 3600.0  # seconds of silence after which a run of unknown fate counts as ended

_LARGEST = 64 << 20  # bytes of a journal; a line of some 30 tells of up to a megabyte
_COPY = 1 << 20


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
        folder = named(self.folder.parent, self.file.name, owner.this_process())
        try:
            if not owner.is_of_this_boot(_owner(self.folder)):
                self._forget_the_rest()
            self.folder.rename(folder)
        except OSError:
            return None
        return Partial(folder, self.file, Ranges(self.done), new=False)

    def _forget_the_rest(self) -> None:
        """Have the journal tell of `done` alone: under the name of its new owner, all of it will be believed."""
        lines = (asdict(self.file), *self.done, {"synced": self.done})
        journal = self.folder / f"journal.{secrets.token_hex(4)}"
        journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        journal.replace(self.folder / "journal")

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


def _remove(folder: Path) -> None:
    """Rename first: of two runs that remove (or of which one takes over) only one gets it."""
    mine = folder.with_suffix(f".{owner.this_process()}")
    with contextlib.suppress(OSError):
        folder.rename(mine)
        shutil.rmtree(mine, ignore_errors=True)

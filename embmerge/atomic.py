"""Files that appear whole or not at all: written beside their place under another name, synced, then renamed.

A temporary's name tells which process makes it, so that the next run can remove what a dead one left behind.
"""

import errno
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embmerge.errors import DiskError
from embmerge.plaintext import printable, size

_MARK = re.compile(r"\w+-(?P<pid>\d{1,9})-\d+\.tmp")
_LONGEST = 32  # characters of a mark's numbers, and of what a format appends to a name
_numbers = iter(range(1 << 62))
_mine: set[str] = set()  # marks of the temporaries that this process is writing


@contextmanager
def temporary_for(place: Path) -> Iterator[Path]:
    """A path beside `place` for a file that will replace it; whatever is left there in the end is removed.

    The folder is made, and what dead processes left of the same name is removed. The disk's own errors in the block
    become `DiskError`.
    """
    mark = f"{_here()}-{os.getpid()}-{next(_numbers)}.tmp"
    temporary = place.with_name(f".{place.name}.{mark}")
    _mine.add(mark)
    with disk_errors(place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(place)
            yield temporary
        finally:
            with suppress(OSError):  # the folder itself may be gone, which must not hide what went wrong
                for path in _beside(place, mark):
                    _remove(path)
            _mine.discard(mark)


def check_place(place: Path) -> None:
    """Raise `DiskError` where no file can be put at `place`: a folder lies there, or the name is too long."""
    with disk_errors(place), suppress(FileNotFoundError):
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        place.with_name(f".{place.name}.{_here()}-{'0' * _LONGEST}.tmp").lstat()


def same_file(one: Path, other: Path) -> bool:
    """Whether both are there and are one file, under whatever names."""
    with suppress(OSError):
        return one.samefile(other)
    return False


def place_name(name: str) -> str:
    """The name of the place that the temporary `name` is for, which a person knows; any other name as it is."""
    match = re.fullmatch(rf"\.(?P<place>.+)\.{_MARK.pattern}", name, re.DOTALL)
    return match["place"] if match else name


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A path for the new content of `place`: synced and renamed when the block ends well, removed when it does not."""
    with temporary_for(place) as temporary:
        yield temporary
        sync(temporary)
        temporary.replace(place)
        sync(place.parent)


@contextmanager
def outliving_its_name(place: Path) -> Iterator[None]:
    """Replace the file at `place` in the block without waiting for the system to free the old one.

    That takes 0.1 s a GB and more; it happens in a thread of its own, while the process does what remains or ends.
    """
    held = None
    with suppress(OSError):  # there is none, or it may not be read
        held = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        if held is not None:
            threading.Thread(target=os.close, args=(held,), daemon=True).start()


def write_bytes(place: Path, content: bytes) -> None:
    """Put `content` at `place`, whole or not at all."""
    with replacing(place) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Have the system put `path`, a file or a folder, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def need(folder: Path, nbytes: int) -> None:
    """Raise `DiskError` unless the disk of `folder` (or of its nearest parent that exists) has room for `nbytes`."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise DiskError(
            f"the disk of {folder} has {size(free)} free, but {size(nbytes)} are needed",
            hint="free some room, or choose another disk",
        )


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn what the local disk says into a `DiskError` that names `place`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise DiskError(
                f"the disk is full: {place} could not be written",
                hint="free some room and run it again; what was there is as it was",
            ) from error
        if error.errno in {
            errno.EACCES,
            errno.ENOENT,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EISDIR,
            errno.ENAMETOOLONG,
            errno.EIO,
        }:
            raise DiskError(
                f"cannot write {place}: {in_the_way(error)}",
                hint="choose another place, or change the folder's permissions",
            ) from error
        raise


def in_the_way(error: OSError) -> str:
    """What the system says; of a folder that cannot be made, what lies there instead."""
    if isinstance(error, FileExistsError) and error.filename:
        return no_folder(Path(error.filename))
    return printable((error.strerror or "").lower())


def no_folder(place: Path) -> str:
    """What to say of `place`, which is no folder: its disk may not be mounted."""
    nothing = place.is_symlink() and not place.exists()
    return f"{printable(str(place))} is {'a link to what is not there' if nothing else 'no folder'}"


def _beside(place: Path, mark: str) -> list[Path]:
    return [path for path in place.parent.iterdir() if path.name.startswith(f".{place.name}.{mark}")]


def _remove_stale(place: Path) -> None:
    for path in _beside(place, f"{_here()}-"):
        match = _MARK.match(path.name.removeprefix(f".{place.name}."))
        if match and not _writing(match[0], int(match["pid"])):
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _here() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname()) or "here"


def _writing(mark: str, pid: int) -> bool:
    if pid == os.getpid():  # in a container every run may have the same number: what is not ours is a dead one's
        return mark in _mine
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a number that no process can have: leave it
        return True
    return True

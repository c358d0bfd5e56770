"""What lies in a cluster's remote directory, by what the names and the server say."""

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embmerge.errors import RemoteDataError
from embmerge.plaintext import printable
from embmerge.shard import SHARD_NAME

CHECKPOINT_NAME = re.compile(r"(cluster\d{1,9}_gpu\d{1,9})_checkpoint_(\d{1,12})\.pkl")  # worker, rows so far
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class RemoteStat:
    """What the server says about a path: bytes, whole seconds since 1970, whether it is a regular file or a folder."""

    nbytes: int
    mtime: int
    regular: bool
    directory: bool = False


@dataclass(frozen=True)
class RemoteFile:
    """A regular file on a cluster: its absolute `path`, size in bytes, and time of last change (whole seconds)."""

    cluster: str
    name: str
    path: str
    nbytes: int
    mtime: int


@dataclass(frozen=True)
class Listing:
    """What lies in the remote directory: shards, checkpoints that workers left, and the names of everything else."""

    remote_dir: str
    shards: tuple[RemoteFile, ...]
    checkpoints: tuple[RemoteFile, ...] = ()
    others: tuple[str, ...] = ()


def sorted_out(cluster: str, directory: str, entries: Iterable[tuple[str, RemoteStat | OSError]]) -> Listing:
    """The listing of `directory` on `cluster`, of names and what the server says of each."""
    shards, checkpoints, others = [], [], []
    for name, facts in entries:
        if isinstance(facts, OSError):
            others.append(printable(name, 80))
            continue
        file = RemoteFile(cluster, name, posixpath.join(directory, name), facts.nbytes, facts.mtime)
        if SHARD_NAME.fullmatch(name) and facts.regular:
            shards.append(file)
        elif CHECKPOINT_NAME.fullmatch(name) and facts.regular:
            checkpoints.append(file)
        else:
            others.append(printable(name, 80) + ("/" if facts.directory else ""))
    return Listing(directory, tuple(sorted(shards, key=_numbers)), tuple(checkpoints), tuple(sorted(others)))


def no_shards(cluster: str, listing: Listing) -> RemoteDataError:
    """The error for a listing without a shard, which names what is there."""
    links = [f"{name} (a link or the like, not followed)" for name in listing.others if SHARD_NAME.fullmatch(name)]
    rest = [name for name in listing.others if not SHARD_NAME.fullmatch(name)]
    there = some([*links, *(printable(file.name, 60) for file in listing.checkpoints), *rest]) or "nothing at all"
    return RemoteDataError(
        f"{cluster}: no embedding files found: no file named cluster*_gpu*.pkl in "
        f"{printable(listing.remote_dir)}; there is {there}",
        hint="is remote_dir right, and have the workers finished?",
    )


def some(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _numbers(file: RemoteFile) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", file.name)))

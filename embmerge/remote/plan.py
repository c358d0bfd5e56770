"""What a sync is going to do, decided before it does anything."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embmerge.errors import LocalDataError, RemoteDataError
from embmerge.plaintext import printable
from embmerge.remote.files import RemoteFile
from embmerge.remote.kept import Kept


@dataclass(frozen=True)
class Step:
    """What happens to one shard, and how many of its bytes are `here` already.

    skip: here, unchanged. resume: an earlier run has begun it. fetch: not here. refetch: here, but another one.
    """

    file: RemoteFile
    action: Literal["skip", "resume", "fetch", "refetch"]
    here: int = 0

    @property
    def missing(self) -> int:
        """How many bytes are to be fetched."""
        return self.file.nbytes - self.here


def plan(
    files: Iterable[RemoteFile],
    local: Mapping[str, tuple[int, int]],
    kept: Sequence[Kept],
    same: Collection[str] | None = None,
) -> tuple[Step, ...]:
    """One step for each of `files`, in order.

    `local` has (size, whole mtime) of the files that are here by name, `kept` what earlier runs have begun, best first.
    With `same`, only shards of these names are taken for unchanged, whatever their size and mtime.
    """
    begun = resumable(kept)
    steps = []
    for file in files:
        unchanged = local.get(file.name) == (file.nbytes, file.mtime) if same is None else file.name in same
        if unchanged and file.name in local:
            steps.append(Step(file, "skip", file.nbytes))
        elif file in begun:
            steps.append(Step(file, "resume", begun[file].nbytes))
        else:
            steps.append(Step(file, "refetch" if file.name in local else "fetch"))
    return tuple(steps)


def resumable(kept: Sequence[Kept]) -> dict[RemoteFile, Kept]:
    """For each remote file the best of what earlier runs have brought of it: the same path, size and mtime."""
    return {each.file: each for each in reversed(kept) if each.nbytes}


def resumed(plans: Iterable[Sequence[Step]], kept: Sequence[Kept]) -> dict[RemoteFile, Kept]:
    """What of `kept` the plans go on with, by file."""
    begun = resumable(kept)
    return {step.file: begun[step.file] for steps in plans for step in steps if step.action == "resume"}


def stale(kept: Sequence[Kept], files: Collection[RemoteFile], clusters: Collection[str]) -> list[Kept]:
    """What earlier runs have begun and nobody will go on with: of these clusters, and not the best of any file."""
    best = {file: each for file, each in resumable(kept).items() if file in files}
    return [each for each in kept if each.file.cluster in clusters and each is not best.get(each.file)]


def left_over(recorded: Mapping[str, str], listed: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """(name, cluster) of the shards that are `recorded` (cluster by name) as from a cluster that lists them no more."""
    anywhere = {name for names in listed.values() for name in names}  # it may have moved to another cluster
    return [(name, cluster) for name, cluster in recorded.items() if cluster in listed and name not in anywhere]


def refuse_clashes(files: Iterable[RemoteFile]) -> None:
    """Raise `RemoteDataError` if two clusters offer a file of the same name, naming both."""
    first: dict[str, RemoteFile] = {}
    for file in files:
        other = first.setdefault(file.name, file)
        if other is not file:
            raise RemoteDataError(
                f"{printable(file.name)} is offered by both {other.cluster} and {file.cluster}; nothing was downloaded",
                hint=f"rename one of them, or sync them into two folders: --cluster {file.cluster} --embeddings DIR",
            )


def local_files(directory: Path, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(size, whole mtime) of those of `names` that are files in `directory`. Raises `LocalDataError`."""
    found = {}
    for name in names:
        path = directory / name
        if path.is_file():
            facts = path.stat()
            found[name] = (facts.st_size, int(facts.st_mtime))
        elif path.is_dir():
            raise LocalDataError(f"{printable(str(path))} is a folder, not a shard", hint="move it away")
    return found

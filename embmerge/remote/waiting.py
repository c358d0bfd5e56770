"""`--wait MINUTES`: look again at a growing interval while workers are still writing their shards.

A worker that is not done has left a checkpoint (`cluster0_gpu3_checkpoint_5000.pkl`, a growing prefix of its shard),
a shard that is not whole yet, or nothing but a gap. Only what time heals is waited for: an overlap, or a shard of
another model, is as wrong in an hour as it is now.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from embmerge.coverage import Gap
from embmerge.errors import ConnectError, ConnectionLost, Interrupted, RemoteDataError, ShardError, UsageError
from embmerge.events import ClusterFailed, Event, Observer, Waiting, Warned, ignore
from embmerge.plaintext import printable
from embmerge.remote.cluster import Cluster
from embmerge.remote.files import CHECKPOINT_NAME, RemoteFile
from embmerge.remote.survey import Survey, survey
from embmerge.remote.terms import Terms
from embmerge.shard import ShardHeader

FIRST_PAUSE = 10.0  # seconds: a shard that is just being finished is noticed soon,
GROWTH = 1.5  # and one that takes an hour more does not cost a login node thousands of looks
LONGEST_PAUSE = 120.0
_LONGEST_WAIT = 7 * 24 * 60  # minutes

_PASSES = {"ok", "growing", "truncated"}  # verdicts on a shard that is whole, or may be soon


@dataclass(frozen=True)
class Worker:
    """One that is not done: `rows_done` of `rows_expected` rows, each None if unknown."""

    cluster: str
    name: str
    rows_done: int | None = None
    rows_expected: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A worker's newest checkpoint: how many rows it holds, and which it will hold if its header says so."""

    cluster: str
    worker: str
    rows: int
    start: int | None = None
    end: int | None = None


def minutes(text: str | None) -> float:
    """The number that `--wait` was given, 0 if it was not. Raises `UsageError`."""
    try:
        number = float(text or 0)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _LONGEST_WAIT:
        raise UsageError(f"--wait: expected minutes, got {printable(text)!a}", hint="such as --wait 30")
    return number


def survey_when_done(
    clusters: Sequence[Cluster],
    terms: Terms | Callable[[], Terms],
    most: float,
    *,
    observer: Observer = ignore,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], bool] | None = None,
) -> Survey:
    """What `survey` says once no worker is writing any more, or after `most` minutes.

    `pause(seconds)` waits and says whether to stop (default: `stop.wait`). Raises `Interrupted` when `stop` is set.
    """
    deadline = clock() + 60 * most
    seconds = FIRST_PAUSE
    workers: tuple[Worker, ...] = ()
    while True:
        failures: list[Event] = []  # "no shards" is no failure as long as somebody waits for them
        found = survey(clusters, terms, observer=_except_failures(observer, failures), stop=stop)
        left = deadline - clock()
        lost = any(isinstance(each.error, ConnectionLost) for each in found.clusters)
        if left > 0 and not (lost and workers):  # a line that dropped between two looks is opened again for the next
            workers = _at_work(clusters, found)
        if left <= 0 or not workers:
            for failure in failures:
                observer(failure)
            if workers and not found.ok:
                observer(Warned(f"after {most:g} min it is still not complete: this is how it stands"))
            return found
        seconds = min(seconds, left)
        for worker in workers:
            observer(Waiting(worker.cluster, worker.name, worker.rows_done, worker.rows_expected, seconds))
        if (pause or stop.wait)(seconds):
            raise Interrupted("stopped while waiting for workers", hint="run the same command again to go on")
        seconds = min(seconds * GROWTH, LONGEST_PAUSE)


def _except_failures(observer: Observer, failures: list[Event]) -> Observer:
    return lambda event: failures.append(event) if isinstance(event, ClusterFailed) else observer(event)


def _at_work(clusters: Sequence[Cluster], found: Survey) -> tuple[Worker, ...]:
    if not _heals(found):
        return ()
    try:
        return unfinished(found, list(_checkpoints(clusters, found)))
    except (ConnectError, RemoteDataError):  # what `found` says of it stands
        return ()


def unfinished(found: Survey, checkpoints: Sequence[Checkpoint]) -> tuple[Worker, ...]:
    """Who is still at work, by what lies there; a pure function.

    A checkpoint whose rows are held by a shard is a leftover. A checkpoint that does not say where its range ends has
    that end from the gap that it lies in.
    """
    held = [(shard.start, shard.end) for shard in found.coverage.shards]
    gaps = [(each.start, each.end) for each in found.coverage.problems if isinstance(each, Gap)]
    whole = {finding.file.name for each in found.clusters for finding in each.findings if finding.header}
    live = [
        each
        for each in checkpoints
        if f"{each.worker}.pkl" not in whole
        and not any(each.start is not None and start <= each.start < end for start, end in held)
    ]
    workers = [Worker(each.cluster, each.worker, each.rows, _expected(each, live, gaps)) for each in live]
    named = {worker.name for worker in workers}
    for each in found.clusters:
        for finding in each.findings:
            name = finding.file.name.removesuffix(".pkl")
            if finding.verdict in {"growing", "truncated"} and name not in named:
                workers.append(Worker(each.cluster, name))
        if each.error and not any(worker.cluster == each.cluster for worker in workers):
            workers.append(Worker(each.cluster, "no shard yet"))
    if not workers:
        where = found.clusters[0].cluster if len(found.clusters) == 1 else ""
        workers = [Worker(where, f"rows {start:,} - {end:,}", None, end - start) for start, end in gaps]
    return tuple(workers)


def _expected(each: Checkpoint, live: Iterable[Checkpoint], gaps: Iterable[tuple[int, int]]) -> int | None:
    """How many rows the shard of a checkpoint will have."""
    if each.start is None or each.end is None:
        return None
    if each.end - each.start > each.rows:
        return each.end - each.start
    ends = [end for start, end in gaps if start <= each.start < end]
    ends += [other.start for other in live if other.start is not None and other.start > each.start]
    return min(ends) - each.start if ends else None


def _heals(found: Survey) -> bool:
    """Whether time may mend whatever is wrong."""
    gaps = all(isinstance(problem, Gap) for problem in found.coverage.problems)
    verdicts = {finding.verdict for each in found.clusters for finding in each.findings}
    connected = all(isinstance(each.error, RemoteDataError | None) for each in found.clusters)
    return gaps and verdicts <= _PASSES and connected


def _checkpoints(clusters: Iterable[Cluster], found: Survey) -> Iterator[Checkpoint]:
    """The newest checkpoint of each worker that has no whole shard."""
    whole = {finding.file.name for each in found.clusters for finding in each.findings if finding.header}
    for cluster in clusters:
        for file, header in cluster.working(partial(_newest_headers, cluster, whole)):
            match = CHECKPOINT_NAME.fullmatch(file.name)
            assert match
            if isinstance(header, ShardHeader):
                yield Checkpoint(cluster.name, match[1], header.rows, header.start, header.end)
            else:  # it is being written at this moment: its name says how far it goes
                yield Checkpoint(cluster.name, match[1], int(match[2]))


def _newest_headers(cluster: Cluster, whole: Collection[str]) -> list[tuple[RemoteFile, ShardHeader | ShardError]]:
    newest = _newest(cluster.listing().checkpoints, whole)
    return list(cluster.headers(list(newest.values())))


def _newest(checkpoints: Iterable[RemoteFile], whole: Collection[str]) -> dict[str, RemoteFile]:
    newest: dict[str, tuple[int, RemoteFile]] = {}
    for file in checkpoints:
        match = CHECKPOINT_NAME.fullmatch(file.name)
        if match and f"{match[1]}.pkl" not in whole:
            number = int(match[2])
            if match[1] not in newest or number > newest[match[1]][0]:
                newest[match[1]] = (number, file)
    return {worker: file for worker, (_, file) in sorted(newest.items())}

"""`sync`: the shards of some clusters, into one folder.

All clusters are looked into, then it is planned and checked whether all of it can be done, then they are fetched at
the same time, or one after the other where that is quicker (`gate`). One that fails does not stop the others; a full
disk or `stop` stops them all.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from embmerge import atomic
from embmerge.errors import DiskError, EmbmergeError, Interrupted
from embmerge.events import (
    ClusterDone,
    ClusterFailed,
    Observer,
    ShardsFound,
    ShardSkipped,
    SyncStarted,
    Warned,
    ignore,
)
from embmerge.plaintext import printable, size
from embmerge.remote import checksum as checksums
from embmerge.remote import manifest
from embmerge.remote.cluster import Cluster
from embmerge.remote.files import RemoteFile, no_shards
from embmerge.remote.gate import Gate
from embmerge.remote.kept import Kept, left_behind, sweep, tidy
from embmerge.remote.pace import Pace
from embmerge.remote.plan import Step, left_over, local_files, plan, refuse_clashes, resumed, stale
from embmerge.remote.syncresult import ClusterResult, SyncResult
from embmerge.remote.together import together
from embmerge.remote.transfer import Transfer, lanes
from embmerge.remote.verification import Expected, take_in
from embmerge.remote.work import AT_ONCE, Download, Work
from embmerge.settings import Settings
from embmerge.shard import ShardHeader

_SPARE = 1 << 20  # bytes of free disk for journals and the manifest
_TELLS_A_RATE = 1 << 20  # bytes; fewer say more about the login than about the line


@dataclass(frozen=True)
class _Look:
    """What one cluster has. With --checksum: the sha256 of each file there, and the names of those that are here."""

    cluster: Cluster
    files: tuple[RemoteFile, ...]
    sums: Mapping[str, str]
    same: frozenset[str] | None


def sync(
    clusters: Sequence[Cluster],
    directory: Path,
    settings: Settings,
    *,
    headers: Mapping[str, ShardHeader] | None = None,
    dry_run: bool = False,
    checksum: bool = False,
    observer: Observer = ignore,
    stop: threading.Event,
) -> SyncResult:
    """Bring the shards of `clusters` into `directory`; connections of `clusters` are opened and stay open.

    `headers` are what `verify-remote` saw, by shard name; a shard must still have the same when it is here. With
    `checksum`, the clusters' `sha256sum` decides what is unchanged. What went wrong with one cluster or one shard is in
    the result. Raises `RemoteDataError` if two clusters offer the same name, `LocalDataError`, `DiskError`, and
    `Interrupted` within two seconds of `stop`; what can be resumed is kept then.
    """
    began = time.monotonic()
    pace = Pace(settings.limit_rate)
    run = _Run(directory, settings, headers or {}, checksum, observer, threading.Event(), pace, Gate(pace))
    looks = together({each.name: partial(run.look, each) for each in clusters}, stop=stop, halt=run.halt)
    seen = {name: look for name, look in looks.items() if isinstance(look, _Look)}
    refuse_clashes(file for look in seen.values() for file in look.files)
    kept = left_behind(directory)
    plans = {name: run.plan(look, kept) for name, look in seen.items()}
    run.tell_left_over(seen)
    results = {each.name: run.unfinished(each.name, looks[each.name], plans.get(each.name, ())) for each in clusters}
    if not dry_run:
        for each in stale(kept, [file for look in seen.values() for file in look.files], list(seen)):
            each.discard()
        sweep(directory)
        skipped = [step.file for steps in plans.values() for step in steps if step.action == "skip"]
        if checksum:
            checksums.take_times(directory, skipped)
        take_in(directory, skipped, observer, stop)
        begun = resumed(plans.values(), kept)
        copies = sum(each.nbytes for each in begun.values() if not each.gone)
        atomic.need(directory, sum(result.missing for result in results.values()) + copies + _SPARE)
        begun = {file: each.copied(stop) for file, each in begun.items()}
        at_once = max(2, AT_ONCE // max(1, len(plans)))
        works = {name: run.work(steps, begun, at_once) for name, steps in plans.items()}
        results |= run.fetch(seen, works, results, stop)
    return SyncResult(
        directory,
        tuple(results[each.name] for each in clusters),
        dry_run=dry_run,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Run:
    """What is the same for all clusters; `halt` ends their work."""

    directory: Path
    settings: Settings
    headers: Mapping[str, ShardHeader]
    checksum: bool
    observer: Observer
    halt: threading.Event
    pace: Pace
    gate: Gate

    def look(self, cluster: Cluster) -> _Look:
        """Connect, list, and compare checksums."""
        self.observer(SyncStarted(cluster.name, self.directory))
        try:
            listing = cluster.working(cluster.listing)
            files = listing.shards
            if not files:
                raise no_shards(cluster.name, listing)
            self.observer(ShardsFound(cluster.name, len(files), sum(file.nbytes for file in files), listing.remote_dir))
            if not self.checksum:
                return _Look(cluster, files, {}, None)
            timeout = self.settings.stall_timeout
            sums = cluster.working(lambda: checksums.remote_sums(cluster, files, timeout=timeout, stop=self.halt))
            return _Look(cluster, files, sums, checksums.same(self.directory, sums, self.halt))
        except EmbmergeError as error:
            if not self.halt.is_set():
                self.observer(ClusterFailed(cluster.name, error.message, error.hint))
            raise

    def plan(self, look: _Look, kept: Sequence[Kept]) -> tuple[Step, ...]:
        """What to do with each file of a cluster."""
        return plan(look.files, local_files(self.directory, (file.name for file in look.files)), kept, look.same)

    def tell_left_over(self, seen: Mapping[str, _Look]) -> None:
        """Say which shards are here and on their cluster no more: a merge would take them."""
        recorded = {
            name: entry.cluster
            for name, entry in manifest.read(self.directory).shards.items()
            if (self.directory / name).is_file()
        }
        listed = {name: [file.name for file in look.files] for name, look in seen.items()}
        for name, cluster in left_over(recorded, listed):
            what = f"{printable(name)} is here, and not on {cluster} any more"
            self.observer(Warned(f"{what}: move it away if other shards have its rows now", cluster))

    def unfinished(self, name: str, look: _Look | EmbmergeError, steps: tuple[Step, ...]) -> ClusterResult:
        """The result of a cluster from which nothing was fetched yet."""
        error = look if isinstance(look, EmbmergeError) else None
        return ClusterResult(name, steps, rate=manifest.read(self.directory).rates.get(name), error=error)

    def work(self, steps: Sequence[Step], begun: Mapping[RemoteFile, Kept], at_once: int) -> Work:
        """The downloads of one cluster, some `at_once`; says which of its shards are here."""
        downloads = []
        for index, step in enumerate(steps, 1):
            file = step.file
            if step.action == "skip":
                self.observer(ShardSkipped(file.cluster, file.name, index, len(steps), file.nbytes))
            else:
                downloads.append(Download(file, index, len(steps), begun.get(file)))
        lanes = self.lanes(downloads)
        return Work(downloads, self.directory, lanes=lanes, at_once=at_once, observer=self.observer)

    def lanes(self, downloads: Sequence[Download]) -> int:
        """How many connections to open for them."""
        return lanes(sum(each.missing for each in downloads), len(downloads), self.settings.connections)

    def fetch(
        self,
        seen: Mapping[str, _Look],
        works: Mapping[str, Work],
        results: Mapping[str, ClusterResult],
        stop: threading.Event,
    ) -> dict[str, ClusterResult]:
        """Fetch from all clusters; what is unfinished at the end is kept."""
        try:
            outcomes = together(
                {name: partial(self.transfer, seen[name], work) for name, work in works.items()},
                stop=stop,
                halt=self.halt,
            )
        except Interrupted:
            whole = sum(len(work.fetched) for work in works.values())
            rest = sum(work.leave() for work in works.values())
            raise Interrupted(
                f"stopped; {whole} shard{'s' * (whole != 1)} fetched"
                + (f", and {size(rest)} of unfinished ones kept" if rest else ""),
                hint="run the same command again to go on",
            ) from None
        finally:
            for work in works.values():
                work.leave()
            tidy(self.directory)
        for outcome in outcomes.values():
            if isinstance(outcome, DiskError):
                raise outcome
        return {name: self.ended(results[name], works[name], outcome) for name, outcome in outcomes.items()}

    def transfer(self, look: _Look, work: Work) -> float:
        """Fetch from one cluster; returns how many seconds it took. Keeps the rate, also if it was stopped."""
        began = time.monotonic()
        expected = Expected(self.headers, look.sums)
        transfer = Transfer(
            look.cluster,
            work,
            self.settings,
            pace=self.pace,
            gate=self.gate,
            observer=self.observer,
            halt=self.halt,
        )
        transfer.run(self.directory, expected)
        seconds = time.monotonic() - began
        if work.over and not work.failures:
            self.observer(ClusterDone(look.cluster.name))
        if rate := _rate(work, seconds):
            manifest.record(self.directory, rates={look.cluster.name: rate})
        return seconds

    def ended(self, before: ClusterResult, work: Work, outcome: float | EmbmergeError) -> ClusterResult:
        """The result of a cluster whose transfer has ended with so many seconds or an error."""
        error = outcome if isinstance(outcome, EmbmergeError) else _of_all(work.failures, len(before.steps))
        seconds = 0.0 if isinstance(outcome, EmbmergeError) else outcome
        if error:
            self.observer(ClusterFailed(before.cluster, error.message, error.hint))
        return replace(
            before,
            fetched=tuple(each.file.name for each in work.fetched),
            failures={each.file.name: each.error.message for each in work.failures if each.error},
            received=work.received,
            seconds=seconds,
            rate=_rate(work, seconds) or before.rate,
            error=error,
        )


def _rate(work: Work, seconds: float) -> float | None:
    """Bytes a second; None if too few came to tell."""
    return work.received / seconds if seconds and work.received > _TELLS_A_RATE else None


def _of_all(failures: Iterable[Download], total: int) -> EmbmergeError | None:
    """One error for all shards that could not be fetched."""
    errors = [each.error for each in failures if each.error]
    if len(errors) <= 1:
        return errors[0] if errors else None
    message = f"{len(errors)} of {total} shards could not be fetched; the first: {errors[0].message}"
    return type(errors[0])(message, hint=errors[0].hint)

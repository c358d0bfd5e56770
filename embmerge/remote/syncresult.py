"""What came of a sync, or would come of it, as data and in words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embmerge.errors import EmbmergeError
from embmerge.plaintext import duration, printable, size
from embmerge.remote.plan import Step


@dataclass(frozen=True)
class ClusterResult:
    """One cluster: its plan, what was fetched (names), what was not (messages by name), bytes that came, seconds.

    `rate` is in bytes a second, of this run or the last one that is known. `error` is what the task ends with.
    """

    cluster: str
    steps: tuple[Step, ...] = ()
    fetched: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    received: int = 0
    seconds: float = 0.0
    rate: float | None = None
    error: EmbmergeError | None = None

    @property
    def missing(self) -> int:
        """How many bytes were to be fetched."""
        return sum(step.missing for step in self.steps)


@dataclass(frozen=True)
class SyncResult:
    """What a sync did, or with `dry_run` would do, cluster by cluster."""

    directory: Path
    clusters: tuple[ClusterResult, ...]
    dry_run: bool = False
    seconds: float = 0.0

    @property
    def error(self) -> EmbmergeError | None:
        """The error that the task ends with."""
        return next((each.error for each in self.clusters if each.error), None)

    @property
    def seconds_expected(self) -> float | None:
        """How long a dry run's downloads would take at the last known rates; None if one is not known."""
        busy = [each for each in self.clusters if each.missing]
        times = [each.missing / each.rate for each in busy if each.rate]
        return max(times, default=0.0) if len(times) == len(busy) else None

    def __str__(self) -> str:
        failed = ", ".join(each.cluster for each in self.clusters if each.error)
        verdict = [f"✗ Not complete: {failed} failed"] if failed else []
        return "\n".join([*(_planned(self) if self.dry_run else _done(self)), *verdict])


def _planned(result: SyncResult) -> Iterator[str]:
    for each in result.clusters:
        if each.steps:
            yield f"WOULD SYNC FROM {each.cluster.upper()}"
        for number, step in enumerate(each.steps, 1):
            name = printable(step.file.name)
            yield f"  [{number}/{len(each.steps)}] {name}: {step.action} ({_amount(step)})"
    steps = [step for each in result.clusters for step in each.steps]
    counts = {action: sum(step.action == action for step in steps) for action in ("fetch", "refetch", "resume", "skip")}
    told = ", ".join(f"{action} {count}" for action, count in counts.items() if count) or "do nothing"
    nbytes, seconds = sum(each.missing for each in result.clusters), result.seconds_expected
    time = f" in about {duration(seconds)} at the last known rate" if nbytes and seconds is not None else ""
    yield f"Would {told}: {size(nbytes)} to download{time}"


def _amount(step: Step) -> str:
    if step.action == "resume":
        return f"{size(step.missing)} of {size(step.file.nbytes)} are missing"
    return size(step.file.nbytes)


def _done(result: SyncResult) -> Iterator[str]:
    fetched = sum(len(each.fetched) for each in result.clusters)
    skipped = sum(step.action == "skip" for each in result.clusters for step in each.steps)
    failed = sum(len(each.failures) for each in result.clusters)
    received = sum(each.received for each in result.clusters)
    rate = f", {size(received / result.seconds)}/s" if received and result.seconds else ""
    parts = [f"{fetched} fetched ({size(received)} in {duration(result.seconds)}{rate})" if fetched else ""]
    parts += [f"{skipped} unchanged" if skipped else "", f"{failed} failed" if failed else ""]
    yield f"Shards in {printable(str(result.directory))}: {', '.join(part for part in parts if part) or 'none'}"

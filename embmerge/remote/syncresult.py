"""What came of a sync, or would come of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embmerge.errors import EmbmergeError
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

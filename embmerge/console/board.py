"""What is going on right now, folded from the events; the live display and the heartbeat both read it."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import singledispatchmethod

from embmerge import events as e
from embmerge.plaintext import rate, size, time_left

WINDOW = 10.0  # seconds a rate looks back: long enough to be steady, short enough to show a stall


@dataclass
class Meter:
    """Bytes a second over the last `WINDOW` seconds; `began` is when the first could have come."""

    began: float | None = None
    arrivals: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, now: float) -> None:
        """From now on bytes are asked for."""
        if self.began is None:
            self.began = now

    def add(self, now: float, nbytes: int) -> None:
        """`nbytes` more have arrived."""
        self.begin(now)
        self.arrivals.append((now, nbytes))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Bytes a second, 0 if none came lately."""
        self._forget(now)
        return sum(n for _, n in self.arrivals) / max(min(WINDOW, self._age(now)), 0.1)

    def stalled(self, now: float) -> bool:
        """Whether none came for `WINDOW` seconds, though they were asked for."""
        self._forget(now)
        return not self.arrivals and self._age(now) > WINDOW

    def _age(self, now: float) -> float:
        return 0.0 if self.began is None else now - self.began

    def _forget(self, now: float) -> None:
        while self.arrivals and self.arrivals[0][0] < now - WINDOW:
            self.arrivals.popleft()


@dataclass
class Flight:
    """One shard on its way: `done` of `nbytes` are here, `resumed` of them from an earlier run."""

    index: int
    name: str
    nbytes: int
    resumed: int = 0
    done: int = 0


@dataclass
class ClusterState:
    """One cluster: what it is doing (`state`), its files and bytes, its shards in flight."""

    name: str
    meter: Meter = field(default_factory=Meter)
    state: str = "waiting"
    remote_dir: str = ""  # '' until its absolute path is known
    files: int = 0
    files_done: int = 0
    nbytes: int = 0
    bytes_done: int = 0  # of whole shards
    syncing: bool = False
    retries: int = 0
    failed: bool = False
    over: bool = False
    flights: dict[str, Flight] = field(default_factory=dict)

    @property
    def received(self) -> int:
        """Bytes that are here, of whole shards and of those in flight."""
        return self.bytes_done + sum(flight.done for flight in self.flights.values())

    def located(self, remote_dir: str) -> None:
        """Its remote directory was named, perhaps by a path below the login's home, whose place nobody knows yet."""
        if remote_dir.startswith("/"):
            self.remote_dir = self.remote_dir or remote_dir


class Board:
    """The state of a whole task. Not thread-safe: the console holds its lock around it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meter = Meter()
        self.clusters: dict[str, ClusterState] = {}
        self.syncing = False
        self.stage = ""  # of a merge; '' when none runs
        self.rows_done = 0
        self.rows = 0
        self.ladder: str | None = None  # whose rungs doctor climbs: a cluster's, or '' for this machine's

    def expect(self, names: Iterable[str]) -> None:
        """These clusters will be asked."""
        for name in names:
            self.cluster(name)

    def cluster(self, name: str) -> ClusterState:
        """The state of cluster `name`, made at its first mention."""
        if name not in self.clusters:
            self.clusters[name] = ClusterState(name)
        return self.clusters[name]

    def rate(self, cluster: ClusterState | None = None) -> float:
        """Bytes a second of one cluster, or of all."""
        return (cluster.meter if cluster else self._meter).rate(self._clock())

    @property
    def files(self) -> tuple[int, int]:
        """How many files are here, and of how many."""
        going = self._going()
        return sum(c.files_done for c in going), sum(c.files for c in going)

    @property
    def nbytes(self) -> tuple[int, int]:
        """How many bytes are here, and of how many."""
        going = self._going()
        return sum(c.received for c in going), sum(c.nbytes for c in going)

    @property
    def seconds_left(self) -> float | None:
        """How long the downloads will still take at the present rate; None if nobody can tell."""
        done, total = self.nbytes
        rate = self.rate()
        return max(0, total - done) / rate if rate > 0 else None

    @property
    def stalled(self) -> bool:
        """Whether bytes should arrive, and have not for a while."""
        return self._meter.stalled(self._clock())

    def summary(self) -> str:
        """One line about what is going on, for the heartbeat."""
        if self.stage:
            rows = f": {self.rows_done:,} of {self.rows:,} rows" if self.rows else ""
            return f"Still {self.stage}{rows}"
        done, total = self.files
        if self.syncing and total:
            here, all_bytes = self.nbytes
            left = self.seconds_left
            silence = ", nothing arriving at the moment" if self.stalled else ""
            rest = f", {time_left(left)} left" if left is not None else silence
            text = f"{done} of {total} files, {size(here)} of {size(all_bytes)}, {rate(self.rate())}{rest}"
            return f"Still syncing: {text}"
        busy = [f"{c.name} {c.state}" for c in self.clusters.values() if not c.over]
        return f"Still working: {', '.join(busy)}" if busy else "Still working"

    def _going(self) -> list[ClusterState]:
        return [cluster for cluster in self.clusters.values() if not cluster.failed] or list(self.clusters.values())

    @singledispatchmethod
    def apply(self, event: e.Event) -> None:
        """Take note of `event`."""

    @apply.register
    def _(self, event: e.Checked) -> None:
        self.ladder = event.cluster

    @apply.register
    def _(self, event: e.Connecting) -> None:
        cluster = self.cluster(event.cluster)
        cluster.state = "connecting"
        cluster.located(event.remote_dir)

    @apply.register
    def _(self, event: e.Connected) -> None:
        cluster = self.cluster(event.cluster)
        cluster.state = "connected"
        cluster.located(event.remote_dir)

    @apply.register
    def _(self, event: e.ShardsFound) -> None:
        cluster = self.cluster(event.cluster)
        cluster.files, cluster.nbytes, cluster.state = event.count, event.nbytes, "listed"
        cluster.located(event.remote_dir)

    @apply.register
    def _(self, event: e.ShardInspected) -> None:
        self.cluster(event.cluster).state = f"headers {event.index}/{event.total}"

    @apply.register
    def _(self, event: e.Retrying) -> None:
        cluster = self.cluster(event.cluster)
        cluster.retries += 1
        cluster.state = f"retrying {event.attempt}/{event.retries}"

    @apply.register
    def _(self, event: e.Waiting) -> None:
        if event.cluster:  # else nobody knows whose rows they are
            cluster = self.cluster(event.cluster)
            cluster.state, cluster.over = "workers are still writing", False

    @apply.register
    def _(self, event: e.ClusterFailed) -> None:
        cluster = self.cluster(event.cluster)
        cluster.state, cluster.failed, cluster.over = "failed", True, True

    @apply.register
    def _(self, event: e.ClusterDone) -> None:
        cluster = self.cluster(event.cluster)
        cluster.state, cluster.over = "done", True

    @apply.register
    def _(self, event: e.SyncStarted) -> None:
        self.syncing = True
        cluster = self.cluster(event.cluster)
        cluster.syncing, cluster.over = True, False
        cluster.state = "connecting" if not cluster.remote_dir else "syncing"

    @apply.register
    def _(self, event: e.Queued) -> None:
        self.cluster(event.cluster).state = "comes next"

    @apply.register
    def _(self, event: e.ShardStarted) -> None:
        cluster = self._fetching(event)
        self._meter.begin(self._clock())
        cluster.meter.begin(self._clock())
        cluster.flights[event.name] = Flight(event.index, event.name, event.nbytes, event.resumed, event.resumed)

    @apply.register
    def _(self, event: e.ShardProgress) -> None:
        cluster = self._fetching(event)
        flight = cluster.flights.setdefault(event.name, Flight(event.index, event.name, event.nbytes))
        self._arrived(cluster, event.done - flight.done)
        flight.done = event.done

    @apply.register
    def _(self, event: e.ShardFetched) -> None:
        cluster = self._fetching(event)
        flight = cluster.flights.pop(event.name, None)
        self._arrived(cluster, event.nbytes - (flight.done if flight else 0))
        self._whole(cluster, event)

    @apply.register
    def _(self, event: e.ShardSkipped) -> None:
        self._whole(self._fetching(event), event)

    @apply.register
    def _(self, event: e.ShardFailed) -> None:
        self._fetching(event).flights.pop(event.name, None)

    @apply.register
    def _(self, event: e.MergeStarted) -> None:
        self.stage, self.rows_done, self.rows = f"reading {event.count} headers", 0, 0

    @apply.register
    def _(self, event: e.RangesVerified) -> None:  # noqa: ARG002  its type says it all
        self.stage = "reading articles"

    @apply.register
    def _(self, event: e.RowsWritten) -> None:
        self.stage, self.rows_done, self.rows = "writing rows", event.done, event.total

    @apply.register
    def _(self, event: e.RowsMeasured) -> None:
        self.stage, self.rows_done, self.rows = "measuring rows", event.done, event.total

    @apply.register
    def _(self, event: e.Saving) -> None:  # noqa: ARG002  its type says it all
        self.stage, self.rows = "saving and reading back", 0

    @apply.register
    def _(self, event: e.Saved) -> None:  # noqa: ARG002  its type says it all
        self.stage = ""

    def _fetching(self, event: e.ShardEvent) -> ClusterState:
        cluster = self.cluster(event.cluster)
        cluster.state = "syncing"
        cluster.files = max(cluster.files, event.total)
        return cluster

    def _whole(self, cluster: ClusterState, event: e.ShardEvent) -> None:
        cluster.files_done += 1
        cluster.bytes_done += event.nbytes
        cluster.nbytes = max(cluster.nbytes, cluster.bytes_done)

    def _arrived(self, cluster: ClusterState, nbytes: int) -> None:
        if nbytes > 0:  # a try that starts again takes bytes back; those are no arrivals
            now = self._clock()
            self._meter.add(now, nbytes)
            cluster.meter.add(now, nbytes)

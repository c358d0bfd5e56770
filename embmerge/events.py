"""What the work tells whoever watches it: small frozen facts, handed to an observer as they happen.

An observer is any callable that takes one event. It may be called from several threads at once and must return
quickly. The console is one observer, a test's `list.append` is another. All sizes are bytes, all times seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """Base of all events."""


Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that watches nothing."""


# --- any task ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warned(Event):
    """Something a person should know that stops nothing. `cluster` is '' when it concerns this machine."""

    text: str
    cluster: str = ""


@dataclass(frozen=True)
class Detail(Event):
    """What only `--verbose` shows: ciphers, versions, connections opened."""

    text: str
    cluster: str = ""


@dataclass(frozen=True)
class Checked(Event):
    """One rung of doctor's ladder: it holds (`ok` True), breaks (False), or holds but is worth a word (None).

    `hint` is what to try next where it does not simply hold. `cluster` is '' for a rung of this machine.
    """

    rung: str
    ok: bool | None
    text: str
    hint: str = ""
    cluster: str = ""


# --- a cluster --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClusterEvent(Event):
    """Base of what happens on one cluster."""

    cluster: str


@dataclass(frozen=True)
class Connecting(ClusterEvent):
    """A first connection is being opened.

    `address` is host or host:port as a person would type it, `remote_dir` as configured.
    """

    address: str
    remote_dir: str = ""


@dataclass(frozen=True)
class HostKeyAccepted(ClusterEvent):
    """An unknown host's key was written to `known_hosts`; `fingerprint` is OpenSSH's `SHA256:…`."""

    host: str
    key_type: str
    fingerprint: str
    known_hosts: Path


@dataclass(frozen=True)
class Connected(ClusterEvent):
    """Logged in; `remote_dir` is as configured."""

    remote_dir: str


@dataclass(frozen=True)
class ShardsFound(ClusterEvent):
    """The listing of `remote_dir`, an absolute path, is read: `count` shards of `nbytes` in all."""

    count: int
    nbytes: int
    remote_dir: str = ""


@dataclass(frozen=True)
class ShardInspected(ClusterEvent):
    """One remote header is read, the `index`th (from 1) of `total`."""

    name: str
    index: int
    total: int


@dataclass(frozen=True)
class Retrying(ClusterEvent):
    """The line dropped; try `attempt` (from 1) of `retries` starts after `pause` seconds."""

    attempt: int
    retries: int
    pause: float
    reason: str


@dataclass(frozen=True)
class ClusterFailed(ClusterEvent):
    """This cluster is given up; the others go on. `message` and `hint` are the error's."""

    message: str
    hint: str


@dataclass(frozen=True)
class ClusterDone(ClusterEvent):
    """All that was asked of this cluster is done."""


@dataclass(frozen=True)
class Waiting(ClusterEvent):
    """A worker is still writing: `rows_done` of `rows_expected` rows, each None if unknown; next look in `pause`."""

    worker: str
    rows_done: int | None
    rows_expected: int | None
    pause: float


# --- downloads --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyncStarted(ClusterEvent):
    """A cluster's downloads are planned for `directory`."""

    directory: Path


@dataclass(frozen=True)
class Queued(ClusterEvent):
    """Its downloads begin when those of another cluster leave something over."""


@dataclass(frozen=True)
class ShardEvent(ClusterEvent):
    """Base of what happens to one shard's download, the `index`th (from 1) of `total` on its cluster."""

    name: str
    index: int
    total: int
    nbytes: int


@dataclass(frozen=True)
class ShardSkipped(ShardEvent):
    """Here already, unchanged."""


@dataclass(frozen=True)
class ShardStarted(ShardEvent):
    """Its download begins; `resumed` bytes of it were here already."""

    resumed: int


@dataclass(frozen=True)
class ShardProgress(ShardEvent):
    """`done` of its bytes are on disk now; sent at most some ten times a second a shard."""

    done: int


@dataclass(frozen=True)
class ShardFetched(ShardEvent):
    """Whole, checked and under its own name."""

    seconds: float


@dataclass(frozen=True)
class ShardFailed(ShardEvent):
    """Given up; `message` says why."""

    message: str


# --- merge ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MergeStarted(Event):
    """`count` local shards will be read."""

    count: int


@dataclass(frozen=True)
class ShardLoaded(Event):
    """A local shard's header is read and valid, the `index`th (from 1) of `total`."""

    name: str
    index: int
    total: int
    rows: int
    dim: int


@dataclass(frozen=True)
class RangesVerified(Event):
    """Together the shards cover `[0, rows)` once. `ranges` has (cluster_id, gpu_id, start, end) in row order."""

    ranges: tuple[tuple[int, int, int, int], ...]
    rows: int


@dataclass(frozen=True)
class ArticlesRead(Event):
    """The articles file holds `articles` records; `extra_rows` rows after the last one are left out."""

    articles: int
    extra_rows: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class RowsWritten(Event):
    """`done` of `total` rows are in the output."""

    done: int
    total: int


@dataclass(frozen=True)
class RowsMeasured(Event):
    """`done` of `total` rows of a merged file are looked at."""

    done: int
    total: int


@dataclass(frozen=True)
class QualityMeasured(Event):
    """Norm figures over all rows written."""

    mean_norm: float
    std_norm: float


@dataclass(frozen=True)
class Saving(Event):
    """Rows are in; the rest is written, read back and synced to disk."""

    output: Path


@dataclass(frozen=True)
class Saved(Event):
    """The output is complete and under its own name."""

    output: Path
    articles: int
    nbytes: int

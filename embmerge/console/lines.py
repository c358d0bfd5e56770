"""The plain line or lines that an event is worth, in words that do not depend on where they are shown."""

from functools import singledispatch

from embmerge import events as e
from embmerge.console.board import Board
from embmerge.plaintext import duration, printable, rate, size


@singledispatch
def lines(event: e.Event, board: Board) -> list[str]:  # noqa: ARG001  the common shape of all below
    """The lines to print for `event`; `board` is the state before it. Most events are worth none."""
    return []


@lines.register
def _(event: e.Warned, board: Board) -> list[str]:  # noqa: ARG001
    return [f"! {event.text}"]


@lines.register
def _(event: e.Detail, board: Board) -> list[str]:  # noqa: ARG001
    return [f"  - {event.text}"]


@lines.register
def _(event: e.Checked, board: Board) -> list[str]:
    mark = {True: "✓", False: "✗", None: "!"}[event.ok]
    whose = event.cluster.upper() or "THIS MACHINE"
    return [
        *([whose] if board.ladder != event.cluster else []),
        f"  {mark} {event.rung}: {event.text}",
        *([f"    {event.hint}"] if event.hint else []),
    ]


@lines.register
def _(event: e.Connecting, board: Board) -> list[str]:
    return [*_located(event, board), f"Connecting to {printable(event.address)}..."]


@lines.register
def _(event: e.HostKeyAccepted, board: Board) -> list[str]:  # noqa: ARG001
    return [
        f"! new host key {event.fingerprint}",
        f"  of {event.host} ({event.key_type}), kept in {event.known_hosts}",
    ]


@lines.register
def _(event: e.Connected, board: Board) -> list[str]:
    return ["✓ Connected", *_located(event, board)]


@lines.register
def _(event: e.ShardsFound, board: Board) -> list[str]:
    return [*_located(event, board), f"Found {event.count} embedding file{'s' * (event.count != 1)}"]


@lines.register
def _(event: e.Retrying, board: Board) -> list[str]:  # noqa: ARG001
    pause = f"in {duration(event.pause)}" if event.pause else "now"
    return [f"! {_without(event.cluster, event.reason)}; try {event.attempt} of {event.retries} {pause}"]


@lines.register
def _(event: e.ClusterFailed, board: Board) -> list[str]:  # noqa: ARG001
    return [f"✗ {_without(event.cluster, event.message)}", *([f"  {event.hint}"] if event.hint else [])]


@lines.register
def _(event: e.Waiting, board: Board) -> list[str]:  # noqa: ARG001
    if event.rows_done is None:
        share = "being written" if event.rows_expected is None else f"none of {event.rows_expected:,} rows yet"
    elif event.rows_expected:
        share = f"{event.rows_done:,} of {event.rows_expected:,} rows ({event.rows_done / event.rows_expected:.0%})"
    else:
        share = f"{event.rows_done:,} rows so far"
    return [f"  {printable(event.worker)}: {share}; next look in {duration(event.pause)}"]


@lines.register
def _(event: e.SyncStarted, board: Board) -> list[str]:
    remote_dir = board.cluster(event.cluster).remote_dir
    return [
        f"SYNCING FROM {event.cluster.upper()}",
        f"Output directory: {event.directory}",
        *([f"Remote directory: {printable(remote_dir)}"] if remote_dir else []),
    ]


def _without(cluster: str, message: str) -> str:
    """`message` without the name that stands before it: the line says already whose it is."""
    return message.removeprefix(f"{cluster}: ")


def _located(event: e.Connecting | e.Connected | e.ShardsFound, board: Board) -> list[str]:
    """Where a sync looks, as soon as its absolute path is known."""
    cluster = board.cluster(event.cluster)
    known = cluster.syncing and not cluster.remote_dir and event.remote_dir.startswith("/")
    return [f"Remote directory: {printable(event.remote_dir)}"] if known else []


def _shard(event: e.ShardEvent) -> str:
    return f"  [{event.index}/{event.total}] {printable(event.name)}..."


@lines.register
def _(event: e.ShardSkipped, board: Board) -> list[str]:  # noqa: ARG001
    return [f"{_shard(event)} ✓ ({size(event.nbytes)}, unchanged)"]


@lines.register
def _(event: e.ShardStarted, board: Board) -> list[str]:  # noqa: ARG001
    if not event.resumed:
        return []
    return [f"{_shard(event)} resuming at {size(event.resumed)} of {size(event.nbytes)}"]


@lines.register
def _(event: e.ShardFetched, board: Board) -> list[str]:
    flight = board.cluster(event.cluster).flights.get(event.name)
    came = event.nbytes - (flight.resumed if flight else 0)
    speed = rate(came / event.seconds) if event.seconds > 0 else "at once"
    return [f"{_shard(event)} ✓ ({size(event.nbytes)}, {speed})"]


@lines.register
def _(event: e.ShardFailed, board: Board) -> list[str]:  # noqa: ARG001
    return [f"{_shard(event)} ✗ {_without(event.cluster, event.message)}"]


@lines.register
def _(event: e.MergeStarted, board: Board) -> list[str]:  # noqa: ARG001
    return ["MERGING EMBEDDINGS", f"Loading {event.count} checkpoint files..."]


@lines.register
def _(event: e.ShardLoaded, board: Board) -> list[str]:  # noqa: ARG001
    return [f"  [{event.index}/{event.total}] {printable(event.name)}... ✓ ({event.rows} items, dim={event.dim})"]


@lines.register
def _(event: e.RangesVerified, board: Board) -> list[str]:  # noqa: ARG001
    return [
        "VERIFYING INDEX RANGES",
        *(f"  ✓ Cluster {c}, GPU {g}: {start} - {end} ({end - start} items)" for c, g, start, end in event.ranges),
        "  ✓ All chunks are continuous",
        f"  ✓ Total items: {event.rows:,}",
    ]


@lines.register
def _(event: e.ArticlesRead, board: Board) -> list[str]:  # noqa: ARG001
    extra = event.extra_rows
    excluded = f" (excluded {extra:,} question{'s' * (extra != 1)})" if extra else ""
    return [
        "CONCATENATING EMBEDDINGS",
        f"  ✓ Extracted first {event.articles:,} embeddings{excluded}",
        f"  Shape: {event.shape}",
    ]


@lines.register
def _(event: e.QualityMeasured, board: Board) -> list[str]:  # noqa: ARG001
    return [
        "QUALITY CHECKS",
        f"  Mean norm: {event.mean_norm:.4f}",
        f"  Std norm: {event.std_norm:.4f}",
        "  ✓ No NaN or Inf values",
    ]


@lines.register
def _(event: e.Saving, board: Board) -> list[str]:  # noqa: ARG001
    return ["SAVING MERGED EMBEDDINGS"]


@lines.register
def _(event: e.Saved, board: Board) -> list[str]:  # noqa: ARG001
    return [f"✓ Saved {event.articles:,} article embeddings", f"File size: {size(event.nbytes)}"]

"""The live part of a terminal as lines of text: a pure function of the board and the room there is."""

from embmerge.console.board import Board, ClusterState, Flight, rate
from embmerge.plaintext import duration, printable, size

BAR = 24  # columns of a bar where there is room


def layout(board: Board, width: int, height: int, *, utf8: bool = True) -> list[str]:
    """At most `height` lines of at most `width` columns.

    One line a cluster, one bar a shard in flight, one total; while merging, its stage and a bar of rows. Where the
    window is too low, shards give way first: the clusters and the total are what a person looks for.
    """
    names = max((len(name) for name in board.clusters), default=0)
    shown: list[tuple[int, str]] = []  # (how soon it gives way, line)
    for cluster in board.clusters.values():
        if board.stage or (cluster.over and not board.syncing):
            continue
        shown.append((1, _cluster(board, cluster, names)))
        flights = sorted(cluster.flights.values(), key=lambda flight: flight.index)
        shown += [(2 + n, _flight(flight, cluster.files, width, utf8=utf8)) for n, flight in enumerate(flights)]
    if board.stage:
        shown.append((0, _merge(board, width, utf8=utf8)))
    elif board.syncing:
        shown.append((0, _total(board, width, utf8=utf8)))
    while len(shown) > max(1, height):
        shown.remove(max(shown, key=lambda pair: pair[0]))
    return [line[:width] for _, line in shown]


def bar(done: int, total: int, columns: int, *, utf8: bool) -> str:
    """A bar of `columns` characters."""
    filled = columns if total <= 0 else min(columns, columns * done // total)
    return ("━" * filled + "─" * (columns - filled)) if utf8 else ("#" * filled + "." * (columns - filled))


def _cluster(board: Board, cluster: ClusterState, names: int) -> str:
    line = f"{cluster.name:<{names}}  {cluster.state}"
    if cluster.files and cluster.syncing:
        line += f"  {cluster.files_done}/{cluster.files} files"
    if cluster.flights:
        line += f"  {rate(board.rate(cluster))}"
    return line


def _flight(flight: Flight, files: int, width: int, *, utf8: bool) -> str:
    digits = len(str(files))
    start = f"  [{flight.index:>{digits}}/{files}] "
    percent = f" {flight.done / flight.nbytes if flight.nbytes else 1:>4.0%}"
    sizes = f" {size(flight.done)} of {size(flight.nbytes)}"
    name = printable(flight.name, 28)
    columns = _bar_columns(width, len(start) + max(len(name), 17) + 1 + len(percent) + 24)
    return f"{start}{name:<17} {bar(flight.done, flight.nbytes, columns, utf8=utf8)}{percent}{sizes}"


def _total(board: Board, width: int, *, utf8: bool) -> str:
    files_done, files = board.files
    done, total = board.nbytes
    left = board.seconds_left
    rest = f"{size(done)} of {size(total)}  {rate(board.rate())}"
    if done < total:
        rest += f"  {duration(left)} left" if left is not None else "  stalled"
    start = f"total {files_done}/{files}"
    columns = _bar_columns(width, len(start) + 2 + len(rest) + 6)
    return f"{start} {bar(done, total, columns, utf8=utf8)} {rest}" if columns else f"{start} {rest}"


def _merge(board: Board, width: int, *, utf8: bool) -> str:
    line = f"merging: {board.stage}"
    if not board.rows:
        return line
    rest = f" {board.rows_done / board.rows:>4.0%} {board.rows_done:,} of {board.rows:,} rows"
    columns = _bar_columns(width, len(line) + 1 + len(rest))
    return f"{line} {bar(board.rows_done, board.rows, columns, utf8=utf8)}{rest}"


def _bar_columns(width: int, taken: int) -> int:
    room = width - taken
    return min(BAR, room) if room >= 4 else 0  # noqa: PLR2004  a shorter bar says nothing

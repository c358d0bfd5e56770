"""The live part of a terminal as lines of text: a pure function of the board and the room there is."""

from embmerge.console.board import Board, ClusterState, Flight
from embmerge.plaintext import printable, rate, size, time_left

BAR = 24  # columns of a bar where there is room
LEAST = 8  # columns below which a bar says nothing


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
        shown.remove(max(reversed(shown), key=lambda pair: pair[0]))
    return [line[:width].rstrip() for _, line in shown]


def bar(done: int, total: int, columns: int, *, utf8: bool) -> str:
    """A bar of `columns` characters."""
    filled = columns if total <= 0 else min(columns, columns * done // total)
    return ("━" * filled + "─" * (columns - filled)) if utf8 else ("#" * filled + "." * (columns - filled))


def _cluster(board: Board, cluster: ClusterState, names: int) -> str:
    line = f"{cluster.name:<{names}}  {cluster.state}"
    if cluster.files and cluster.syncing:
        line += f"  {cluster.files_done}/{cluster.files} files"
    if cluster.retries and not cluster.state.startswith("retrying"):
        line += f"  {cluster.retries} retr{'y' if cluster.retries == 1 else 'ies'}"
    if cluster.flights:
        line += f"  {rate(board.rate(cluster))}"
    return line


def _flight(flight: Flight, files: int, width: int, *, utf8: bool) -> str:
    start = f"  [{flight.index:>{len(str(files))}}/{files}] {printable(flight.name, 28):<17} "
    percent = f"{flight.done / flight.nbytes if flight.nbytes else 1:>4.0%}"
    sizes = f"{percent} {size(flight.done)} of {size(flight.nbytes)}"
    return _with_bar(start, (flight.done, flight.nbytes), (f"{sizes:<26}", sizes, percent), width, utf8=utf8)


def _total(board: Board, width: int, *, utf8: bool) -> str:
    files_done, files = board.files
    done, total = board.nbytes
    left = board.seconds_left
    speed = rate(board.rate())
    if done < total:
        speed += f", {time_left(left)} left" if left is not None else ", stalled" * board.stalled
    full = f"{files_done}/{files} files, {size(done)} of {size(total)}, {speed}"
    short = f"{files_done}/{files}, {size(done)}, {speed}"
    return _with_bar("total ", (done, total), (full, short, speed), width, utf8=utf8)


def _merge(board: Board, width: int, *, utf8: bool) -> str:
    start = f"{board.stage} "
    if not board.rows:
        return start
    percent = f"{board.rows_done / board.rows:.0%}"
    rows = f"{percent} {board.rows_done:,} of {board.rows:,} rows"
    return _with_bar(start, (board.rows_done, board.rows), (rows, percent), width, utf8=utf8)


def _with_bar(start: str, done: tuple[int, int], ends: tuple[str, ...], width: int, *, utf8: bool) -> str:
    """`start`, a bar, and the fullest of `ends` that leaves room for a bar worth the name."""
    for end in ends:
        columns = min(BAR, width - len(start) - len(end) - 1)
        if columns >= LEAST:
            return f"{start}{bar(*done, columns, utf8=utf8)} {end}"
    return start + ends[-1]

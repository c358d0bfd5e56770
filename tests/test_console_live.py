"""What a person at a terminal sees: the layout in any window, and how it is drawn."""

import io
from pathlib import Path

import pytest

from embmerge import events as e
from embmerge.console import Console
from embmerge.console.board import WINDOW, Board
from embmerge.console.layout import layout
from embmerge.console.live import LiveScreen
from embmerge.errors import EmbmergeError
from tests.terminal import Terminal

MB = 1024**2


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def shard(cluster, n):
    return (cluster, f"cluster{cluster[-1]}_gpu{n - 1}.pkl", n, 8, 48 * MB)


def syncing(console):
    for name in ("tensor01", "tensor02"):
        console(e.SyncStarted(name, Path("embeddings")))
        console(e.Connected(name, "/d"))
        console(e.ShardsFound(name, 8, 8 * 48 * MB))
        console(e.ShardFetched(*shard(name, 1), seconds=1.0))
        for n in (2, 3):
            console(e.ShardStarted(*shard(name, n), resumed=0))
            console(e.ShardProgress(*shard(name, n), done=24 * MB))
    console(e.Retrying("tensor02", 1, 8, 1.0, "no byte for 30 s"))


@pytest.fixture
def board():
    clock = Clock()
    board = Board(clock)
    syncing(board.apply)
    clock.now = 8.0
    return board


def test_a_cluster_whose_turn_has_not_come_says_so(board):
    for event in (
        e.SyncStarted("tensor03", Path("embeddings")),
        e.ShardsFound("tensor03", 8, MB),
        e.Queued("tensor03"),
    ):
        board.apply(event)
    assert "tensor03  comes next  0/8 files" in layout(board, 79, 24)


def test_a_wide_window_shows_clusters_shards_and_the_total(board):
    assert layout(board, 79, 24) == [
        "tensor01  syncing  1/8 files  12.0 MB/s",
        "  [2/8] cluster1_gpu1.pkl ━━━━━━━━━━━━────────────  50% 24.00 MB of 48.00 MB",
        "  [3/8] cluster1_gpu2.pkl ━━━━━━━━━━━━────────────  50% 24.00 MB of 48.00 MB",
        "tensor02  retrying 1/8  1/8 files  12.0 MB/s",
        "  [2/8] cluster2_gpu1.pkl ━━━━━━━━━━━━────────────  50% 24.00 MB of 48.00 MB",
        "  [3/8] cluster2_gpu2.pkl ━━━━━━━━━━━━────────────  50% 24.00 MB of 48.00 MB",
        "total ━━━━──────────── 2/16 files, 192.00 MB of 768.00 MB, 24.0 MB/s, 24 s left",
    ]


def silent(seconds, *, started=True):
    """The last line of the display when no byte has come for so long, of a shard that began at 60 s."""
    clock = Clock()
    board = Board(clock)
    board.apply(e.SyncStarted("tensor01", Path("embeddings")))
    board.apply(e.ShardsFound("tensor01", 8, 8 * 48 * MB))
    clock.now = 60.0
    if started:
        board.apply(e.ShardStarted(*shard("tensor01", 1), resumed=0))
    clock.now += seconds
    return layout(board, 79, 24)[-1]


def test_a_line_on_which_the_first_byte_is_still_to_come_is_not_stalled():
    assert silent(WINDOW - 1).endswith("0 B of 384.00 MB, 0 B/s")


def test_a_line_that_is_silent_from_the_beginning_is_stalled_after_a_while():
    assert silent(WINDOW + 1).endswith("0 B/s, stalled")


def test_nothing_is_stalled_before_the_first_shard_was_begun():
    assert silent(WINDOW + 1, started=False).endswith("0 B of 384.00 MB, 0 B/s")


def test_a_line_that_falls_silent_is_stalled(board):
    board._clock.now = WINDOW + 1
    assert layout(board, 79, 24)[-1].endswith("0 B/s, stalled")


def test_the_rate_counts_from_the_first_shard_on_and_not_from_the_login():
    clock = Clock()
    board = Board(clock)
    board.apply(e.SyncStarted("tensor01", Path("embeddings")))
    clock.now = 5.0
    board.apply(e.ShardStarted(*shard("tensor01", 1), resumed=0))
    clock.now = 6.0
    board.apply(e.ShardProgress(*shard("tensor01", 1), done=12 * MB))
    assert board.rate() == 12 * MB


@pytest.mark.parametrize("width", [1, 10, 20, 30, 40, 57, 60, 77, 80, 200])
def test_no_line_is_wider_than_the_window(board, width):
    assert all(len(line) <= width for line in layout(board, width, 24))


def test_sixty_columns_still_show_rate_and_time_left(board):
    assert layout(board, 57, 24)[-1] == "total ━━━────────── 2/16, 192.00 MB, 24.0 MB/s, 24 s left"


def test_in_a_low_window_the_shards_give_way_first(board):
    assert [line.split()[0] for line in layout(board, 79, 4)] == ["tensor01", "[2/8]", "tensor02", "total"]


def test_without_utf8_the_bars_are_ascii(board):
    assert all(line.isascii() for line in layout(board, 79, 24, utf8=False))


def test_a_merge_shows_its_stage_and_a_bar_of_rows():
    board = Board(Clock())
    for event in (e.MergeStarted(16), e.RowsWritten(125_000, 250_000)):
        board.apply(event)
    assert layout(board, 79, 24) == [
        "writing rows ━━━━━━━━━━━━──────────── 50% 125,000 of 250,000 rows",
    ]


@pytest.fixture
def window(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LANG", "C.UTF-8")
    for name in ("NO_COLOR", "LC_ALL"):
        monkeypatch.delenv(name, raising=False)

    def size(width, height=24):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", str(height))

    size(80)
    return size


def test_finished_shards_scroll_and_the_live_part_goes(window):
    terminal = Terminal()
    with Console.choose(out=terminal, err=terminal) as console:
        syncing(console)
        console.redraw()
        assert any(line.startswith("total ━") for line in terminal.lines)
        assert not terminal.cursor_shown
    assert terminal.lines[:4] == [
        "SYNCING FROM TENSOR01",
        "Output directory: embeddings",
        "✓ Connected",
        "Remote directory: /d",
    ]
    assert terminal.lines[-1] == "tensor02 | ! no byte for 30 s; try 1 of 8 in 1.0 s"
    assert not any("━" in line for line in terminal.lines)
    assert terminal.cursor_shown


def test_a_narrower_window_leaves_no_remains(window):
    terminal = Terminal()
    with Console.choose(out=terminal, err=terminal) as console:
        syncing(console)
        for width in (60, 45):
            terminal.narrow(width)
            window(width)
            console.redraw()
            assert sum("[2/8]" in line and "━" in line for line in terminal.lines) == 2
    assert not any("━" in line for line in terminal.lines)


def test_no_color_is_respected(window, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    with Console.choose(out=terminal, err=terminal) as console:
        syncing(console)
    assert "\x1b[3" not in terminal.raw


def test_a_terminal_without_utf8_gets_ascii(window, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    terminal = Terminal(encoding="ascii")
    with Console.choose(out=terminal, err=terminal) as console:
        syncing(console)
        console.redraw()
        assert any("####" in line for line in terminal.lines)
    assert "\nok Connected\n" in "\n".join(terminal.lines)


def test_a_dumb_terminal_gets_plain_lines(window, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Console.choose(out=terminal, err=terminal) as console:
        syncing(console)
    assert "\x1b" not in terminal.raw


def test_names_are_never_markup(window):
    terminal = Terminal()
    with Console.choose(out=terminal, err=terminal) as console:
        console(e.ShardLoaded("[bold red]x[/].pkl", 1, 1, 5, 2))
    assert terminal.lines == ["  [1/1] [bold red]x[/].pkl... ✓ (5 items, dim=2)"]


def test_an_interrupt_leaves_the_terminal_as_it_was(window):
    terminal = Terminal()
    console = Console.choose(out=terminal, err=terminal)
    with pytest.raises(KeyboardInterrupt), console:
        raise syncing(console) or KeyboardInterrupt
    assert terminal.cursor_shown
    assert not any("━" in line for line in terminal.lines)


def test_the_window_is_measured_anew_for_every_result(window):
    screen = LiveScreen(Board(Clock()), Terminal(), Terminal())
    window(61)
    assert screen.width == 61


def test_errors_also_go_where_stderr_was_sent(window):
    terminal, log = Terminal(), io.StringIO()
    with Console.choose(out=terminal, err=log) as console:
        console.error(EmbmergeError("no such file", hint="look again"))
    assert terminal.lines == log.getvalue().splitlines() == ["Error: no such file", "  look again"]


def test_a_pause_gives_the_terminal_back_and_what_follows_stands_below():
    out = Terminal()
    screen = LiveScreen(Board(Clock()), out, out)
    console = Console(screen, board=screen._board)
    console._closed.set()  # no thread draws
    screen.start()
    syncing(console)
    console.pause()
    before = out.lines
    assert out.cursor_shown
    out.write("$ fg\r\n")
    console.resume()
    assert not out.cursor_shown
    console(e.ShardFetched(*shard("tensor01", 2), seconds=1.0))
    assert out.lines[: len(before) + 1] == [*before, "$ fg"]

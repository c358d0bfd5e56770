"""A terminal: lines that stay scroll above a live part that is drawn anew eight times a second (rich)."""

import getpass
import re
from typing import TextIO

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from embmerge.console.board import Board
from embmerge.console.layout import layout
from embmerge.console.screen import shown, speaks_utf8

_STYLES = (  # what a line looks like, by what stands in it; never markup: names are remote text
    (re.compile(r"✓|\bok\b"), "green"),
    (re.compile(r"✗.*|\bFAIL\b.*|^Error:.*|^Stopped:.*"), "red"),
    (re.compile(r"(?:^|(?<=\| ))!.*"), "yellow"),
    (re.compile(r"(?:^|(?<=\| ))[A-Z][A-Z0-9 _-]{5,}$"), "bold"),
    (re.compile(r"━+|#{2,}"), "cyan"),
    (re.compile(r"^ *[\w.-]+ +\| "), "dim"),
)


class LiveScreen:
    """Lines above, the layout of `board` below; NO_COLOR, resizing and dumb characters are respected."""

    def __init__(self, board: Board, out: TextIO) -> None:
        self._board, self._out = board, out
        self._utf8 = speaks_utf8(out)
        self._console = RichConsole(file=out, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._live = Live(
            _Drawing(board, utf8=self._utf8),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    @property
    def width(self) -> int | None:
        """The columns of the window, as it is now."""
        return self._console.width

    @property
    def frame(self) -> float | None:
        """Eight drawings a second: smooth enough, and next to no work."""
        return 1 / 8

    def redraw(self) -> None:
        """Draw the live part anew."""
        self._live.refresh()

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def stop(self) -> None:
        """Take the live part away; the lines above stay."""
        self._live.stop()

    def write(self, text: str, *, error: bool = False) -> None:  # noqa: ARG002  a terminal shows both in one place
        """Print lines above the live part."""
        for line in text.split("\n"):
            self._console.print(styled(shown(line, self._out)), soft_wrap=True)

    def ask(self, prompt: str) -> str:
        """Ask below the lines, with the live part out of the way."""
        self._live.stop()
        try:
            return getpass.getpass(shown(prompt, self._out))
        finally:
            self._live.start(refresh=True)


class _Drawing:
    """The layout as rich asks for it: anew for every refresh, in the room that there is at that moment."""

    def __init__(self, board: Board, *, utf8: bool) -> None:
        self._board, self._utf8 = board, utf8

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        room = max(1, console.height - 2)
        for line in layout(self._board, options.max_width - 1, room, utf8=self._utf8):
            yield styled(line)


def styled(line: str) -> Text:
    """`line` as rich text, coloured by what it says."""
    text = Text(line, no_wrap=True, overflow="ignore")
    for pattern, style in _STYLES:
        text.highlight_regex(pattern, style)
    return text

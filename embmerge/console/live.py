"""A terminal: lines that stay scroll above a live part that is drawn anew eight times a second.

rich knows colours, widths and terminals. Its own `Live` is not used: it forgets that a terminal made narrower breaks
the lines that stand there already, and leaves their remains behind.
"""

import getpass
import re
import shutil
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from embmerge.console.board import Board
from embmerge.console.layout import layout
from embmerge.console.screen import PlainScreen, shown, speaks_utf8

_STYLES = (  # what a line looks like, by what stands in it; never markup: names are remote text
    (re.compile(r"✓|\bok\b"), "green"),
    (re.compile(r"✗.*|\bFAIL\b.*|^Error:.*|^Stopped.*"), "red"),
    (re.compile(r"(?:^|(?<=\| ))!.*"), "yellow"),
    (re.compile(r"(?:^|(?<=\| ))[A-Z][A-Z0-9 _-]{5,}$"), "bold"),
    (re.compile(r"━+|#{2,}"), "cyan"),
    (re.compile(r"^ *[\w.-]+ +\| "), "dim"),
)


class LiveScreen:
    """Lines above, the layout of `board` below; NO_COLOR, resizing and missing UTF-8 are respected."""

    def __init__(self, board: Board, out: TextIO, err: TextIO) -> None:
        self._board, self._out, self._err = board, out, err
        self._utf8 = speaks_utf8(out)
        self._rich = RichConsole(file=out, highlight=False, markup=False, emoji=False)
        self._drawn: list[str] = []  # the live part as it stands on the terminal; the cursor is behind it

    @property
    def width(self) -> int | None:
        """The columns of the window, as it is now."""
        return shutil.get_terminal_size().columns

    @property
    def frame(self) -> float | None:
        """Eight drawings a second: smooth enough, and next to no work."""
        return 1 / 8

    def start(self) -> None:
        """Begin to draw."""
        self._rich.show_cursor(show=False)

    def stop(self) -> None:
        """Take the live part away; the lines above stay."""
        with self._rich:
            self._erase()
            self._rich.show_cursor(show=True)

    def redraw(self) -> None:
        """Draw the live part anew."""
        self.write()

    def write(self, text: str | None = None, *, error: bool = False) -> None:
        """Print lines above the live part; errors also where stderr goes, if that is not the terminal."""
        if error and text is not None and not self._err.isatty():
            PlainScreen(self._out, self._err).write(text, error=True)
        with self._rich:  # one write to the terminal, so that nothing flickers
            self._erase()
            for line in [] if text is None else text.split("\n"):
                self._rich.print(styled(shown(line, self._out)), soft_wrap=True)
            columns, rows = shutil.get_terminal_size()  # the terminal echoes ^C at the end: leave room for it
            self._drawn = [
                shown(line, self._out) for line in layout(self._board, columns - 3, rows - 2, utf8=self._utf8)
            ]
            self._rich.print(Text("\n").join(map(styled, self._drawn)), end="", soft_wrap=True)

    def ask(self, prompt: str) -> str:
        """Ask below the lines, with the live part out of the way."""
        self.stop()
        try:
            return getpass.getpass(shown(prompt, self._out))
        finally:
            self.start()

    def _erase(self) -> None:
        """Go to where the live part begins and clear from there.

        A terminal that became narrower has broken the lines: each takes as many rows as it needs at the width of now.
        """
        columns = shutil.get_terminal_size().columns
        rows = sum(max(1, -(-cell_len(line) // columns)) for line in self._drawn)
        up = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * (rows - 1)
        if rows:  # line by line: tmux takes "erase all below" for a reason to keep it in its history
            self._rich.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
        self._drawn = []


def styled(line: str) -> Text:
    """`line` as rich text, coloured by what it says."""
    text = Text(line, no_wrap=True, overflow="ignore")
    for pattern, style in _STYLES:
        text.highlight_regex(pattern, style)
    return text

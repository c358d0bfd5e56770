"""A terminal small enough to read: a stream that shows what a person would see."""

import io
import re

_CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])", re.DOTALL)


class Terminal(io.StringIO):
    """Understands line breaks, wrapping, cursor up, erasing a line, colours (`styles` counts them) and the cursor."""

    encoding = "utf-8"

    def __init__(self, width=80, encoding="utf-8"):
        super().__init__()
        self.width, self.encoding = width, encoding
        self.rows, self.row, self.column = [""], 0, 0
        self.styles, self.cursor_shown, self.raw = 0, True, ""

    def isatty(self):
        return True

    def write(self, text):
        text.encode(self.encoding)  # a real stream would fail here
        self.raw += text
        for match in _CONTROL.finditer(text):
            argument, command, back, feed, character = match.groups()
            if back:
                self.column = 0
            elif feed:
                self._down()
            elif character:
                self._put(character)
            elif command == "A":
                self.row = max(0, self.row - int(argument or 1))
            elif command == "K" and argument == "2":
                self.rows[self.row] = ""
            elif command == "m":
                self.styles += 1
            elif command in "hl" and argument == "?25":
                self.cursor_shown = command == "h"
            else:
                raise AssertionError(f"this terminal does not know {match[0]!r}")
        return len(text)

    def narrow(self, width):
        """Make the window narrower, as most terminals do: what stands there is broken anew."""
        self.rows = [
            row[at : at + width] for row in self.rows[: self.row + 1] for at in range(0, max(1, len(row)), width)
        ]
        self.width, self.row, self.column = width, len(self.rows) - 1, len(self.rows[-1])

    @property
    def lines(self):
        return [row.rstrip() for row in self.rows if row.strip()]

    def _put(self, character):
        if self.column == self.width:
            self._down()
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
        self.column += 1

    def _down(self):
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")

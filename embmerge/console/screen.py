"""Where lines go: a stream that gets each as one whole line, flushed at once, in characters that it can show."""

import getpass
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TextIO

from embmerge.errors import DiskError

# What stands for our own marks where UTF-8 is not understood.
_ASCII = str.maketrans({"✓": "ok", "✗": "FAIL", "\N{MULTIPLICATION SIGN}": "x", "…": "...", "·": "-"})


class Screen(Protocol):
    """One way of showing lines to a person. The console calls it under its lock."""

    @property
    def width(self) -> int | None:
        """Columns, None if lines may be as long as they like."""

    @property
    def frame(self) -> float | None:
        """Seconds between two drawings of what moves; None if nothing does."""

    def redraw(self) -> None:
        """Draw what moves anew."""

    def start(self) -> None:
        """Begin to show."""

    def stop(self) -> None:
        """Stop showing; what was written stays. Raises `DiskError` if something could not be written."""

    def write(self, text: str, *, error: bool = False) -> None:
        """Show one or several whole lines (without the last line break)."""

    def ask(self, prompt: str) -> str:
        """Ask the person for a line that is not shown as they type it."""


class PlainScreen:
    """Lines on `out`, errors on `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err
        self._failed: OSError | None = None

    @property
    def width(self) -> int | None:
        """Lines may be as long as they like: whoever reads them later has a width of their own."""
        return None

    @property
    def frame(self) -> float | None:
        """Nothing moves."""
        return None

    def redraw(self) -> None:
        """Nothing moves."""

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Raise `DiskError` if something could not be written."""
        if self._failed:
            raise DiskError(
                f"cannot write the output: {self._failed.strerror}", hint="see what stdout is redirected to"
            )

    def write(self, text: str, *, error: bool = False) -> None:
        """Write whole lines in one call and flush."""
        stream = self._err if error else self._out
        try:
            stream.write(shown(text, stream) + "\n")
            stream.flush()
        except BrokenPipeError:  # `invoke sync | head`: whoever read has left, the work goes on
            _detach(stream)
        except OSError as failed:  # `invoke sync > log`, and the disk is full: the work comes first
            _detach(stream)
            self._failed = failed

    def ask(self, prompt: str) -> str:
        """Ask on the terminal itself, whatever stdout is."""
        return getpass.getpass(shown(prompt, self._err), stream=None)


def shown(text: str, stream: TextIO, environment: Mapping[str, str] = os.environ) -> str:
    """`text` in characters that `stream` can take: without UTF-8, `✓` is `ok`, what is foreign its escape."""
    if not speaks_utf8(stream, environment):
        text = text.translate(_ASCII)
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def speaks_utf8(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether whoever reads `stream` understands UTF-8.

    Python itself writes UTF-8 even under LANG=C; the person who set that said that their terminal does not.
    """
    encoding = (stream.encoding or "utf-8").lower().replace("-", "").replace("_", "")
    if encoding != "utf8":
        return False
    if environment.get("PYTHONIOENCODING") or environment.get("PYTHONUTF8") == "1":
        return True
    return (environment.get("LC_ALL") or environment.get("LANG") or "") not in {"C", "POSIX"}


def terminal_as_it_is() -> Callable[[], None]:
    """A function that puts the person's terminal back to how it is now: a question switches the echo off."""
    try:
        import termios  # noqa: PLC0415  not every Python has it

        with Path("/dev/tty").open("rb", buffering=0) as terminal:
            state = termios.tcgetattr(terminal)
    except (ImportError, OSError):
        return lambda: None

    def put_back() -> None:
        with suppress(OSError, termios.error), Path("/dev/tty").open("rb", buffering=0) as terminal:
            termios.tcsetattr(terminal, termios.TCSANOW, state)

    return put_back


def _detach(stream: TextIO) -> None:
    """Send what is still written to a closed pipe nowhere, so that Python's last flush finds no fault either."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except OSError:
        pass

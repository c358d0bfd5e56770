"""Events, results and errors in; lines, live bars or a JSON document out."""

import json as jsonlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from embmerge.console.board import Board
from embmerge.console.jsonify import jsonify
from embmerge.console.lines import lines
from embmerge.console.results import render
from embmerge.console.screen import PlainScreen, Screen, terminal_as_it_is
from embmerge.errors import EmbmergeError, Interrupted
from embmerge.events import Checked, ClusterEvent, ClusterFailed, Detail, Event, HostKeyAccepted, Warned

HEARTBEAT = 30.0  # seconds of silence after which a person off a terminal is told that all is well


class Console:
    """What a person sees of one task. A context manager and an observer; safe to call from any thread.

    `json_to` gets the JSON document at the end; None if that was not asked for. A heartbeat comes after `heartbeat`
    seconds without a line. `board` is given where the screen draws it.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        quiet: bool = False,
        verbose: bool = False,
        json_to: TextIO | None = None,
        heartbeat: float = HEARTBEAT,
        clock: Callable[[], float] = time.monotonic,
        board: Board | None = None,
    ) -> None:
        self._screen = screen
        self._quiet, self._verbose = quiet, verbose
        self._json_to = json_to
        self._document: dict[str, Any] = {"ok": True}
        self._heartbeat, self._clock = heartbeat, clock
        self._board = board or Board(clock)
        self._lock = threading.RLock()
        self._asking = threading.Lock()
        self._held: list[tuple[str, bool]] | None = None  # what waits until the person has answered
        self._put_back: Callable[[], None] = lambda: None
        self._closed = threading.Event()
        self._printed_at = clock()
        self._last = ""  # the last line of the last result: all that --quiet leaves of it
        self._parted = True
        self._rungs: list[str] = []  # what broke on doctor's ladder, which is read as a whole
        self._failures: set[str] = set()  # errors that were printed

    @classmethod
    def choose(
        cls,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> "Console":
        """The console that fits the streams (default: stdout and stderr) and what was asked for."""
        out, err = (stream or _nowhere() for stream in (out or sys.stdout, err or sys.stderr))  # None if it is closed
        if json:
            return cls(PlainScreen(err, err), quiet=quiet, verbose=verbose, json_to=out)
        if quiet or not out.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return cls(PlainScreen(out, err), quiet=quiet, verbose=verbose)
        from embmerge.console.live import LiveScreen  # noqa: PLC0415  rich only where it is seen

        board = Board(time.monotonic)
        return cls(LiveScreen(board, out, err), verbose=verbose, board=board)

    def __enter__(self) -> "Console":  # noqa: PYI034  typing.Self came with Python 3.11
        self._screen.start()
        if not self._quiet:
            threading.Thread(target=self._keep_alive, name="console", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with self._lock:
            self._release()
            if self._quiet and self._last:
                self._screen.write(self._last)
            self._screen.stop()
            if self._json_to:
                if error and self._document["ok"]:  # not one of ours: the traceback follows on stderr
                    self._document |= {"ok": False, "error": jsonify(error)}
                text = jsonlib.dumps(self._document, ensure_ascii=True, allow_nan=False, indent=2)
                document = PlainScreen(self._json_to, self._json_to)
                document.write(text)
                document.stop()

    @property
    def ask(self) -> Callable[[str], str] | None:
        """How to ask the person for a second factor; None where nobody sits at a terminal."""
        return self._ask if sys.stdin and sys.stdin.isatty() else None

    def expect(self, clusters: Sequence[str]) -> None:
        """Say which clusters will be asked; if there are several, each of their lines says whose it is."""
        with self._lock:
            self._board.expect(clusters)

    def __call__(self, event: Event) -> None:
        """Take note of an event and show what of it is worth a line."""
        with self._lock:
            said = lines(event, self._board) if self._verbose or not isinstance(event, Detail) else []
            self._board.apply(event)
            cluster = event.cluster if isinstance(event, (ClusterEvent, Warned, Detail)) else ""
            failed = isinstance(event, ClusterFailed)
            trusted = isinstance(event, HostKeyAccepted)  # which nobody should learn of later
            broken = isinstance(event, Checked) and event.ok is False
            if said and (failed or broken or trusted or not self._quiet):
                self._part()
                wrong = failed or (self._quiet and (broken or trusted))
                self._write([self._prefix(cluster) + line for line in said], error=wrong)
            if isinstance(event, ClusterFailed):
                self._failures.add(event.message)
            if isinstance(event, Checked) and broken:
                self._rungs.append(event.text)

    def say(self, *said: str) -> None:
        """Print lines of the task's own."""
        if not self._quiet:
            with self._lock:
                self._write(list(said))

    def show(self, result: object) -> None:
        """Print a result; in the JSON document it stands under its type's name, without Result."""
        with self._lock:
            if self._json_to:
                self._document[_key(result)] = jsonify(result)
                return
            said = render(result, self._screen.width)
            self._last = next((line.strip() for line in reversed(said) if line.strip()), "")
            if said and not self._quiet:
                self._write(said)
                self._parted = False

    def error(self, error: EmbmergeError) -> None:
        """Print an error and what to do next; the first one is the JSON document's."""
        with self._lock:
            self._release()
            self._last = ""
            if self._json_to and self._document["ok"]:
                self._document |= {"ok": False, "error": jsonify(error)}
            if error.message in self._failures or any(error.message.endswith(text) for text in self._rungs):
                return  # it stands there already, as the line of its cluster or as a rung
            asked_for = isinstance(error, Interrupted)  # no failure: somebody wanted it
            said = [error.message[:1].upper() + error.message[1:] if asked_for else f"Error: {error.message}"]
            if error.hint:
                said.append(f"  {error.hint}")
            self._write(said, error=True)
            self._failures.add(error.message)

    def next(self, *commands: str) -> None:
        """End with what a person does next: whole commands, with their own paths in them."""
        with self._lock:
            if self._json_to:
                self._document["next"] = list(commands)
            elif not self._quiet:
                self._write(["", "Next:", *(f"  {command}" for command in commands)])

    def beat(self) -> float:
        """Print a heartbeat if nothing was printed for so long; returns the seconds until the next may be due."""
        with self._lock:
            due = self._printed_at + self._heartbeat - self._clock()
            if due > 0 or self._closed.is_set():
                return due
            self._write([self._board.summary()])
            return self._heartbeat

    def pause(self) -> None:
        """Leave the terminal as it was, for a shell to go on in it."""
        with self._lock:
            self._screen.stop()

    def resume(self) -> None:
        """Go on below what the shell has left there."""
        with self._lock:
            if self._held is None:  # else the person is being asked, and sees where they type
                self._screen.start()

    def redraw(self) -> None:
        """Draw the live part anew, unless the person is being asked something."""
        with self._lock:
            if self._held is None and not self._closed.is_set():
                self._screen.redraw()

    def _keep_alive(self) -> None:
        """Drawing is done here and not in a thread of rich's own, which would race with the lines above."""
        frame = self._screen.frame
        pause = frame or self._heartbeat
        while not self._closed.wait(pause):
            if frame:
                self.redraw()
            else:
                pause = self.beat()

    def _write(self, said: list[str], *, error: bool = False) -> None:
        self._printed_at = self._clock()
        text = "\n".join(said)
        if self._held is None:
            self._screen.write(text, error=error)
        else:
            self._held.append((text, error))

    def _part(self) -> None:
        """Leave a line free between a result and what follows it."""
        if not self._parted and not self._quiet:
            self._parted = True
            self._write([""])

    def _prefix(self, cluster: str) -> str:
        names = {*self._board.clusters, cluster}
        if not cluster or len(names) == 1:  # one cluster alone needs no name
            return ""
        return f"{cluster:<{max(map(len, names))}} | "

    def _ask(self, prompt: str) -> str:
        """One question at a time; the work goes on meanwhile, its lines follow the answer."""
        with self._asking:
            with self._lock:
                self._held, self._put_back = [], terminal_as_it_is()
            try:
                return self._screen.ask(prompt)
            finally:
                self._release(answered=True)

    def _release(self, *, answered: bool = False) -> None:
        """Print what waited for an answer. If nobody gives one any more, the terminal's echo is still off."""
        with self._lock:
            if self._held is not None:
                if not answered:
                    self._screen.write("")  # the prompt's line ends here
                held, self._held = self._held, None
                self._put_back()
                for text, error in held:
                    self._screen.write(text, error=error)


def _key(result: Any) -> str:
    name = type(result).__name__.removesuffix("Result")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")

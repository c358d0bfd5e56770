"""A ladder of rungs, climbed one after the other up to the one that breaks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from embmerge.errors import EmbmergeError
from embmerge.events import Checked, Observer


@dataclass(frozen=True)
class Rung:
    """One rung: it holds (`ok` True), breaks (False), or holds but is worth a word (None).

    `hint` is the command to try next. `cluster` is '' for this machine's own rungs.
    """

    cluster: str
    name: str
    ok: bool | None
    text: str
    hint: str = ""


@dataclass(frozen=True)
class DoctorResult:
    """All rungs in the order in which they were climbed; `error` is the first one that broke."""

    rungs: tuple[Rung, ...]
    error: EmbmergeError | None = None

    @property
    def ok(self) -> bool:
        """Whether every rung holds."""
        return self.error is None


class Broken(Exception):
    """A rung broke; the rest of its ladder hangs from it."""


@dataclass
class Ladder:
    """The rungs that were climbed so far."""

    observer: Observer
    rungs: list[Rung] = field(default_factory=list)
    error: EmbmergeError | None = None

    @contextmanager
    def rung(self, name: str, command: str, cluster: str = "") -> Iterator[list[str]]:
        """Climb one rung: the block appends what it found, or raises; `command` is what to try if it breaks."""
        found: list[str] = []
        try:
            yield found
        except EmbmergeError as error:
            self.breaks(name, error, command, cluster)
        self.add(Rung(cluster, name, ok=True, text="; ".join(found)))

    def breaks(self, name: str, error: EmbmergeError, command: str, cluster: str) -> NoReturn:
        """Note a rung that breaks, and end its ladder: raises `Broken`."""
        self.error = self.error or error
        hint = f"try: {command}" + (f"   ({error.hint})" if error.hint else "")
        self.add(Rung(cluster, name, ok=False, text=error.message.removeprefix(f"{cluster}: "), hint=hint))
        raise Broken from error

    def add(self, rung: Rung) -> None:
        """Note a rung and tell it."""
        self.rungs.append(rung)
        self.observer(Checked(rung.name, rung.ok, rung.text, rung.hint, rung.cluster))

"""Aligned tables of plain text that make themselves fit into a window."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = _INDENT = "  "
_MINUTE = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)")  # Python 3.10 reads not every form of ISO 8601


@dataclass(frozen=True)
class Column:
    """One column and how it gives way when the window is narrow.

    `once`: if all rows agree, the value may be said once above the table. `least`: it may be shortened to so many
    characters (0: not at all). `goes`: the rank in which it is left out (1 first; 0 never).
    """

    title: str
    right: bool = False
    once: bool = False
    least: int = 0
    goes: int = 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The lines of a table: `rows` have one text a column; `width` None is as wide as it needs."""
    limits = {n: max(len(text) for text in (columns[n].title, *(row[n] for row in rows))) for n in range(len(columns))}
    lines = []
    if width is not None:
        room = width - len(_INDENT)
        said = _say_once(columns, rows, limits) if _total(limits) > room else []
        lines = [f"{_INDENT}all: {', '.join(said)}"] if said else []
        while _total(limits) > room and _give_way(columns, limits, _total(limits) - room):
            pass
    lines += [_INDENT + _row([columns[n].title for n in limits], columns, limits)]
    lines += [_INDENT + _row([row[n] for n in limits], columns, limits) for row in rows]
    return lines


def minute(timestamp: str) -> str:
    """An ISO 8601 time stamp as a table shows it, '' if it is none."""
    match = _MINUTE.match(timestamp)
    return f"{match[1]} {match[2]}" if match else ""


def _say_once(columns: Sequence[Column], rows: Sequence[Sequence[str]], limits: dict[int, int]) -> list[str]:
    """Take the columns in which all rows agree out of `limits`; returns what they say."""
    common = [n for n in limits if columns[n].once and len({row[n] for row in rows}) == 1]
    for n in common:
        del limits[n]
    return [f"{columns[n].title} {rows[0][n]}" for n in common if rows[0][n]]


def _give_way(columns: Sequence[Column], limits: dict[int, int], over: int) -> bool:
    """Shorten one column by up to `over` characters or, if none can be, leave one out; False if nothing helps."""
    soft = [n for n in limits if columns[n].least and limits[n] > columns[n].least]
    if soft:
        longest = max(soft, key=lambda n: limits[n])
        limits[longest] = max(columns[longest].least, limits[longest] - over)
        return True
    leaving = [n for n in limits if columns[n].goes]
    if leaving:
        del limits[min(leaving, key=lambda n: columns[n].goes)]
    return bool(leaving)


def _total(limits: dict[int, int]) -> int:
    return sum(limits.values()) + len(_GAP) * (len(limits) - 1)


def _row(texts: Sequence[str], columns: Sequence[Column], limits: dict[int, int]) -> str:
    cells = []
    for text, (n, limit) in zip(texts, limits.items(), strict=True):
        short = text if len(text) <= limit else text[: limit - 1] + "…"
        cells.append(short.rjust(limit) if columns[n].right else short.ljust(limit))
    return _GAP.join(cells).rstrip()

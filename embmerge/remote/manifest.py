"""`manifest.json`: where each local shard came from, and what its bytes were then.

    {"version": 1,
     "rates": {"tensor01": 117440512.0},                                bytes a second of the last download
     "shards": {"cluster0_gpu0.pkl": {"cluster": "tensor01", "path": "/home/…/cluster0_gpu0.pkl", "size": 48000364,
                "mtime": 1767225600, "sha256": "…", "range": [0, 15625], "when": "2026-01-01T12:00:00+00:00"}}}

It is a record and no authority: whether a shard is here is decided by the shard. It is written anew, whole and by
rename, so that of two runs at the same time one may miss the other's last entry, and nobody ever reads a half.
"""

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embmerge import atomic

NAME = "manifest.json"
_VERSION = 1
_writing = threading.Lock()  # clusters of one run take turns


@dataclass(frozen=True)
class Entry:
    """One shard: its cluster and path there, bytes, mtime, sha256, the rows `[start, end)` it holds, when it came."""

    cluster: str
    path: str
    size: int
    mtime: int
    sha256: str
    range: tuple[int, int]
    when: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says: entries by shard name, bytes a second by cluster."""

    shards: Mapping[str, Entry] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


def read(directory: Path) -> Manifest:
    """The manifest of `directory`; what is missing or cannot be understood is left out."""
    try:
        raw = json.loads((directory / NAME).read_bytes())
        shards, rates = raw["shards"], raw.get("rates", {})
        entries = {str(name): entry for name, value in shards.items() if (entry := _entry(value))}
        return Manifest(entries, {str(name): float(rate) for name, rate in rates.items() if _is_rate(rate)})
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return Manifest()


def record(
    directory: Path, *, shards: Mapping[str, Entry] | None = None, rates: Mapping[str, float] | None = None
) -> None:
    """Add to the manifest what is new; entries of shards that are no longer in `directory` go. Raises `DiskError`."""
    with _writing:
        known = read(directory)
        entries = {name: entry for name, entry in known.shards.items() if (directory / name).exists()}
        document = {
            "version": _VERSION,
            "rates": {**known.rates, **(rates or {})},
            "shards": {name: asdict(entry) for name, entry in sorted({**entries, **(shards or {})}.items())},
        }
        atomic.write_bytes(directory / NAME, json.dumps(document, indent=1).encode() + b"\n")


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _entry(value: Any) -> Entry | None:
    try:
        start, end = value["range"]
        return Entry(**{**value, "range": (int(start), int(end))})
    except (TypeError, ValueError, LookupError):
        return None

"""`manifest.json`: where each local shard came from, and what its bytes were then.

    {"version": 1,
     "rates": {"tensor01": 117440512.0},                                bytes a second of the last download
     "shards": {"cluster0_gpu0.pkl": {"cluster": "tensor01", "path": "/home/…/cluster0_gpu0.pkl", "size": 48000364,
                "mtime": 1767225600, "sha256": "…", "range": [0, 15625], "when": "2026-01-01T12:00:00+00:00"}}}

It is a record and no authority: whether a shard is here is decided by the shard. It is written anew, whole and by
rename, so that of two runs at the same time one may miss the other's last entry, and nobody ever reads a half.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from embmerge import atomic
from embmerge.remote.credentials import CLUSTER_NAME
from embmerge.shard import Origin

NAME = "manifest.json"
_VERSION = 1
_LARGEST = 16 << 20  # bytes; an entry has some 400
_LONGEST_NAME = 200  # characters: no system takes a name of more than 255 bytes
_writing = threading.Lock()  # clusters of one run take turns


_Text = Annotated[str, Meta(max_length=4096)]
_Rate = Annotated[float, Meta(gt=0, lt=1e18)]


@dataclass(frozen=True)
class Entry:
    """One shard: its cluster and path there, bytes, mtime, sha256, the rows `[start, end)` it holds, when it came."""

    cluster: Annotated[str, Meta(pattern=f"^(?:{CLUSTER_NAME.pattern})$")]
    path: _Text
    size: int
    mtime: int
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    range: tuple[int, int]
    when: _Text


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says: entries by shard name, bytes a second by cluster."""

    shards: Mapping[str, Entry] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)


class _Document(msgspec.Struct):
    """The whole file, of which each entry is looked at by itself: one that is damaged costs no other."""

    shards: dict[str, msgspec.Raw] = {}
    rates: dict[str, msgspec.Raw] = {}


def read(directory: Path) -> Manifest:
    """The manifest of `directory`; what is missing or cannot be understood is left out."""
    path = directory / NAME
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:  # a pipe would be waited for
            return Manifest()
        raw = msgspec.json.decode(path.read_bytes(), type=_Document)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return Manifest()
    return Manifest(dict(_understood(raw.shards, Entry)), dict(_understood(raw.rates, _Rate)))


def origins(directory: Path) -> dict[str, Origin]:
    """Where each shard came from, by file name, with its sha256 if size and mtime are those that it came with."""
    return {
        name: Origin(entry.cluster, entry.sha256 if _is_unchanged(directory / name, entry) else None)
        for name, entry in read(directory).shards.items()
    }


def _understood(values: Mapping[str, msgspec.Raw], kind: Any) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
            if len(name) <= _LONGEST_NAME:
                yield name, msgspec.json.decode(value, type=kind)


def record(
    directory: Path, *, shards: Mapping[str, Entry] | None = None, rates: Mapping[str, float] | None = None
) -> None:
    """Add to the manifest what is new; entries of shards that are no longer in `directory` go. Raises `DiskError`."""
    with _writing:
        known = read(directory)
        entries = {name: entry for name, entry in known.shards.items() if _is_here(directory / name)}
        document = {
            "version": _VERSION,
            "rates": {**known.rates, **(rates or {})},
            "shards": {name: asdict(entry) for name, entry in sorted({**entries, **(shards or {})}.items())},
        }
        atomic.write_bytes(directory / NAME, json.dumps(document, indent=1).encode() + b"\n")


def _is_unchanged(path: Path, entry: Entry) -> bool:
    with suppress(OSError, ValueError):
        facts = path.stat()
        return (facts.st_size, int(facts.st_mtime)) == (entry.size, entry.mtime)
    return False


def _is_here(path: Path) -> bool:
    with suppress(OSError, ValueError):  # no name that a file could have
        return path.exists()
    return False

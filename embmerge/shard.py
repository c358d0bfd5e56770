"""One `cluster{c}_gpu{g}.pkl`: its header. `shardrows` reads its rows.

A shard is a pickled dict with `embeddings` (a float array, rows × dim), `start_index`, `end_index`, `cluster_id`,
`gpu_id` and usually `timestamp`, `processing_time`, `rate`, `model`. It is never unpickled: `picklewalk` says what it
holds and where the rows lie.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from embmerge.errors import LocalDataError, ShardError, TruncatedShard
from embmerge.picklevalues import Array, Dtype, Refused, Truncated
from embmerge.picklewalk import walk
from embmerge.plaintext import printable

SHARD_NAME = re.compile(r"cluster(\d{1,9})_gpu(\d{1,9})\.pkl")
_DTYPES = {"f2", "f4", "f8"}
_TEXT_LIMIT = 200  # characters of a model's name that are kept
_MOST_ROWS = 1 << 40
_WIDEST = (1 << 24) - 1  # values a row that a merged file has
_LARGEST = 1e300  # seconds, rows a second: a longer integer does not fit a float


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself, checked.

    It holds rows `[start, end)` of the dataset as `(rows, dim)` values of `dtype`; `array` says where they lie among
    the file's `nbytes`. `processing_time` is in seconds, `rate` in rows a second. `cluster` is the configured cluster
    that the file came from, if known.
    """

    name: str
    nbytes: int
    start: int
    end: int
    rows: int
    dim: int
    dtype: Dtype
    array: Array = field(repr=False)  # where the rows lie: nothing that a person or a script is shown
    cluster_id: int
    gpu_id: int
    model: str | None = None
    timestamp: str | None = None
    processing_time: float | None = None
    rate: float | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a shard came from: its configured cluster, and the sha256 that it must still have, if that is known."""

    cluster: str
    sha256: str | None = None


def local_shards(directory: Path) -> list[Path]:
    """The regular files in `directory` whose names are shards', in order of cluster and GPU.

    Raises `LocalDataError` if there is no such folder or none in it.
    """
    try:
        matches = [(SHARD_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    except OSError as error:
        raise LocalDataError(
            f"cannot list {directory}: {error.strerror}", hint="download the shards first: invoke sync"
        ) from None
    found = [((int(match[1]), int(match[2])), path) for match, path in matches if match and path.is_file()]
    if not found:
        raise LocalDataError(f"no cluster*_gpu*.pkl in {directory}", hint="download the shards first: invoke sync")
    return [path for _, path in sorted(found)]


@contextmanager
def readable(shown: object) -> Iterator[None]:
    """Turn what the local disk says about a shard, which is only read, into a `ShardError`; `shown` names it."""
    try:
        yield
    except OSError as error:
        kept = isinstance(error, PermissionError)  # a sync finds it unchanged
        hint = "let yourself read it: chmod u+r" if kept else "move it away, then run invoke sync"
        raise ShardError(f"cannot read {shown}: {error.strerror}", hint=hint) from None


def read_header(
    file: BinaryIO, nbytes: int, name: str, *, cluster: str | None = None, prefix: bool = False
) -> ShardHeader:
    """The header of the shard in `file`, which is `nbytes` long; only its beginning and its end are read.

    `prefix`: it is a checkpoint, a shard that may hold the first rows of its range alone.
    Raises `TruncatedShard` if it is cut short, `ShardError` if it is no shard or not to be trusted.
    """
    shown = printable(name)
    try:
        file.seek(0)
        return _checked(walk(file, nbytes), nbytes, name, cluster, prefix=prefix)
    except Truncated as error:
        raise TruncatedShard(
            f"{shown} is cut short: {error}", hint="its worker may still be writing, or the copy broke off; sync again"
        ) from None
    except Refused as error:
        raise ShardError(
            f"{shown} is not a usable shard: {error}", hint="have its worker write it again, or move it away"
        ) from None


def _checked(value: Any, nbytes: int, name: str, cluster: str | None, *, prefix: bool) -> ShardHeader:
    if type(value) is not dict:
        raise Refused(f"it holds {_kind(value)}, not a dict with 'embeddings'")
    array = value.get("embeddings")
    if not isinstance(array, Array):
        raise Refused(f"its 'embeddings' is {_kind(array)}, not a numpy array")
    if array.dtype is None or array.raw is None:
        raise Refused("its array is unfinished")
    if len(array.shape) != 2 or min(array.shape) < 1:  # noqa: PLR2004  rows × dim
        raise Refused(f"its array has the shape {array.shape}, not (rows, dim)")
    if array.dtype.code[1:] not in _DTYPES:
        raise Refused(f"its array is of {array.dtype}, not of float16, float32 or float64")
    start, end = _whole(value, "start_index"), _whole(value, "end_index")
    rows, dim = array.shape
    if dim > _WIDEST:
        raise Refused(f"its rows have {dim:,} values each; at most {_WIDEST:,} are merged")
    if end - start != rows and not (prefix and end - start > rows):
        raise Refused(f"it says it covers rows {start:,} - {end:,}, which are {end - start:,}, but it holds {rows:,}")
    return ShardHeader(
        name=name,
        nbytes=nbytes,
        start=start,
        end=end,
        rows=rows,
        dim=dim,
        dtype=array.dtype,
        array=array,
        cluster_id=_whole(value, "cluster_id"),
        gpu_id=_whole(value, "gpu_id"),
        model=_text(value.get("model")),
        timestamp=_text(value.get("timestamp")),
        processing_time=_number(value.get("processing_time")),
        rate=_number(value.get("rate")),
        cluster=cluster,
    )


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__.lower()}"


def _whole(shard: dict[str, Any], key: str) -> int:
    value = shard.get(key)
    if type(value) is not int or not 0 <= value < _MOST_ROWS:
        shown = "missing" if value is None else printable(value, 40)
        raise Refused(f"its {key!r} is {repr(shown) if type(value) is str else shown}, not a whole number")
    return value


def _text(value: object) -> str | None:
    return printable(value, _TEXT_LIMIT) if type(value) is str else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < _LARGEST else None

"""Articles and metadata as JSON, for the formats that hold no Python values.

What is read back comes from a file that anybody may have made: lines and documents are bounded, every value has a
checked type, and nothing of a file's text reaches a message but through `printable`.
"""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from embmerge.atomic import place_name
from embmerge.errors import LocalDataError
from embmerge.plaintext import printable
from embmerge.records import LONGEST

METADATA_LIMIT = 3 << 19  # some two thousand shards; decoded, hostile JSON can be thirty times as large
LINE_LIMIT = 2 << 20  # a title, an id and a url of 64 KiB each, escaped
_WEIGHT, _EACH = 4 << 20, 8  # of metadata: characters, and so many for every value
_CONTAINERS = 1 << 14  # lists and objects in a document: two bytes of it, and up to two hundred in memory
_DEPTH, _BITS = 8, 128  # containers within each other, bits of a number
_DIGITS = 40  # of an id; Python 3.10 needs minutes to read a number of a million digits
_DIMS = range(1, 1 << 24)
_SHARDS = 4096  # in chunk_info: a report takes its time for each, and compares all with all
_KEYS = ("total_articles", "embedding_dim", "shape", "model", "timestamp", "quality_metrics", "chunk_info")
_TEXTS = ("model", "timestamp")  # text as it is; all else is JSON
_TAKEN = {"embeddings", "articles", "files", "ARROW:schema"}  # what one format or another calls its own parts
_ID, _URL = {int, str, type(None)}, {str, type(None)}
_KINDS = (  # of what merge writes, in metadata, quality_metrics and chunk_info; any of it may be missing
    ((*_TEXTS, "dtype", "filepath", "cluster", "sha256"), {str, type(None)}),
    (("cluster_id", "gpu_id", "start_index", "end_index", "nbytes", "mtime"), {int, type(None)}),
    (("zero_rows", "rows_checksum"), {int, type(None)}),
    (("min_norm", "max_norm", "mean_norm", "std_norm", "processing_time", "rate"), {int, float, type(None)}),
    (("has_nan", "has_inf"), {bool, type(None)}),
)
_TYPES = {key: types for keys, types in _KINDS for key in keys}


class Lines:
    """Articles as JSON lines, written to `file`; `count`, `nbytes` and `checksum` are of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0
        self.nbytes = 0
        self.checksum = 0

    def write(self, articles: Iterable[Mapping[str, Any]]) -> None:
        """Append one line an article, in order."""
        for article in articles:
            line = encode({key: article.get(key) for key in ("title", "id", "url")}) + b"\n"
            self._file.write(line)
            self.count += 1
            self.nbytes += len(line)
            self.checksum = zlib.crc32(line, self.checksum)

    def stand_in(self, file: BinaryIO) -> bool:
        """Whether `file` holds these lines and nothing else."""
        checksum = 0
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
        return checksum == self.checksum


def read_lines(file: BinaryIO, count: int, name: str) -> Iterator[dict[str, Any]]:
    """The `count` articles that are the lines of `file`, one at a time.

    Raises `LocalDataError` naming the file and the line where one is not {'title': text, 'id': number or text,
    'url': text or null}, or where there are more or fewer of them.
    """
    for row in range(count):
        line = file.readline(LINE_LIMIT)
        if not line.endswith(b"\n"):
            why = f"is longer than {LINE_LIMIT:,} bytes" if len(line) == LINE_LIMIT else "is cut short or missing"
            raise damaged(name, f"line {row + 1:,} of its articles {why}")
        yield check_article(_decode(line, name, f"line {row + 1:,} of its articles"), name, row)
    if file.read(1):
        raise damaged(name, f"it has more than {count:,} articles")


def check_article(article: object, name: str, row: int) -> dict[str, Any]:
    """`article` reduced to title, id and url, if they have the types that merge writes."""
    if type(article) is dict:
        title, key, url = article.get("title"), article.get("id"), article.get("url")
        short = type(key) is not int or key.bit_length() < _BITS  # what a .pkl has room for
        if type(title) is str and type(key) in _ID and type(url) in _URL and short:
            if any(_is_long(text) for text in (title, key, url) if type(text) is str):
                raise damaged(name, f"article {row:,} has a title, id or url of more than {LONGEST:,} bytes")
            return {"title": title, "id": key, "url": url}
    raise damaged(name, f"article {row:,} is not a title, an id and a url")


def _is_long(text: str) -> bool:
    most = 4 * len(text)  # bytes
    return most > LONGEST and len(text.encode("utf-8", "surrogatepass")) > LONGEST


def dump(metadata: Mapping[str, Any]) -> bytes:
    """`metadata` as one JSON document a person can read."""
    document = encode(_finite(metadata), indent=1) + b"\n"
    _check_room(len(document))
    return document


def load(document: bytes, name: str, limit: int = METADATA_LIMIT) -> dict[str, Any]:
    """The JSON object in `document`; `LocalDataError` if it is none, longer than `limit` bytes, or all containers."""
    if len(document) > limit:
        raise damaged(name, f"its metadata is longer than {limit:,} bytes")
    if document.count(b"[") + document.count(b"{") > _CONTAINERS:
        raise damaged(name, f"its metadata has more than {_CONTAINERS:,} lists and objects")
    decoded = _decode(document, name, "its metadata")
    if not isinstance(decoded, dict):
        raise damaged(name, "its metadata is not a JSON object")
    return decoded


def to_strings(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`metadata` as text for text, for formats whose metadata is that: model and timestamp plain, the rest JSON."""
    texts = {
        _utf8(key): _utf8(value) if key in _TEXTS and isinstance(value, str) else encode(_finite(value)).decode()
        for key, value in metadata.items()
        if not (key in _TEXTS and value is None)
    }
    _check_room(sum(map(len, texts.values())))
    return texts


def from_strings(texts: object, name: str) -> dict[str, Any]:
    """What `to_strings` was given; `LocalDataError` where `texts` are not texts, or one is not JSON."""
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise damaged(name, "its metadata is not text by name")
    if sum(map(len, texts.values())) > METADATA_LIMIT:
        raise damaged(name, f"its metadata is longer than {METADATA_LIMIT:,} bytes")
    return dict.fromkeys(_TEXTS) | {
        key: text if key in _TEXTS else _decode(text, name, f"its metadata {printable(key, 40)}")
        for key, text in texts.items()
    }


def check_metadata(metadata: dict[str, Any], shape: tuple[int, int], name: str) -> dict[str, Any]:
    """`metadata` with its shapes as tuples, if it is what merge writes and agrees with `shape`.

    All values are plain and not too many: a pickle of a few bytes can share one list a billion times.
    """
    rows, dim = shape
    said = metadata.get("total_articles"), metadata.get("embedding_dim")
    if said != shape or {*map(type, said)} != {int} or dim not in _DIMS:  # 4.0 and True are equal to numbers, too
        raise damaged(name, f"its metadata does not speak of {rows:,} rows of {dim:,}")
    try:
        _weight(metadata)
    except ValueError:
        raise damaged(name, "its metadata holds more than plain values, or too many") from None
    metrics, chunks = metadata.get("quality_metrics"), metadata.get("chunk_info")
    if not isinstance(metrics, dict) or not isinstance(chunks, list) or not all(isinstance(c, dict) for c in chunks):
        raise damaged(name, "its metadata lacks quality_metrics or chunk_info")
    taken = _TAKEN.intersection(metadata)
    if taken:
        raise damaged(name, f"its metadata has `{min(taken)}`, which is no name for more of it")
    for entry in (metadata, metrics, *chunks):
        odd = [key for key, value in entry.items() if type(value) not in _TYPES.get(key, {type(value)})]
        if odd:
            raise damaged(name, f"its metadata has a {odd[0]} of another type")
    _check_ranges(chunks, name)
    whole = dict.fromkeys(_TEXTS) | metadata | {"shape": shape, "quality_metrics": {**metrics, "shape": shape}}
    return {key: whole[key] for key in (*_KEYS, *whole)}  # in the same order whatever the format, so that bytes agree


def _check_ranges(chunks: list[dict[str, Any]], name: str) -> None:
    """Raise `LocalDataError` unless the shards are not too many, and the rows of each come after those before."""
    if len(chunks) > _SHARDS:
        raise damaged(name, f"its chunk_info has {len(chunks):,} shards, and {_SHARDS:,} are the most")
    before = 0
    for number, chunk in enumerate(chunks, 1):
        start, end = chunk.get("start_index"), chunk.get("end_index")
        if start is not None and end is not None:
            if not before <= start <= end:
                raise damaged(name, f"the rows of shard {number:,} in its chunk_info do not follow those before")
            before = end


def _weight(value: Any, depth: int = 0) -> int:
    """How much there is of `value`, counting what it shares each time; ValueError if it is too much or not plain."""
    if type(value) is str:
        return _EACH + len(value)
    if type(value) in {bool, float, type(None)} or (type(value) is int and value.bit_length() <= _BITS):
        return _EACH
    if type(value) is dict and all(type(key) is str for key in value):
        return _weight([*value, *value.values()], depth)
    if type(value) not in {list, tuple} or depth > _DEPTH:
        raise ValueError("not plain")
    total = _EACH
    for item in value:
        total += _weight(item, depth + 1)
        if total > _WEIGHT:
            raise ValueError("too many")
    return total


def damaged(name: str, why: str) -> LocalDataError:
    """The error for a merged file that cannot be used as it is; one that is being written goes by its final name."""
    return LocalDataError(
        f"{printable(place_name(name))}: {why}", hint="make it again with `invoke merge` or `invoke convert`"
    )


def encode(value: object, indent: int | None = None) -> bytes:
    """`value` as UTF-8 JSON."""
    try:
        if indent is None:
            return _encoder.encode(value).encode()
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot say but a JSON escape can
        return json.dumps(value, allow_nan=False, indent=indent).encode()


def _decode(text: str | bytes, name: str, what: str) -> Any:
    try:
        return _decoder.decode(text if isinstance(text, str) else str(text, "utf-8"))
    except (ValueError, RecursionError):
        raise damaged(name, f"{what} is not JSON as merge writes it") from None


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()  # half a surrogate pair, which only JSON could say


def _check_room(nbytes: int) -> None:
    if nbytes > METADATA_LIMIT:
        raise LocalDataError(
            f"the metadata would be longer than {METADATA_LIMIT:,} bytes, which is what this format has room for",
            hint="choose an --output that ends in .pkl, or merge fewer shards",
        )


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("too long a number")
    return int(digits)


# made once: the functions of `json` would make them anew for every article
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_decoder = json.JSONDecoder(parse_int=_integer)


def _finite(value: Any) -> Any:
    """`value` with NaN and Inf, which JSON does not have, as None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

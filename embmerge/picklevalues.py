"""What a pickle's values mean: those of numpy and of the plain types, as far as a shard may need them.

A name in a file is looked up here and nowhere else; what it stands for is a function of this module, which makes a
description of the value, never the value itself.

numpy's spellings as in numpy/_core/src/multiarray, methods.c (array_reduce, array_reduce_ex_picklebuffer) and
descriptor.c (arraydescr_reduce) of 1.17 to 2.x.
"""

import math
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from embmerge.plaintext import printable


class Refused(ValueError):
    """Not a pickle this reader understands, or one it does not trust."""


class Truncated(Refused):
    """The file ends before the pickle does."""


@dataclass(frozen=True, slots=True)  # a quarter of the memory, and there may be 200,000
class Raw:
    """Bytes of the file: where they lie, and their `content` if that is short enough to keep (else empty).

    `text`: they lie there as the UTF-8 of latin-1 text, as protocol 2 has it.
    """

    content: bytes
    offset: int
    nbytes: int
    text: bool = False


@dataclass(frozen=True)
class Dtype:
    """A numpy dtype without numpy, which takes a while to import: `kind` and `itemsize` in bytes as numpy has them.

    `order` is that of the bytes: '<', '>', or '|' where it does not matter.
    """

    kind: str
    itemsize: int
    order: str

    @property
    def name(self) -> str:
        """As numpy's: 'float32' in any byte order."""
        word = {"f": "float", "i": "int", "u": "uint"}.get(self.kind)
        return f"{word}{8 * self.itemsize}" if word else self.code

    @property
    def code(self) -> str:
        """What `numpy.dtype` takes: '<f4'."""
        return f"{self.order}{self.kind}{self.itemsize}"

    def __str__(self) -> str:
        return self.name if self.order in {_NATIVE, "|"} else self.code


@dataclass
class Array:
    """An array in the file: its form, and its bytes. `dtype` is None as long as the file has not described it."""

    shape: tuple[int, ...] = ()
    dtype: Dtype | None = None
    order: Literal["C", "F"] = "C"
    raw: Raw | None = None


_NATIVE = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True)
class LongText:
    """A text of the file that is too long to keep: where its UTF-8 lies."""

    offset: int
    nbytes: int


class Inert:
    """A value that is understood to be harmless and is not needed, such as a date."""


class Unhashed(Inert):
    """One that cannot be a key, such as a set, or that is too long to say which key it is."""


# --- what numpy and the plain types write -----------------------------------------------------------------------------

_KNOWN = re.compile(r"b1|[iu][1248]|f2|f4|f8|f16|c8|c16|c32|[SUV][0-9]{1,4}|[mM]8")
_SIZED = "SUV"  # kinds of any itemsize
_SCALARS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_SCALARS |= {"f2": "e", "f4": "f", "f8": "d"}  # by dtype, as `struct` has them


def expect(ok: object, what: str, value: object) -> None:
    """Refuse the file unless `ok`; `value` is shown only if it is text or a number."""
    if not ok:
        raise Refused(f"unexpected {what}: {printable(value, 60)}")


@dataclass
class Described:
    """A dtype as a file describes it: `dtype` is None until its state has come, which says the order of the bytes.

    pickle.load goes by a state that comes twice, or after the dtype was used, in ways of its own; picklers write
    neither.
    """

    kind: str
    itemsize: int
    dtype: Dtype | None = None


def _dtype(code: object, *flags: object) -> Described:
    expect(type(code) is str and _KNOWN.fullmatch(code), "dtype", code)
    expect(flags == (False, True), "flags of the dtype", code)
    assert isinstance(code, str)
    return Described(code[0], int(code[1:]) * (4 if code[0] == "U" else 1))  # numpy counts characters there


def set_dtype(described: Described, state: tuple[Any, ...]) -> None:
    """Complete a dtype by its state, which must be what numpy writes for one without fields."""
    kind, itemsize = described.kind, described.itemsize
    version, order, subarray, names, fields, size, alignment, flags, *_metadata = state
    expect(described.dtype is None, "second state of the dtype", f"{kind}{itemsize}")
    expect(version in _VERSIONS and (subarray, names, fields) == (None,) * 3, "state of the dtype", version)
    sizes = (itemsize, 4 if kind == "U" else 1) if kind in _SIZED else (-1, -1)
    expect((size, alignment) == sizes and flags in _FLAGS[kind == "U"], "size of the dtype", size)
    orders = "|" if itemsize == 1 or kind in "SV" else "<>"
    expect(type(order) is str and order in tuple(orders), "byte order", order)
    described.dtype = Dtype(kind, itemsize, order)


_VERSIONS = (3, 4)  # the latter has metadata
_FLAGS = ((0,), (0, 8))  # of texts, numpy says that they need to be initialised


def _array(shape: object, dtype: object, raw: object) -> Array:
    return complete(Array(), shape, dtype, raw, "C")


def _reconstruct(kind: object, shape: object = None, first: object = None, *more: object) -> Array:
    expect(isinstance(kind, Global) and kind.name in ARRAY_KINDS, "kind of array", kind)
    empty = shape == (0,) and isinstance(first, Raw) and first.content == b"b" and not more
    expect(empty, "beginning of an array", "")
    return Array()


def _frombuffer(raw: object, dtype: object, shape: object, order: object, axes: object = None) -> Array | Inert:
    array = complete(Array(), shape, dtype, raw, order if order != "K" else "C")
    if order == "K":  # since numpy 2.4, of three dimensions and more: none that is needed
        expect(type(axes) is tuple and len(axes) == len(array.shape) > 2, "axes", order)  # noqa: PLR2004
        return Inert()
    expect(axes is None, "axes", order)
    return array


def complete(array: Array, shape: Any, dtype: Any, raw: Any, order: Any) -> Array:
    """`array` with its form and its bytes, if these fit together."""
    plain = type(shape) is tuple and len(shape) <= 32 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)  # noqa: PLR2004  numpy's own limits
    expect(plain, "shape", shape)
    expect(type(dtype) is Described and dtype.dtype, "dtype", dtype)
    expect(type(raw) is Raw, "array data", raw)
    expect(type(order) is str and order in {"C", "F"}, "order of an array", order)
    need = math.prod(shape) * dtype.itemsize
    fits = need <= raw.nbytes <= 2 * need if raw.text else raw.nbytes == need
    expect(fits, f"number of bytes in an array that needs {need:,}", raw.nbytes)
    array.shape, array.dtype, array.raw, array.order = shape, dtype.dtype, raw, order
    return array


def _scalar(described: object, raw: object) -> Any:
    dtype = described.dtype if isinstance(described, Described) else None
    expect(dtype and type(raw) is Raw, "scalar", raw)
    assert dtype
    assert isinstance(raw, Raw)
    if len(raw.content) != raw.nbytes:
        return Unhashed()
    expect(raw.nbytes == dtype.itemsize, "scalar", raw.nbytes)
    order = dtype.order if dtype.order in "<>" else "="
    if dtype.kind == "U":
        return raw.content.decode("utf-32-le" if order == "<" else "utf-32-be", "surrogatepass").rstrip("\0")
    if dtype.code[1:] in _SCALARS:
        return struct.unpack(order + _SCALARS[dtype.code[1:]], raw.content)[0]
    return Inert()


def _encode(text: object, codec: object) -> Raw:
    expect(type(codec) is str and codec in {"latin1", "latin-1"}, "codec", codec)
    if isinstance(text, LongText):
        return Raw(b"", text.offset, text.nbytes, text=True)
    expect(type(text) is str, "text", text)
    assert isinstance(text, str)
    content = text.encode("latin-1")
    return Raw(content, -1, len(content))


def _bytes(*args: object) -> Raw:
    if not args:
        return Raw(b"", -1, 0)
    if len(args) > 1:
        return _encode(*args)
    content = args[0]
    expect(type(content) is Raw, "bytes", content)
    assert isinstance(content, Raw)
    return content


def _ordered(*pairs: object) -> dict[Any, Any]:
    expect(not pairs, "pairs of a dict", len(pairs))  # picklers set its items later; these would be hashed here
    return {}


def _inert(*_args: object) -> Inert:
    return Inert()


def _set(*_args: object) -> Inert:
    return Unhashed()


ARRAY_KINDS = {"numpy.ndarray", "numpy.memmap", "numpy.core.memmap.memmap", "numpy._core.memmap.memmap"}
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": _array,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered,
    "datetime.datetime": _inert,
    "datetime.date": _inert,
    "datetime.time": _inert,
    "datetime.timedelta": _inert,
    "datetime.timezone": _inert,
}
for _core in ("numpy.core", "numpy._core"):
    CALLS[f"{_core}.multiarray._reconstruct"] = _reconstruct
    CALLS[f"{_core}.multiarray.scalar"] = _scalar
    CALLS[f"{_core}.numeric._frombuffer"] = _frombuffer
for _builtins in ("builtins", "__builtin__"):
    CALLS |= {f"{_builtins}.bytes": _bytes, f"{_builtins}.bytearray": _bytes}
    CALLS |= {f"{_builtins}.{name}": _inert for name in ("complex", "frozenset", "range", "xrange", "slice")}
    CALLS[f"{_builtins}.set"] = _set


@dataclass(frozen=True)
class Global:
    """A name in the file that is known here."""

    name: str

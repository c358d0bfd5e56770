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
from dataclasses import dataclass, replace
from typing import Any, Literal

from embmerge.plaintext import printable


class Refused(ValueError):
    """Not a pickle this reader understands, or one it does not trust."""


class Truncated(Refused):
    """The file ends before the pickle does."""


class Raw(bytes):
    """Bytes of the file: where they lie, and their content if that is short enough to keep (else empty).

    `text`: they lie there as the UTF-8 of latin-1 text, as protocol 2 has it.
    """

    offset: int
    nbytes: int
    text: bool

    def __new__(cls, content: bytes, offset: int, nbytes: int, *, text: bool = False) -> "Raw":  # noqa: PYI034  typing.Self came with Python 3.11
        """Remember where `content` was found."""
        raw = super().__new__(cls, content)
        raw.offset, raw.nbytes, raw.text = offset, nbytes, text
        return raw

    def __len__(self) -> int:
        """How many there are in the file: pickletools compares this with what it asked for."""
        return self.nbytes


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


class Inert:
    """A value that is understood to be harmless and is not needed, such as a date."""


# --- what numpy and the plain types write -----------------------------------------------------------------------------

_SIMPLE_DTYPE = re.compile(r"([<>=|]?)(?:\?|([a-zA-Z])(\d{1,4}))")
_KNOWN = re.compile(r"b1|[iu][1248]|f2|f4|f8|f16|c8|c16|c32|[SUV]\d{1,4}|[mM]8")
_SCALARS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_SCALARS |= {"f2": "e", "f4": "f", "f8": "d"}  # by dtype, as `struct` has them


def expect(ok: object, what: str, value: object) -> None:
    """Refuse the file unless `ok`; `value` is shown only if it is text or a number."""
    if not ok:
        raise Refused(f"unexpected {what}: {printable(value, 60)}")


@dataclass
class Described:
    """A dtype as a file describes it: its byte order may still come."""

    dtype: Dtype


def _dtype(code: object, *_flags: object) -> Described:
    match = _SIMPLE_DTYPE.fullmatch(code) if type(code) is str else None
    kind, width = (match[2] or "b", match[3] or "1") if match else ("", "")
    expect(match and _KNOWN.fullmatch(kind + width), "dtype", code)
    assert match
    itemsize = int(width) * (4 if kind == "U" else 1)  # numpy counts characters there
    return Described(ordered(Dtype(kind, itemsize, "|"), match[1].replace("|", "") or "="))


def ordered(dtype: Dtype, order: str) -> Dtype:
    """`dtype` in the byte order that numpy calls so; '=' is this machine's, '|' leaves it as it is."""
    if order == "|":
        return dtype
    plain = dtype.itemsize == 1 or dtype.kind in "SV"
    return replace(dtype, order="|" if plain else _NATIVE if order == "=" else order)


def _array(shape: object, dtype: object, raw: object, order: object = "C") -> Array:
    return described(Array(), shape, dtype, raw, order)


def _reconstruct(kind: object, *_placeholder: object) -> Array:
    expect(isinstance(kind, Global) and kind.name in ARRAY_KINDS, "kind of array", kind)
    return Array()


def described(array: Array, shape: Any, dtype: Any, raw: Any, order: Any) -> Array:
    """`array` with its form and its bytes, if these fit together."""
    plain = type(shape) is tuple and len(shape) <= 32 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)  # noqa: PLR2004  numpy's own limits
    expect(plain, "shape", shape)
    expect(type(dtype) is Described, "dtype", dtype)
    expect(type(raw) is Raw, "array data", raw)
    need = math.prod(shape) * dtype.dtype.itemsize
    fits = need <= raw.nbytes <= 2 * need if raw.text else raw.nbytes == need
    expect(fits, f"number of bytes in an array that needs {need:,}", raw.nbytes)
    array.shape, array.dtype, array.raw = shape, dtype.dtype, raw
    array.order = "F" if order == "F" else "C"
    return array


def _scalar(described: object, raw: object) -> Any:
    dtype = described.dtype if isinstance(described, Described) else None
    if not dtype or dtype.code[1:] not in _SCALARS or not isinstance(raw, Raw):
        return Inert()
    expect(raw.nbytes == dtype.itemsize and bytes.__len__(raw) == raw.nbytes, "scalar", raw.nbytes)
    order = dtype.order if dtype.order in "<>" else "="
    return struct.unpack(order + _SCALARS[dtype.code[1:]], bytes(raw))[0]


def _encode(text: object, codec: object = "latin1") -> Raw:
    expect(type(codec) is str and codec in {"latin1", "latin-1"} and type(text) in {str, Raw}, "codec", codec)
    if isinstance(text, str):
        content = text.encode("latin-1")
        return Raw(content, -1, len(content))
    assert isinstance(text, Raw)
    return Raw(b"", text.offset, text.nbytes, text=True)


def _bytes(*args: object) -> Raw:
    content = args[0] if args else Raw(b"", -1, 0)
    if isinstance(content, str):
        return _encode(*args)
    expect(type(content) is Raw, "bytes", content)
    assert isinstance(content, Raw)
    return content


def _ordered(*pairs: object) -> dict[Any, Any]:
    expect(not pairs, "pairs of a dict", len(pairs))  # picklers set its items later; these would be hashed here
    return {}


def _inert(*_args: object) -> Inert:
    return Inert()


ARRAY_KINDS = {"numpy.ndarray", "numpy.memmap", "numpy.core.memmap.memmap", "numpy._core.memmap.memmap"}
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": _array,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered,
    "datetime.datetime": _inert,
    "datetime.date": _inert,
    "datetime.timedelta": _inert,
    "datetime.timezone": _inert,
}
for _core in ("numpy.core", "numpy._core"):
    CALLS[f"{_core}.multiarray._reconstruct"] = _reconstruct
    CALLS[f"{_core}.multiarray.scalar"] = _scalar
    CALLS[f"{_core}.numeric._frombuffer"] = lambda raw, dtype, shape, order: _array(shape, dtype, raw, order)
for _builtins in ("builtins", "__builtin__"):
    CALLS |= {f"{_builtins}.bytes": _bytes, f"{_builtins}.bytearray": _bytes}
    CALLS |= {f"{_builtins}.{name}": _inert for name in ("complex", "set", "frozenset")}


@dataclass(frozen=True)
class Global:
    """A name in the file that is known here."""

    name: str

"""Thrift's compact protocol, as far as a Parquet file's headers need it.

The data may be anybody's: values are counted, structs nest to a limit, and everything else is a `ValueError`.
"""

from typing import Any

_VALUES = 500_000  # in one document; a hundred gigabytes of rows need as many
_DEPTH = 10
_VARINT = 10  # bytes of a 64-bit number, at most
_LONG_LIST = 15  # elements from which on a list's length stands behind its header

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


def read_struct(data: bytes) -> tuple[dict[int, Any], int]:
    """The struct at the start of `data` as a dict by field number, and how many bytes it takes.

    Numbers and truths become int and bool, binaries bytes, lists list, structs dict; doubles are passed over (None).
    """
    reader = _Reader(data)
    return reader.struct(0), reader.at


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at `at`, and how many bytes it takes."""
    reader = _Reader(data[at : at + _VARINT])
    return reader.varint(), reader.at


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _VALUES
        self.at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        field = 0
        while header := self._byte():
            step, kind = divmod(header, 16)
            field = field + step if step else self._number()
            fields[field] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int, *, listed: bool = False) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            raise ValueError("it has more or deeper values than any of ours")
        if kind in (_I16, _I32, _I64):
            return self._number()
        if kind == _BINARY:
            return self._take(self.varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _LIST:
            count, kind = divmod(self._byte(), 16)
            count = self.varint() if count == _LONG_LIST else count
            return [self._value(kind, depth + 1, listed=True) for _ in range(count)]
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a truth is a byte
            return self._byte() if listed or kind == _BYTE else kind == _TRUE
        if kind == _DOUBLE:
            return self._take(8) and None
        raise ValueError("it has a value of an unknown kind")

    def _number(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def varint(self) -> int:
        value = 0
        for shift in range(0, 7 * _VARINT, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004  the top bit says that more follows
                return value
        raise ValueError("it has a number that does not end")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        taken = self._data[self.at : self.at + count]
        if len(taken) != count:
            raise ValueError("it is cut short")
        self.at += count
        return taken

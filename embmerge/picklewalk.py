"""Understand a pickle of plain values and numpy arrays without unpickling it.

The opcodes are decoded by `pickletools` and interpreted on a small stack of our own. Nothing that the file names is
imported or called: the few globals that numpy and the plain types write are understood (`picklevalues`), every other
one is refused by name. A long value is seeked over; where it lies is remembered. What is kept is bounded by `BUDGET`
and `OPCODES`, so a hostile file costs no more time or memory than an honest one.

Opcodes as in CPython's Lib/pickletools.py, protocols 2 to 5.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from embmerge.picklevalues import (
    ARRAY_KINDS,
    CALLS,
    Array,
    Described,
    Global,
    Inert,
    LongText,
    Raw,
    Refused,
    Truncated,
    Unhashed,
    complete,
    expect,
    set_dtype,
)
from embmerge.plaintext import printable

BUDGET = 4 << 20  # bytes of opcodes and short values: a shard has 2 KB of them, with a title a row some MB
OPCODES = 200_000  # opcodes; what one makes takes up to 300 bytes of memory
KEEP = 4 << 10  # a value longer than this is passed over
_LONGEST_LINE = 256  # bytes of a line that an opcode of protocol 0 reads
_TOO_MUCH = f"it holds too much beside arrays of numpy (at most {OPCODES:,} opcodes, or {BUDGET >> 20} MB, are read)"


def walk(file: BinaryIO, nbytes: int, *, budget: int = BUDGET, until: str | None = None) -> Any:
    """The value pickled in `file` (of `nbytes`): arrays as `Array`, bytes as `Raw`, long texts as `LongText`.

    At most `OPCODES` opcodes are followed, and `budget` bytes of them and of short values read. With `until`, the walk
    ends once the key of that name in an outermost dict was read: the dict as it is then comes back, and `file` stands
    before that key's value.
    Raises `Truncated` if the file ends too early, `Refused` for everything else that is not understood.
    """
    window = _Window(file, nbytes, budget)
    try:
        value = _Machine(window).run(until)
    except Refused:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError) as error:
        if window.ended:
            raise Truncated(f"it ends after {nbytes:,} bytes, in the middle of the pickle") from None
        raise Refused(f"not a pickle that this tool reads ({printable(str(error), 80)})") from None
    if until is None and window.tell() != nbytes:
        raise Refused(f"{nbytes - window.tell():,} bytes follow the end of the pickle")
    return value


class _Passed(bytes):
    """Stands for a long value that was passed over: pickletools compares its length with what it asked for."""

    nbytes: int

    def __new__(cls, nbytes: int) -> "_Passed":  # noqa: PYI034  typing.Self came with Python 3.11
        passed = super().__new__(cls)
        passed.nbytes = nbytes
        return passed

    def __len__(self) -> int:
        return self.nbytes


class _Window:
    """The file as pickletools sees it: long values are passed over, short ones are counted."""

    def __init__(self, file: BinaryIO, nbytes: int, budget: int) -> None:
        self._file, self._nbytes, self._left = file, nbytes, budget
        self.long: Raw | None = None  # the long value of the present opcode
        self.ended = False

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int) -> bytes:
        if count <= KEEP:
            short = self._file.read(count)
            self.ended = len(short) < count
            return self._counted(short)
        at = self._file.tell()
        if count > self._nbytes - at:
            raise Truncated(f"a value of {count:,} bytes begins at {at:,}, but the file ends at {self._nbytes:,}")
        self._file.seek(at + count)
        self._left -= KEEP  # what follows costs a block: nobody may ask for a thousand
        self.long = Raw(b"", at, count)
        return _Passed(count)

    def readline(self) -> bytes:
        line = self._file.readline(_LONGEST_LINE)
        self.ended = len(line) < _LONGEST_LINE and not line.endswith(b"\n")
        return self._counted(line)

    def _counted(self, short: bytes) -> bytes:
        self._left -= len(short)
        if self._left < 0:
            raise Refused(_TOO_MUCH)
        return short


class _Mark:
    """Where a group of values begins on the stack."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_LONG = _TEXTS | _BYTES | {"LONG4"}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": Unhashed,
}
_LAST_PROTOCOL = 5
_KEYS = {str, LongText, Raw, int, float, bool, type(None), tuple, Inert}  # all but a text is only passed over


class _Machine:
    """The pickle's stack and memo. Containers are filled but never hashed, compared, printed or walked."""

    def __init__(self, window: _Window) -> None:
        self._window = window
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, until: str | None) -> Any:
        """Follow the opcodes to STOP, or to the key `until`, and return the one value that is left."""
        source: Any = self._window  # pickletools asks a file for no more than the window has
        for count, (opcode, argument, _position) in enumerate(pickletools.genops(source)):
            name, long, self._window.long = opcode.name, self._window.long, None
            if until is not None and name in _TEXTS and argument == until and len(self._stack) == 1:
                return self._pop()
            if name == "STOP":
                value = self._pop()
                expect(not self._stack, "values left at the end", len(self._stack))
                return value
            expect(long is None or name in _LONG, "length of", name)
            if count > OPCODES:
                raise Refused(_TOO_MUCH)
            self._step(name, argument, long)
        raise Truncated("the pickle has no end")

    def _step(self, name: str, argument: Any, long: Raw | None) -> None:  # noqa: C901  one line an opcode
        push = self._stack.append
        if name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _NUMBERS:
            push(argument if long is None else Inert())
        elif name in _TEXTS:
            push(argument if long is None else LongText(long.offset, long.nbytes))
        elif name in _BYTES:
            push(long if long is not None else Raw(bytes(argument), self._window.tell() - len(argument), len(argument)))
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name == "MARK":
            push(_MARK)
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in {"BINPUT", "LONG_BINPUT"}:
            self._memo[argument] = self._top()
        elif name in {"BINGET", "LONG_BINGET"}:
            push(self._memo[argument])
        elif (handle := getattr(self, f"_{name.lower()}", None)) is not None and name in _STRUCTURE:
            handle(argument)
        else:
            expect(name == "FRAME" or (name == "PROTO" and argument <= _LAST_PROTOCOL), "opcode", name)

    def _tuple1(self, _argument: None) -> None:
        self._stack.append((self._pop(),))

    def _tuple2(self, _argument: None) -> None:
        second = self._pop()
        self._stack.append((self._pop(), second))

    def _tuple3(self, _argument: None) -> None:
        second, third = reversed((self._pop(), self._pop()))
        self._stack.append((self._pop(), second, third))

    def _tuple(self, _argument: None) -> None:
        self._stack.append(tuple(self._group()))

    def _frozenset(self, _argument: None) -> None:
        self._group()
        self._stack.append(Inert())

    def _append(self, _argument: None) -> None:
        self._extend([self._pop()])

    def _appends(self, _argument: None) -> None:
        self._extend(self._group())

    def _additems(self, _argument: None) -> None:
        self._group()
        expect(type(self._top()) is Unhashed, "set", self._top())

    def _setitem(self, _argument: None) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def _setitems(self, _argument: None) -> None:
        self._update(self._group())

    def _global(self, argument: str) -> None:
        self._name(*argument.split(" ", 1))

    def _stack_global(self, _argument: None) -> None:
        name = self._pop()
        self._name(self._pop(), name)

    def _reduce(self, _argument: None) -> None:
        arguments, function = self._pop(), self._pop()
        expect(type(function) is Global and type(arguments) is tuple, "call of", function)
        expect(function.name in CALLS, "call of", function.name)
        self._stack.append(CALLS[function.name](*arguments))

    def _build(self, _argument: None) -> None:
        state = self._pop()
        built = self._top()
        expect(type(state) is tuple, "state", state)
        if type(built) is Array and built.dtype is None:
            version, shape, dtype, fortran, raw = state
            expect(version == 1 and type(fortran) is bool, "state of an array", version)
            complete(built, shape, dtype, raw, "F" if fortran else "C")
        else:
            expect(type(built) is Described, "state", state)
            set_dtype(built, state)

    def _name(self, module: object, name: object) -> None:
        expect(type(module) is str and type(name) is str, "name", module)
        full = f"{module}.{name}"
        if full not in CALLS and full not in ARRAY_KINDS:
            raise Refused(f"it names {printable(full, 80)}, which no shard needs: a file that may run code is not read")
        self._stack.append(Global(full))

    def _extend(self, items: list[Any]) -> None:
        expect(type(self._top()) is list, "list", self._top())
        self._top().extend(items)

    def _update(self, items: list[Any]) -> None:
        expect(type(self._top()) is dict and len(items) % 2 == 0, "dict", self._top())
        for key, value in zip(items[::2], items[1::2], strict=True):
            expect(type(key) in _KEYS, "key", key)
            if type(key) is str:  # no other is needed; hashing a deep tuple crashes, numbers can be made to collide
                self._top()[key] = value

    def _pop(self) -> Any:
        value = self._stack.pop()
        expect(value is not _MARK, "mark", "")
        return value

    def _top(self) -> Any:
        expect(self._stack[-1] is not _MARK, "mark", "")
        return self._stack[-1]

    def _group(self) -> list[Any]:
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


_STRUCTURE = {
    "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "FROZENSET", "APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip

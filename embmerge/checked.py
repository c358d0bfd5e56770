"""Values from outside, checked against the types of a dataclass: every problem at once, each in words.

`msgspec` does the checking. It is the quickest to import of those that can, and every task waits for it.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

Kind = TypeVar("Kind")

_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list"}
UNKNOWN, MISSING_KEY = "unknown", "missing"


class Secret:
    """Text that no output shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "'**********'"


class Problems(ValueError):
    """What is wrong with values, by key: `UNKNOWN`, `MISSING_KEY`, or what was expected."""

    def __init__(self, by_key: dict[str, str]) -> None:
        super().__init__(", ".join(by_key))
        self.by_key = by_key


def checked(kind: type[Kind], values: Mapping[str, Any], *, strict: bool) -> Kind:
    """The dataclass `kind` of `values`. Unless `strict`, a number may be given as text.

    Raises `Problems`.
    """
    types = _types(kind)
    problems = {str(key): UNKNOWN for key in values if key not in types}
    made: dict[str, Any] = {}
    for field in fields(cast("Any", kind)):
        if field.name not in values:
            if field.default is MISSING:
                problems[field.name] = MISSING_KEY
            continue
        try:
            made[field.name] = msgspec.convert(values[field.name], types[field.name], strict=strict, dec_hook=_made)
        except msgspec.ValidationError as error:
            problems[field.name] = _expected(str(error), types[field.name])
    if problems:
        raise Problems({str(key): problems[str(key)] for key in [*values, *problems] if str(key) in problems})
    return kind(**made)


def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _made(kind: type, value: object) -> Any:
    """A value of a type that msgspec does not know: one that is made of text."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("Expected `str` of length >= 1" if value == "" else "Expected `str`")
    return kind(value)


def _expected(said: str, kind: Any) -> str:
    """Msgspec's words for what it expected, in a person's."""
    if choices := _choices(kind):
        return f"expected {' or '.join(choices)}"
    text = said.split(", got ", maxsplit=1)[0].split(" - at ", maxsplit=1)[0]
    text = re.sub(r"`([a-z]+)[^`]*`", lambda match: _WORDS.get(match[1], match[1]), text)
    return text[:1].lower() + text[1:]


def _choices(kind: Any) -> tuple[str, ...]:
    """The words of a `Literal`, which may be optional."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) is Annotated or isinstance(kind, UnionType) or get_args(kind)[-1:] == (type(None),):
        return next(filter(None, map(_choices, get_args(kind))), ())
    return ()

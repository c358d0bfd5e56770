"""Any result as what `json.dumps` takes: one generic function instead of a `to_json` on every class."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import singledispatch
from pathlib import PurePath
from typing import Any

from embmerge.checked import Secret
from embmerge.errors import EmbmergeError
from embmerge.picklevalues import Dtype
from embmerge.plaintext import printable

HIDDEN = "**********"


@singledispatch
def jsonify(value: object) -> Any:
    """`value` as dicts, lists, text, finite numbers, booleans and None.

    A dataclass becomes a dict of the fields that its repr shows, with `ok` if it knows that. NaN and Inf, which JSON
    does not have, become None; a secret stays hidden. Anything else is shown as text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return _dataclass(value)
    return printable(value)


@jsonify.register(type(None))
@jsonify.register(int)
@jsonify.register(str)
def _(value: int | str | None) -> int | str | None:
    return value


@jsonify.register
def _(value: float) -> float | None:
    return value if math.isfinite(value) else None


@jsonify.register
def _(value: Dtype) -> str:
    return str(value)


@jsonify.register
def _(_value: Secret) -> str:
    return HIDDEN


@jsonify.register
def _(value: PurePath) -> str:
    return str(value)


@jsonify.register(Mapping)
def _(value: Mapping[object, object]) -> dict[str, Any]:
    return {str(key): jsonify(item) for key, item in value.items()}


@jsonify.register(Iterable)
def _(value: Iterable[object]) -> list[Any]:
    return [jsonify(item) for item in value]


@jsonify.register
def _(value: BaseException) -> dict[str, Any]:
    return {"type": type(value).__name__, "message": printable(str(value))}


@jsonify.register
def _(error: EmbmergeError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def _dataclass(value: Any) -> dict[str, Any]:
    document = {f.name: jsonify(getattr(value, f.name)) for f in fields(value) if f.repr}
    if isinstance(getattr(type(value), "ok", None), property):
        return {"ok": value.ok, **document}
    return document

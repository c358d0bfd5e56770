"""The typed, validated view of `embmerge:` in invoke.yaml.

A value comes from a flag, else from `INVOKE_EMBMERGE_…`, else from invoke.yaml, else from the default below. Values may
be text: the environment knows nothing else.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from embmerge.checked import UNKNOWN, Problems, checked
from embmerge.errors import SettingsError
from embmerge.plaintext import printable

_PREFIX = "INVOKE_EMBMERGE_"
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?(?:/s)?", re.IGNORECASE)
_SWITCH = {"yes": True, "on": True, "no": False, "off": False}
_SCALE = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0, le=1e15)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. What each field means stands in invoke.yaml, beside the same default."""

    clusters: tuple[str, ...] = ()
    credentials: Path = Path(".credentials")
    embeddings: Path = Path("embeddings")
    articles: Path = Path("wikipedia.pkl")
    output: Path = Path("merged/embeddings.pkl")

    expected_articles: Count | None = None
    max_extra_rows: Annotated[int, Meta(ge=0)] = 10
    dtype: Literal["float16", "float32", "float64"] | None = None

    remote_dir: Annotated[str, Meta(min_length=1)] = "mapper_embeddings/embeddings"
    host_keys: Literal["accept-new", "strict"] = "accept-new"
    transfer: Literal["fast", "plain"] = "fast"
    connections: Annotated[int, Meta(ge=1, le=64)] = 4
    limit_rate: Rate | None = None

    retries: Annotated[int, Meta(ge=0, le=1000)] = 8
    connect_timeout: Seconds = 15.0
    stall_timeout: Seconds = 30.0
    keepalive: Seconds = 15.0

    traceback: bool = False


NAMES = tuple(field.name for field in fields(Settings))
_OPTIONAL = {field.name for field in fields(Settings) if field.default is None}
_PATHS = {field.name for field in fields(Settings) if isinstance(field.default, Path)}


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings in `environ`. Invoke itself takes only those for which invoke.yaml has a line."""
    return {name[len(_PREFIX) :].lower(): text for name, text in environ.items() if name.startswith(_PREFIX)}


def resolve(configured: Mapping[str, Any], flags: Mapping[str, Any]) -> Settings:
    """Settings from `configured` (files and environment) overridden by `flags` that were given.

    A flag counts as given unless it is None or an empty list. Raises `SettingsError` naming every bad setting.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    values = {**configured, **given}
    try:
        return checked(Settings, {name: _prepared(name, value) for name, value in values.items()}, strict=False)
    except Problems as problems:
        told = [_problem(name, what, values, given) for name, what in problems.by_key.items()]
        known = f"the settings are: {', '.join(NAMES)}; " if UNKNOWN in problems.by_key.values() else ""
    raise SettingsError("; ".join(told), hint=f"{known}see invoke.yaml for what each takes")


def expanded(path: str) -> Path:
    """`path` with a ~ that no shell has seen expanded; as it is if nobody has that home."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def _prepared(name: str, value: object) -> object:
    """What a person may write for a value, as the value."""
    if isinstance(value, str):
        value = value.strip()
        if not value and name in _OPTIONAL:
            return None
        if name in _PATHS and value.startswith("~"):
            return str(expanded(value))
        if name == "traceback":
            return _SWITCH.get(value.lower(), value)
        if name == "limit_rate" and (match := _RATE.fullmatch(value)):
            return float(match[1]) * _SCALE[match[2].upper()]
    if name == "clusters":
        texts = [value] if isinstance(value, str) else [] if value is None else value
        if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
            words = dict.fromkeys(word for text in texts for word in re.split(r"[,\s]+", text) if word)
            return tuple(words) if words or isinstance(value, str) else tuple(texts)  # --cluster "" is not all of them
    return value


def _problem(name: str, what: str, values: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    shown = printable(name)
    flag = "--cluster" if name == "clusters" else f"--{shown.replace('_', '-')}"
    where = flag if name in given else f"embmerge.{shown} (invoke.yaml or INVOKE_EMBMERGE_{shown.upper()})"
    if what == UNKNOWN:
        return f"{where}: there is no such setting"
    if name == "limit_rate":
        what = "expected a rate such as 20M (bytes a second, K, M or G)"
    if name == "clusters":
        what = 'expected names such as "tensor01 tensor02"'
    value = values[name]
    words = {type(None): "nothing", list: "a list", dict: "a section", float: str(value)}
    got = words.get(type(value), f"{printable(value)!a}")
    return f"{where}: {what}, got {got}"

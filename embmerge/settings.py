"""The typed, validated view of `embmerge:` in invoke.yaml.

A value comes from a flag, else from `INVOKE_EMBMERGE_…`, else from invoke.yaml, else from the default below. Invoke
resolves all but the flag and hands over one mapping, whose values may be text (the environment knows nothing else).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from embmerge.errors import SettingsError
from embmerge.plaintext import printable

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?(?:/s)?", re.IGNORECASE)
_SCALE = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _none_if_empty(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _rate(value: object) -> object:
    value = _none_if_empty(value)
    if isinstance(value, str):
        match = _RATE.fullmatch(value.strip())
        if not match:
            raise ValueError("expected a rate such as 20M (bytes a second, K, M or G)")
        return float(match[1]) * _SCALE[match[2].upper()]
    return value


def _names(value: object) -> object:
    """A list of texts, each naming one or several clusters, as one tuple of names."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts):
        return tuple(dict.fromkeys(name for text in texts for name in re.split(r"[,\s]+", text) if name))
    return value


Optional = BeforeValidator(_none_if_empty)
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseModel):
    """Everything that can be set. What each field means stands in invoke.yaml, beside the same default."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    clusters: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    credentials: Path = Path(".credentials")
    embeddings: Path = Path("embeddings")
    articles: Path = Path("wikipedia.pkl")
    output: Path = Path("merged/embeddings.pkl")

    expected_articles: Annotated[Count | None, Optional] = None
    max_extra_rows: Annotated[int, Field(ge=0)] = 10
    dtype: Annotated[Literal["float16", "float32", "float64"] | None, Optional] = None

    remote_dir: Annotated[str, Field(min_length=1)] = "mapper_embeddings/embeddings"
    host_keys: Literal["accept-new", "strict"] = "accept-new"
    transfer: Literal["fast", "plain"] = "fast"
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    limit_rate: Annotated[Rate | None, BeforeValidator(_rate)] = None

    retries: Annotated[int, Field(ge=0, le=1000)] = 8
    connect_timeout: Seconds = 15.0
    stall_timeout: Seconds = 30.0
    keepalive: Seconds = 15.0

    traceback: bool = False


def resolve(configured: Mapping[str, Any], flags: Mapping[str, Any]) -> Settings:
    """Settings from `configured` (what Invoke made of files and environment) overridden by `flags` that were given.

    A flag counts as given unless it is None or an empty list. Raises `SettingsError` naming every bad setting.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    try:
        return Settings.model_validate({**configured, **given})
    except ValidationError as error:
        problems = [_problem(dict(detail), given) for detail in error.errors(include_url=False, include_context=False)]
    known = ", ".join(Settings.model_fields)
    raise SettingsError("; ".join(problems), hint=f"the settings are: {known}; see invoke.yaml for what each takes")


def _problem(detail: dict[str, Any], given: Mapping[str, Any]) -> str:
    name = printable(str(detail["loc"][0]))
    flag = "--cluster" if name == "clusters" else f"--{name.replace('_', '-')}"
    where = flag if name in given else f"embmerge.{name} (invoke.yaml or INVOKE_EMBMERGE_{name.upper()})"
    if detail["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    expected = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{where}: {expected}, got {printable(detail['input'])!a}"

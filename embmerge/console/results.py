"""Results as lines: one function a type, found by the type alone; the last line is the verdict."""

from functools import singledispatch


@singledispatch
def render(result: object, width: int | None) -> list[str]:  # noqa: ARG001  the common shape of all below
    """The lines that show `result` within `width` columns (None: as wide as it needs)."""
    return [str(result)]

"""Untrusted text made safe for a terminal, and numbers made readable for a person."""

import unicodedata

_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1024
_MINUTE = 60


def printable(text: object, limit: int = 200) -> str:
    """One line of `text` without control, format or surrogate characters, at most `limit` characters long.

    A file name, a listing or a server's message may carry terminal escapes, line breaks or right-to-left marks;
    each such character is shown as its Python escape. Only `str`, `int` and `bytes` (as UTF-8) are shown: the `repr` of
    a container from a file can be exponentially large, so anything else appears as its type's name.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, (str, int)):
        return f"<{type(text).__name__}>"
    shown = str(text) if isinstance(text, str) or abs(text) < 10**limit else f"{text:#x}"
    short = shown[: limit + 1]
    safe = "".join(c if unicodedata.category(c)[0] not in "CZ" or c == " " else ascii(c)[1:-1] for c in short)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def size(nbytes: float) -> str:
    """A number of bytes as a person reads it, in binary steps: `48.00 MB` is 48 × 1024² bytes."""
    step = 0
    while round(nbytes, 2) >= _STEP and step < len(_UNITS) - 1:
        nbytes /= _STEP
        step += 1
    return f"{nbytes:.2f} {_UNITS[step]}" if step else f"{nbytes:.0f} B"


def duration(seconds: float) -> str:
    """A time as a person reads it: `4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if minutes < _MINUTE:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // _MINUTE} h {minutes % _MINUTE:02d} min"


def time_left(seconds: float) -> str:
    """An estimate as a person reads it: whole seconds, for it is no better than that."""
    return f"{seconds + 0.5:.0f} s" if seconds < _MINUTE - 1 else duration(seconds)


def rate(bytes_per_second: float) -> str:
    """Bytes a second as a person reads them, in binary steps: `112.3 MB/s`."""
    for unit in ("B/s", "KB/s", "MB/s"):
        if bytes_per_second < _STEP:
            return f"{bytes_per_second:.1f} {unit}" if unit != "B/s" else f"{bytes_per_second:.0f} {unit}"
        bytes_per_second /= _STEP
    return f"{bytes_per_second:.1f} GB/s"

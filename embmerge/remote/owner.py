"""Whose a partial download is, and whether that process still runs.

No lock says so, since a shared file system may ignore it. The owner is part of the partial's name, and changes with it
in one atomic rename; and a process is known by more than a number that will be given to another one after it.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import re
import secrets
import subprocess
from pathlib import Path

NOBODY = "left"  # of a partial that its run has left in order
_OWNER = re.compile(r"([0-9a-f]{12})-(\d{1,10})-(\w{1,40})-\d{1,10}")
_number = itertools.count()


def this_process() -> str:
    """A new owner's name, of this process and of no other, ever."""
    return f"{_machine()}-{os.getpid()}-{_born(os.getpid())}-{next(_number)}"


def nobody() -> str:
    """The name of no owner."""
    return f"{NOBODY}-{secrets.token_hex(4)}"


def is_gone(owner: str) -> bool | None:
    """Whether the owner has ended for sure; None if that cannot be known from here.

    It cannot be known of a process of another machine, of another container, or from before the last boot.
    """
    if owner.startswith(NOBODY):
        return True
    match = _OWNER.fullmatch(owner)
    if not match or match[1] != _machine():
        return None
    return _born(int(match[2])) != match[3]


@functools.cache
def _machine() -> str:
    """This boot of this machine (or container): where a process number means something."""
    try:
        here = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # macOS has no /proc
        here = _first_line(["sysctl", "-n", "kern.bootsessionuuid"])
    return hashlib.sha256(here.encode()).hexdigest()[:12]


def _born(pid: int) -> str:
    """When process `pid` started, in whatever unit the system counts; '' if there is none."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return ""
        state, *rest = text.rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]  # a zombie runs no more
    return re.sub(r"\W", "_", _first_line(["ps", "-o", "lstart=", "-p", str(pid)]))


def _first_line(command: list[str]) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  ours
        return done.stdout.strip()
    return ""

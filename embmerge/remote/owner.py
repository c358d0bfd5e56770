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
_OWNER = re.compile(rf"(?:{NOBODY}-)?([0-9a-f]{{12}})-(?:(\d{{1,10}})-(\w{{1,40}})-\d{{1,10}}|[0-9a-f]{{8}})")
_number = itertools.count()


def this_process() -> str:
    """A new owner's name, of this process and of no other, ever."""
    return f"{_machine()}-{os.getpid()}-{_own_birth(os.getpid())}-{next(_number)}"


def nobody() -> str:
    """The name of no owner, for what a process of this boot has left."""
    return f"{NOBODY}-{_machine()}-{secrets.token_hex(4)}"


def is_gone(owner: str) -> bool | None:
    """Whether the owner has ended for sure; None if that cannot be known from here.

    It cannot be known of a process of another machine, of another container, or from before the last boot.
    """
    if owner.startswith(NOBODY):
        return True
    match = _OWNER.fullmatch(owner)
    if not match or not match[2] or match[1] != _machine():
        return None
    born = _born(int(match[2]))
    return None if born is None else born != match[3]


def is_of_this_boot(owner: str) -> bool:
    """Whether what the owner wrote is here even if it was never waited for: nobody has cut the power since."""
    match = _OWNER.fullmatch(owner)
    return match is not None and match[1] == _machine()


@functools.cache
def _machine() -> str:
    """This boot of this machine (or container): where a process number means something."""
    try:
        here = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # macOS has no /proc
        # cron knows no /usr/sbin; where nobody tells the boot, nothing that was left is believed to be of this one
        names = ("sysctl", "/usr/sbin/sysctl")
        told = (_first_line([name, "-n", "kern.bootsessionuuid"]) for name in names)
        here = next(filter(None, told), "") or secrets.token_hex(16)
    return hashlib.sha256(here.encode()).hexdigest()[:12]


@functools.cache
def _own_birth(pid: int) -> str | None:
    return _born(pid)


def _born(pid: int) -> str | None:
    """When process `pid` started, in whatever unit the system counts; '' if it has ended, None if that is kept from us.

    A system may show nobody the processes of others (`hidepid` of /proc).
    """
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None if _runs(pid) else ""
        state, *rest = text.rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]  # a zombie runs no more
    born = re.sub(r"\W", "_", _first_line(["ps", "-o", "lstart=", "-p", str(pid)]))
    return born or (None if _runs(pid) else "")


def _runs(pid: int) -> bool:
    """Whether there is a process `pid`, whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _first_line(command: list[str]) -> str:
    plain = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}  # the time that ps tells looks alike in every terminal
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=plain)  # noqa: S603  ours
        return done.stdout.strip()
    return ""

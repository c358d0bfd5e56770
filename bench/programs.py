"""Programs as a person runs them, each in a process of its own, and what they took."""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Run:
    """What a program took: seconds, processor seconds of its own side, peak memory of its largest process in MB."""

    wall: float
    cpu: float
    peak: float


def environment(**changes: str) -> dict[str, str]:
    """Ours with `changes`, and with Python keeping what it compiles, as it does for everybody but test machines."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | changes


def ratio(ours: Sequence[Run], theirs: Sequence[Run], part: str = "wall") -> float:
    """What ours take of theirs: the median over rounds, within each of which the machine is about as quick."""
    return float(statistics.median(getattr(a, part) / getattr(b, part) for a, b in zip(ours, theirs, strict=True)))


def measured(*commands: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> Run:
    """Run one after the other, quietly; raises `SystemExit` naming one that fails."""
    began, cpu, peak = time.monotonic(), 0.0, 0.0
    for command in commands:
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                log.seek(0)
                sys.exit(f"{shlex.join(command)} failed:\n{log.read().decode(errors='replace')}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
    return Run(time.monotonic() - began, cpu, peak)

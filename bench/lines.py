"""Lines to measure on: two OpenSSH servers on this machine, at loopback's speed or at a distance.

A distance is made by `tc netem` in a network namespace where root may do that, else by a relay in a process of its own.
Loss without netem is made by a line of our own into such a namespace (`tunline`).
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.programs import ROOT

_SPACE, _HERE, _THERE = "embmerge-bench", "10.213.37.1", "10.213.37.2"
_NEAR_END, _FAR_END = "embbench0", "embbench1"  # of what leads into that network namespace
_WAIT = 10.0  # seconds for a server to listen


@dataclass(frozen=True)
class Condition:
    """How far and how bad: round trip in ms, Mbit/s of each server's line (0: no limit), loss in percent."""

    name: str
    rtt: float = 0.0
    mbit: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class Line:
    """Where the two servers are reached, and by which key."""

    host: str
    ports: tuple[int, ...]
    user: str
    key: Path


@contextmanager
def line(condition: Condition, folder: Path, servers: int = 2) -> Iterator[Line]:
    """Two servers, reached as `condition` says; `folder` is for keys. Raises `OSError` where that cannot be had."""
    key, host_key = folder / "user_key", folder / "host_key"
    for path in (key, host_key):
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    far = condition.rtt or condition.mbit or condition.loss
    with ExitStack() as stack:
        apart = bool(far) and stack.enter_context(_namespace(condition))
        if condition.loss and not apart:
            raise OSError("loss needs root, ip and /dev/net/tun")
        address = _THERE if apart else "127.0.0.1"
        ports = [stack.enter_context(_sshd(folder, address, inside=apart)) for _ in range(servers)]
        if far and not apart:
            ports = [stack.enter_context(_relay(port, condition)) for port in ports]
        yield Line(address, tuple(ports), getpass.getuser(), key)


@contextmanager
def _sshd(folder: Path, address: str, *, inside: bool) -> Iterator[int]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not program:
        raise OSError("there is no sshd here: install OpenSSH's server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    config = folder / f"sshd-{port}"
    config.write_text(
        f"Port {port}\nListenAddress {address}\nHostKey {folder / 'host_key'}\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'user_key.pub'}\nPasswordAuthentication no\nUsePAM no\n"
        "Subsystem sftp internal-sftp\n"
    )
    command = [program, "-D", "-e", "-f", str(config)]
    with _running([*_inside(), *command] if inside else command):
        _listening(address, port)
        yield port


@contextmanager
def _relay(port: int, condition: Condition) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.relay", str(port), "--delay-ms", str(condition.rtt / 2)]
    command += ["--mbit", str(condition.mbit)]
    with _running(command, talking=True) as relay:
        assert relay.stdout
        yield int(relay.stdout.readline())


@contextmanager
def _namespace(condition: Condition) -> Iterator[bool]:
    """Whether there is a namespace that is as far away as `condition` says."""
    if os.getuid() != 0 or not shutil.which("ip"):
        yield False
        return
    with ExitStack() as stack:
        _done([["ip", "netns", "add", _SPACE]])
        stack.callback(_done, [["ip", "netns", "del", _SPACE]])
        stack.callback(_end_sessions)
        if not (apart := _netem(condition)) and condition.loss and not condition.mbit:
            apart = stack.enter_context(_tunnel(condition))
        yield apart


def _netem(condition: Condition) -> bool:
    """Join the namespace by two devices that the kernel keeps apart; whether it can."""
    shape = ["netem", "delay", f"{condition.rtt / 2}ms", "limit", "100000"]
    shape += ["loss", f"{condition.loss}%"] if condition.loss else []
    shape += ["rate", f"{condition.mbit}mbit"] if condition.mbit else []
    pair = ["ip", "link", "add", _NEAR_END, "type", "veth", "peer", "name", _FAR_END, "netns", _SPACE]
    queues = [
        ["tc", "qdisc", "add", "dev", _NEAR_END, "root", *shape],
        [*_inside(), "tc", "qdisc", "add", "dev", _FAR_END, "root", *shape],
    ]
    if shutil.which("tc") and _done([pair]):
        if _done([*_addresses(), *queues]):
            return True
        _done([["ip", "link", "del", _NEAR_END]])
    return False


@contextmanager
def _tunnel(condition: Condition) -> Iterator[bool]:
    """Join it by two devices with a process between them; whether it can."""
    command = [sys.executable, "-m", "bench.tunline", _NEAR_END, _FAR_END]
    command += ["--delay-ms", str(condition.rtt / 2), "--loss", str(condition.loss)]
    with _running(command, talking=True) as tunnel:
        assert tunnel.stdout
        yield bool(tunnel.stdout.readline()) and _done(
            [["ip", "link", "set", _FAR_END, "netns", _SPACE], *_addresses()]
        )


def _addresses() -> list[list[str]]:
    return [
        ["ip", "addr", "add", f"{_HERE}/24", "dev", _NEAR_END],
        ["ip", "link", "set", _NEAR_END, "up"],
        [*_inside(), "ip", "addr", "add", f"{_THERE}/24", "dev", _FAR_END],
        [*_inside(), "ip", "link", "set", _FAR_END, "up"],
    ]


def _end_sessions() -> None:
    """End what still runs inside: a session whose client's farewell was lost would wait for minutes."""
    inside = subprocess.run(["ip", "netns", "pids", _SPACE], capture_output=True, check=False)
    for number in inside.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGTERM)


def _done(commands: list[list[str]]) -> bool:
    return all(subprocess.run(each, capture_output=True, check=False).returncode == 0 for each in commands)


def _inside() -> list[str]:
    return ["ip", "netns", "exec", _SPACE]


@contextmanager
def _running(command: list[str], *, talking: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    pipe = subprocess.PIPE if talking else subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _listening(address: str, port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.02)
    raise OSError(f"sshd does not listen on {address}:{port}")

"""`python -m bench.transfer`: `invoke sync` against the programs that people use instead, on near and far lines.

All tools fetch the same files from the same two servers, each in processes of its own, in a new order each round, since
whoever comes after whom finds other memory; every byte is compared afterwards. Printed are medians, and those of each
round's ratios to the others' times, which alone mean something on another machine. The others fetch from one server
after the other, as a person or a shell loop would have them do.
"""

import argparse
import filecmp
import json
import multiprocessing
import os
import pickle
import platform
import random
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.lines import Condition, Line, line
from bench.programs import Run, environment, measured, ratio

CONDITIONS = (
    Condition("loopback"),
    Condition("50 ms round trip", rtt=50),
    Condition("50 ms, 200 Mbit/s", rtt=50, mbit=200),
    Condition("50 ms, 0.5 % loss", rtt=50, loss=0.5),
)
TARGETS = {  # of sync's time to the tool's
    "loopback": {"scp": 0.65, "rsync": 0.6, "rclone": 0.35, "get": 0.3},
    "50 ms round trip": {"scp": 0.17, "rsync": 0.22, "rclone": 0.3},
    "50 ms, 0.5 % loss": {"scp": 0.3},
}
LINE_TARGET = 0.9  # of what the line carries, where its rate is limited
DIM = 768
MEMORY = Path("/dev/shm")  # noqa: S108  so that no disk is measured; what is made in it has a name of its own
GET = """
import sys, pathlib, fabric
key, user, host, out, *places = sys.argv[1:]
for place in places:
    port, folder = place.split(":")
    with fabric.Connection(host, user=user, port=int(port), connect_kwargs={"key_filename": key}) as connection:
        for name in sorted(connection.sftp().listdir(folder)):
            connection.get(f"{folder}/{name}", local=f"{out}/{name}")
"""


@dataclass(frozen=True)
class Job:
    """The files of each server, where they go, and how the servers are reached."""

    sources: tuple[Path, ...]
    out: Path
    line: Line
    credentials: Path

    @property
    def ssh(self) -> list[str]:
        """Options of OpenSSH's programs."""
        no_questions = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return ["-i", str(self.line.key), "-o", "IdentitiesOnly=yes", *no_questions]

    def places(self) -> Iterator[tuple[int, str]]:
        """Port and folder of each server."""
        return zip(self.line.ports, map(str, self.sources), strict=True)


Commands = Callable[[Job], list[list[str]]]


def scp(job: Job) -> list[list[str]]:
    at = f"{job.line.user}@{job.line.host}"
    return [["scp", "-q", *job.ssh, "-P", str(port), f"{at}:{folder}/*", str(job.out)] for port, folder in job.places()]


def rsync(job: Job) -> list[list[str]]:
    at = f"{job.line.user}@{job.line.host}"
    return [
        ["rsync", "-a", "-e", shlex.join(["ssh", *job.ssh, "-p", str(port)]), f"{at}:{folder}/", str(job.out)]
        for port, folder in job.places()
    ]


def sftp(job: Job) -> list[list[str]]:
    at = f"{job.line.user}@{job.line.host}"
    return [
        ["sftp", "-q", *job.ssh, "-P", str(port), f"{at}:{folder}/*", str(job.out)] for port, folder in job.places()
    ]


def rclone(job: Job) -> list[list[str]]:
    to = f"host={job.line.host},user={job.line.user},key_file={job.line.key}"
    quiet = ["--config", os.devnull, "--log-level", "ERROR", "--transfers", "4"]
    return [
        ["rclone", "copy", *quiet, f":sftp,{to},port={port}:{folder}", str(job.out)] for port, folder in job.places()
    ]


def lftp(job: Job) -> list[list[str]]:
    program = f"set sftp:connect-program {shlex.quote(shlex.join(['ssh', '-a', '-x', *job.ssh]))}"
    at, copy = f"-u {job.line.user},x", "mirror --parallel=4"
    return [
        ["lftp", "-e", f"{program}; open {at} -p {port} sftp://{job.line.host}; {copy} {folder} {job.out}; quit"]
        for port, folder in job.places()
    ]


def get(job: Job) -> list[list[str]]:
    places = [f"{port}:{folder}" for port, folder in job.places()]
    return [[sys.executable, "-c", GET, str(job.line.key), job.line.user, job.line.host, str(job.out), *places]]


def ours(job: Job) -> list[list[str]]:
    return [_invoke("sync", job, "--embeddings", str(job.out))]


def _invoke(task: str, job: Job, *flags: str) -> list[str]:
    return [sys.executable, "-m", "invoke", task, "--credentials", str(job.credentials), *flags]


TOOLS: dict[str, Commands] = {
    "sync": ours,
    "scp": scp,
    "rsync": rsync,
    "sftp": sftp,
    "rclone": rclone,
    "lftp": lftp,
    "get": get,
}


def make(sources: Sequence[Path], mb: float, files: int) -> None:
    """So many shards of `mb` MB in each of `sources`."""
    import numpy as np  # noqa: PLC0415  not in the process whose memory the measured ones begin with

    rows = max(1, round(mb * 1e6 / (4 * DIM)))
    random, start = np.random.default_rng(0), 0
    for cluster, source in enumerate(sources, 1):
        source.mkdir(parents=True)
        for gpu in range(files):
            shard = {
                "embeddings": random.standard_normal((rows, DIM), dtype=np.float32),
                "start_index": start,
                "end_index": start + rows,
                "cluster_id": cluster,
                "gpu_id": gpu,
                "model": "bench",
            }
            (source / f"cluster{cluster}_gpu{gpu}.pkl").write_bytes(pickle.dumps(shard, protocol=4))
            start += rows


def compare(job: Job) -> None:
    """Raise `SystemExit` unless every byte has arrived."""
    for source in job.sources:
        for path in source.iterdir():
            if not filecmp.cmp(path, job.out / path.name, shallow=False):
                sys.exit(f"{path.name} did not arrive as it was")


def credentials(folder: Path, at: Line, sources: Sequence[Path]) -> Path:
    """Credentials of the two servers, for `sync`."""
    folder.mkdir(exist_ok=True)
    for source, port in zip(sources, at.ports, strict=True):
        facts = {"address": at.host, "port": port, "username": at.user, "key_file": str(at.key)}
        path = folder / f"{source.name}.credentials"
        path.write_text(json.dumps(facts | {"remote_dir": str(source)}))
        path.chmod(0o600)
    return folder


def measure(condition: Condition, tools: Sequence[str], sources: tuple[Path, ...], folder: Path, runs: int) -> None:
    """Print one line's table."""
    try:
        with line(condition, folder) as at:
            job = Job(sources, folder / "out", at, credentials(folder / "credentials", at, sources))
            env = environment(HOME=str(folder))  # nobody's ssh_config, nobody's known_hosts
            measured(_invoke("verify-remote", job), env=env)  # once, so that Python has compiled all of it
            taken: dict[str, list[Run]] = {tool: [] for tool in tools}
            verified = []
            for _ in range(runs):
                for tool in random.sample(tools, len(tools)):
                    shutil.rmtree(job.out, ignore_errors=True)
                    job.out.mkdir()
                    taken[tool].append(measured(*TOOLS[tool](job), env=env))
                    compare(job)
                verified.append(measured(_invoke("verify-remote", job), env=env).wall)
    except OSError as error:
        print(f"\n{condition.name}: left out, {error}")
        return
    table(condition, taken, sum(path.stat().st_size for source in sources for path in source.iterdir()))
    print(f"verify-remote of {sum(len(list(source.iterdir())) for source in sources)}: {_median(verified):.2f} s")


def table(condition: Condition, taken: dict[str, list[Run]], nbytes: int) -> None:
    """Print the medians of every tool, and what sync's time is to it."""
    print(f"\n{condition.name}\n{'':8}{'wall s':>8}{'cpu s':>8}{'peak MB':>9}{'MB/s':>8}{'sync is':>10}{'wanted':>9}")
    mine = taken.get("sync", [])
    for tool, runs in taken.items():
        wall = _median(run.wall for run in runs)
        target = TARGETS.get(condition.name, {}).get(tool)
        print(
            f"{tool:8}{wall:8.2f}{_median(run.cpu for run in runs):8.2f}{max(run.peak for run in runs):9.0f}"
            f"{nbytes / wall / 1e6:8.1f}{f'{ratio(mine, runs):.2f} x' if mine and runs is not mine else '':>10}"
            f"{f'{target:.2f} x' if target else '':>9}"
        )
    if condition.mbit and mine:
        part = nbytes / _median(run.wall for run in mine) / 1e6 / (2 * condition.mbit / 8)  # two servers
        print(f"sync fills {part:.0%} of the two lines (wanted: {LINE_TARGET:.0%})")


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values) or [0.0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=48, help="size of a file, in millions of bytes")
    parser.add_argument("--files", type=int, default=8, help="files on each of the two servers")
    parser.add_argument("--rtt", type=float, help="one line alone, of this round trip in ms")
    parser.add_argument("--rate", type=float, default=0, help="with --rtt: Mbit/s of each server's line")
    parser.add_argument("--loss", type=float, default=0, help="with --rtt: percent of packets lost (needs root)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tools", default=" ".join(TOOLS), help="of these, those that are installed are measured")
    parser.add_argument("--folder", type=Path, default=MEMORY, help="where there is room; in memory, at best")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and namespaces end with it
    tools = [tool for tool in given.tools.split() if tool in ("sync", "get") or shutil.which(tool)]
    conditions: Sequence[Condition] = CONDITIONS
    if given.rtt is not None:
        name = f"{given.rtt:g} ms, {given.rate:g} Mbit/s, {given.loss:g} % loss"
        asked = Condition(name, given.rtt, given.rate, given.loss)
        conditions = [each for each in CONDITIONS if replace(each, name=name) == asked] or [asked]  # whose aims we know
    print(f"{2 * given.files} files of {given.mb:g} MB, {os.cpu_count()} cores, Python {platform.python_version()}")
    base = given.folder if given.folder.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="embmerge-bench-", dir=base) as folder:
        sources = (Path(folder, "tensor01"), Path(folder, "tensor02"))
        making = multiprocessing.get_context("spawn").Process(target=make, args=(sources, given.mb, given.files))
        making.start()
        making.join()
        for condition in conditions:
            measure(condition, tools, sources, Path(folder), given.runs)


if __name__ == "__main__":
    main()

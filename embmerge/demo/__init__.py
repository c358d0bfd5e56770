"""`invoke demo`: two SSH clusters on this machine, and the real job against them, with nothing mocked."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from shlex import quote

from embmerge.demo.dataset import Size, write_articles, write_shard
from embmerge.errors import EmbmergeError, UsageError
from embmerge.plaintext import printable

REMOTE_DIR = "mapper_embeddings/embeddings"  # where embmerge looks when nothing else is said
_MARK = ".made-by-embmerge-demo"
_USER = "ada"
_MOST = 100_000_000
_TO_TRY = ("verify-remote", "sync", "merge", "inspect")
_ROOT = Path(__file__).resolve().parents[2]  # where tasks.py lies


def run(
    folder: Path,
    rows: str,
    dim: str,
    *,
    keep_running: bool,
    quiet: bool,
    say: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Make the clusters, run `invoke full` against them (`quiet`: its last line on stderr), and say what to do next.

    Raises `UsageError` for numbers that cannot be, and `EmbmergeError` if `full` failed.
    """
    size = Size(_count("--rows", rows), _count("--dim", dim))
    with clusters(folder, size, say):
        if keep_running:
            say(f"\nThe clusters are up until you press Ctrl-C. From another terminal, in {folder}:\n")
            say("\n".join(f"  {_typed(folder.resolve(), task)}" for task in _TO_TRY))
            while not stop.wait(1):
                pass
            return
        say(f"Running invoke full in {folder}\n")
        code = _invoke(folder, "full", *(["--quiet"] if quiet else []))
    if code:
        raise EmbmergeError(
            f"invoke full ended with exit code {code}", hint=f"its messages stand above; {folder} is kept"
        )
    say(f"\nThe merged file is {folder / 'merged' / 'embeddings.pkl'}. Look at it:\n")
    say(f"  {_typed(folder, 'inspect')}\n  {_typed(folder, 'report')}")


@contextmanager
def clusters(folder: Path, size: Size, say: Callable[[str], None]) -> Iterator[None]:
    """Make `folder` anew with shards, articles and credentials, and serve its clusters while the block lasts.

    Raises `UsageError` if `folder` holds something else than an earlier demo, or if asyncssh is not installed.
    """
    try:
        from embmerge.demo.server import Accounts, Server  # noqa: PLC0415  asyncssh is an extra
    except ModuleNotFoundError:
        raise UsageError("the demo needs asyncssh", hint="pip install -e '.[demo]'") from None
    _clear(folder)
    say(f"Making {size.rows:,} articles and {size.clusters * size.gpus} shards of {size.dim} columns in {folder}...")
    write_articles(folder / "wikipedia.pkl", size.rows)
    for cluster, gpu, start, end in size.shards():
        write_shard(_home(folder, cluster) / REMOTE_DIR, size, cluster, gpu, start, end)
    with ExitStack() as running:
        for cluster in range(1, size.clusters + 1):
            name, password = f"tensor{cluster:02d}", secrets.token_urlsafe(12)
            server = running.enter_context(Server(_home(folder, cluster), partial(Accounts, {_USER: password})))
            _write_credentials(folder, name, server.port, password)
            say(f"Cluster {name} listens on 127.0.0.1:{server.port}")
        yield


def _typed(folder: Path, task: str) -> str:
    """What a person types to run `task` in `folder`; Invoke looks for tasks.py in the folders above by itself."""
    beyond = "" if folder.resolve().is_relative_to(_ROOT) else f"--search-root {quote(str(_ROOT))} "
    own, found = Path(sys.executable).with_name("invoke"), shutil.which("invoke")
    known = found is not None and own.exists() and Path(found).samefile(own)  # an activated environment
    command = "invoke" if known or not own.exists() else quote(os.path.relpath(own, folder))
    return f"cd {quote(str(folder))} && {command} {beyond}{task}"


def _invoke(folder: Path, *arguments: str) -> int:
    """Run `invoke` with `arguments` in `folder`, as a person would type it; returns its exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")}
    return subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", "invoke", "--search-root", str(_ROOT), *arguments],
        cwd=folder,
        env=environment,
        stdout=sys.stderr if "--quiet" in arguments else None,
        check=False,
    ).returncode


def _count(flag: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise UsageError(f"{flag}: expected a whole number from 1 to {_MOST:,}, got {printable(text, 40)!a}")
    return int(text)


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise UsageError(f"{folder} holds something else than a demo", hint="name another folder with --folder")
    shutil.rmtree(folder, ignore_errors=True)
    for place in (_home(folder, 1) / REMOTE_DIR, _home(folder, 2) / REMOTE_DIR, folder / ".credentials"):
        place.mkdir(parents=True)
    (folder / ".credentials").chmod(0o700)
    (folder / _MARK).touch()


def _home(folder: Path, cluster: int) -> Path:
    return folder / "clusters" / f"tensor{cluster:02d}"


def _write_credentials(folder: Path, name: str, port: int, password: str) -> None:
    path = folder / ".credentials" / f"{name}.credentials"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"address": "127.0.0.1", "port": port, "username": _USER, "password": password}))

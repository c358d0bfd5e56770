"""The tasks of embmerge: parse the flags, call the package, show what came of it, exit with its code.

Nothing is decided here. Modules are imported where they are used, so that `invoke --list` stays quick.
"""

import atexit
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from embmerge.uncaught import hook

if TYPE_CHECKING:
    from embmerge.console import Console
    from embmerge.remote.fleet import Fleet
    from embmerge.settings import Settings
    from embmerge.shard import ShardHeader

# Invoke has Python keep nothing that it compiles, so that every run would compile the package anew, for 0.13 s.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
# Loading the libraries makes 40,000 objects and no garbage: looking through them takes 20 ms, and at the end 30 more.
gc.set_threshold(100_000)
atexit.register(gc.freeze)
# numpy's OpenBLAS starts a thread a core, which spins for 80 ms of it; here rows are copied, and few are multiplied.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.excepthook = hook

HELP = {
    "article": "the title of an article whose neighbours to show, instead of ten random ones",
    "articles": "articles file (setting: articles)",
    "checksum": "compare every shard with the cluster's sha256sum, fetch again what differs",
    "cluster": "a cluster, or several in quotes; may be repeated (default: all that are configured)",
    "connections": "connections to each cluster, at most (setting: connections)",
    "credentials": "folder of the credentials files (setting: credentials)",
    "dry_run": "say what would be done, and do nothing",
    "dtype": "convert the rows to float16, float32 or float64 (setting: dtype)",
    "dim": "columns of the embeddings",
    "embeddings": "folder of the downloaded shards (setting: embeddings)",
    "folder": "where to put it; an earlier demo there is replaced",
    "json": "one JSON document on stdout, the log on stderr",
    "keep_running": "leave the clusters up, and print what to try from another terminal",
    "limit_rate": "bytes a second, all clusters together, such as 20M (setting: limit_rate)",
    "output": "merged file; its suffix picks the format: .pkl .npy .safetensors .parquet (setting: output)",
    "path": "the file to look at (default: the setting `output`)",
    "quiet": "errors, new host keys and the last line only",
    "rows": "articles to make",
    "transfer": "fast, or plain for paramiko's own reader (setting: transfer)",
    "verbose": "add the details of the SSH connections",
    "wait": "minutes to wait for workers that are still writing",
}
Flag = str | None  # as typed; `settings` and the task check it
Names = list[str] | None
WHICH_CLUSTERS = ("cluster", "credentials")
HOW_TO_CONNECT = ("connections", "transfer")
HOW_TO_PRINT = ("json", "quiet", "verbose")


def _task(*flags: str, **own: str) -> Callable[[Callable[..., None]], Any]:
    """Invoke's `task`, with the help of `flags`, of those that every task has, and of the task's `own`."""
    repeated = ["cluster"] if "cluster" in flags else []
    told = {name: HELP[name] for name in (*flags, *HOW_TO_PRINT)} | own
    return task(help=told, iterable=repeated, auto_shortflags=False)


@dataclass(frozen=True)
class Session:
    """What a task works with: its settings, where it prints, and the event that asks its threads to stop."""

    settings: "Settings"
    console: "Console"
    stop: threading.Event
    typed: Mapping[str, Any]

    def then(self, *flags: str) -> str:
        """What follows a look at all clusters, or at some: these alone need not be enough for a merge."""
        if self.typed.get("cluster"):
            return self.command("sync", *(flag for flag in flags if flag != "output"))
        return self.command("full", *flags, "articles")

    def command(self, name: str, *flags: str) -> str:
        """The next command, with those of `flags` that the person typed for this one."""
        words = ["invoke", name]
        for flag in flags:
            values = self.typed.get(flag) or ()
            for value in [values] if isinstance(values, str) else values:
                words += [f"--{flag.replace('_', '-')}", quote(value)]
        return " ".join(words)


@_task("wait", "articles", *WHICH_CLUSTERS, *HOW_TO_CONNECT)
def verify_remote(
    c: Context,
    cluster: Names = None,
    wait: Flag = None,
    articles: Flag = None,
    connections: Flag = None,
    credentials: Flag = None,
    transfer: Flag = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Look into every remote shard without downloading it; say whether a merge would succeed."""
    with session(c, locals()) as s, _fleet(s) as fleet:
        _look(s, fleet, wait, merging=False)
        s.console.next(s.then(*WHICH_CLUSTERS))


@_task("dry_run", "checksum", "embeddings", "limit_rate", *WHICH_CLUSTERS, *HOW_TO_CONNECT)
def sync(
    c: Context,
    cluster: Names = None,
    dry_run: bool = False,
    checksum: bool = False,
    embeddings: Flag = None,
    limit_rate: Flag = None,
    connections: Flag = None,
    credentials: Flag = None,
    transfer: Flag = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Download the shards of the clusters; unchanged ones are skipped."""
    with session(c, locals()) as s, _fleet(s) as fleet:
        dry_run = dry_run or c.config.run.dry
        _sync(s, fleet, dry_run=dry_run, checksum=checksum)
        again = s.command("sync", "embeddings", *WHICH_CLUSTERS)
        then = s.command("full" if fleet.others else "merge", "embeddings")  # which looks for what is not here
        s.console.next(again if dry_run else then)


@_task("articles", "dtype", "embeddings", "output")
def merge(
    c: Context,
    articles: Flag = None,
    dtype: Flag = None,
    embeddings: Flag = None,
    output: Flag = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Validate the local shards and write the merged file."""
    with session(c, locals()) as s:
        _refuse_dry(c)
        _merge(s)


@_task("wait", "articles", "dtype", "embeddings", "limit_rate", "output", *WHICH_CLUSTERS, *HOW_TO_CONNECT)
def full(
    c: Context,
    cluster: Names = None,
    wait: Flag = None,
    articles: Flag = None,
    dtype: Flag = None,
    embeddings: Flag = None,
    limit_rate: Flag = None,
    output: Flag = None,
    connections: Flag = None,
    credentials: Flag = None,
    transfer: Flag = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """verify-remote, sync and merge, stopping at the first that fails."""
    with session(c, locals()) as s:
        from embmerge.mergedfile import check_output

        check_output(s.settings.output)  # before hours of downloading
        with _fleet(s) as fleet:
            headers = _look(s, fleet, wait, merging=True)
            if c.config.run.dry:
                _sync(s, fleet, dry_run=True)
                return
            _sync(s, fleet, headers=headers)
        _merge(s)


@_task("articles", "embeddings", "output", *WHICH_CLUSTERS, *HOW_TO_CONNECT)
def doctor(
    c: Context,
    cluster: Names = None,
    articles: Flag = None,
    embeddings: Flag = None,
    output: Flag = None,
    connections: Flag = None,
    credentials: Flag = None,
    transfer: Flag = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Try everything that the job needs, rung by rung, and say which one breaks."""
    with session(c, locals()) as s:
        from embmerge.remote.doctor import doctor as climb

        found = climb(s.settings, observer=s.console, stop=s.stop, ask=s.console.ask)
        s.console.show(found)
        if found.error:
            raise found.error
        s.console.next(s.then("embeddings", "output", *WHICH_CLUSTERS))


@_task("path")
def inspect(c: Context, path: Flag = None, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
    """What is in a shard, an articles file or a merged file; the header is read, never the whole."""
    with session(c, locals()) as s:
        from embmerge.inspection import inspect as look

        s.console.show(look(_place(path) or s.settings.output))


@_task("path", output="file to write; its suffix picks the format: .pkl .npy .safetensors .parquet")
def convert(
    c: Context, path: Flag = None, output: Flag = None, json: bool = False, quiet: bool = False, verbose: bool = False
) -> None:
    """Write a merged file again in the format of another suffix."""
    with session(c, locals(), output=None) as s:
        from embmerge.convert import convert as run
        from embmerge.errors import UsageError

        _refuse_dry(c)
        place = _place(output)
        if not place:
            raise UsageError("convert needs --output", hint="its suffix picks the format: --output x.parquet")
        s.console.show(run(_place(path) or s.settings.output, place, observer=s.console))


@_task("path", "article", output="page to write, an .html (default: beside the merged file)")
def report(
    c: Context,
    path: Flag = None,
    article: Flag = None,
    output: Flag = None,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Write a page that says whether a merged file may be used, and why."""
    with session(c, locals(), output=None) as s:
        from embmerge.report import report as write

        _refuse_dry(c)
        done = write(_place(path) or s.settings.output, output=_place(output), article=article, observer=s.console)
        s.console.show(done)
        if done.error:
            raise done.error


@_task("folder", "keep_running", "rows", "dim")
def demo(
    c: Context,
    rows: str = "20000",
    dim: str = "256",
    folder: str = "demo-run",
    keep_running: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Bring up two SSH clusters on this machine and run the whole job against them."""
    with session(c, locals()) as s:
        from embmerge import demo as show

        _refuse_dry(c)
        place = _place(folder) or Path()
        show.run(place, rows, dim, keep_running=keep_running, say=s.console.say, stop=s.stop, quiet=json or quiet)


def _fleet(s: Session) -> "AbstractContextManager[Fleet]":
    from embmerge.remote.fleet import fleet

    return fleet(s.settings, observer=s.console, stop=s.stop, ask=s.console.ask)


def _look(s: Session, fleet: "Fleet", wait: str | None, *, merging: bool) -> "dict[str, ShardHeader]":
    from embmerge.remote.terms import counting
    from embmerge.remote.waiting import minutes, survey_when_done

    s.console.expect([cluster.name for cluster in fleet.clusters])
    found = survey_when_done(
        fleet.clusters,
        counting(s.settings, fleet.others, merging=merging, named=bool(s.typed.get("articles"))),
        minutes(wait),
        observer=s.console,
        stop=s.stop,
    )
    s.console.show(found)
    if found.error:
        raise found.error
    return found.headers


def _sync(s: Session, fleet: "Fleet", **how: Any) -> None:
    from embmerge.remote.sync import sync as run

    s.console.expect([cluster.name for cluster in fleet.clusters])
    done = run(fleet.clusters, s.settings.embeddings, s.settings, observer=s.console, stop=s.stop, **how)
    s.console.show(done)
    if done.error:
        raise done.error


def _merge(s: Session) -> None:
    from embmerge.merge import merge as run
    from embmerge.remote import manifest
    from embmerge.shard import local_shards

    settings = s.settings
    done = run(
        local_shards(settings.embeddings),
        settings.articles,
        settings.output,
        expected_articles=settings.expected_articles,
        max_extra_rows=settings.max_extra_rows,
        dtype=settings.dtype,
        origins=manifest.origins(settings.embeddings),
        observer=s.console,
    )
    s.console.show(done)
    s.console.next(
        f"invoke inspect --path {quote(str(settings.output))}", f"invoke report --path {quote(str(settings.output))}"
    )


def _place(typed: Flag) -> Path | None:
    from embmerge.settings import expanded

    return expanded(typed) if typed else None


def _refuse_dry(c: Context) -> None:
    from embmerge.errors import UsageError

    if c.config.run.dry:
        raise UsageError("this task cannot be tried with --dry", hint="invoke --dry works with sync and full")


@contextmanager
def session(c: Context, flags: Mapping[str, Any], **special: Any) -> Iterator[Session]:
    """Run a task's body; every error ends as one line, one hint and its exit code.

    `flags` are the task's parameters; those that are settings override what invoke.yaml and the environment say.
    `special` does so in their place: an `--output` that is another task's own is no setting.
    """
    from embmerge.console import Console
    from embmerge.errors import DiskError, EmbmergeError, Interrupted, SettingsError
    from embmerge.settings import NAMES, from_environment, resolve
    from embmerge.signals import signals

    section = c.config.get("embmerge") or {}  # None if all of it is commented out
    configured = {**from_environment(os.environ), **section} if hasattr(section, "keys") else None
    given = {name: flags[name] for name in NAMES if name in flags} | special
    stop = threading.Event()
    failure: EmbmergeError | None = None
    try:
        with (
            Console.choose(**{name: flags[name] for name in HOW_TO_PRINT}) as console,
            signals(stop, console.pause, console.resume) as caught,
        ):
            try:
                if configured is None:
                    raise SettingsError(
                        "embmerge: in invoke.yaml holds no settings", hint="expected is a line for each"
                    )
                yield Session(resolve(configured, given | {"clusters": flags.get("cluster")}), console, stop, flags)
            except EmbmergeError as error:
                failure = error
            except KeyboardInterrupt:
                failure = Interrupted("stopped; nothing is half-written", hint="run the same command again to go on")
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                failure = (DiskError if where else EmbmergeError)(f"{where}{error.strerror or error}")
            if failure:
                if str((configured or {}).get("traceback", "")).lower() in {"yes", "1", "true", "on"}:
                    traceback.print_exception(failure)
                console.error(failure)
    except DiskError as error:  # what was to be printed could not be
        console.error(error)
        failure = failure or error
    if failure:
        raise Exit(code=128 + caught[0] if caught else failure.exit_code)


ns = Collection(verify_remote, sync, merge, full, doctor, inspect, report, convert, demo)

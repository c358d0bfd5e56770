"""`doctor`: up the ladder, rung by rung, to the one that breaks.

For each cluster: credentials file, permissions, name resolution, TCP, SSH banner, host key, login, home directory,
remote directory, shards, and a read that tells how long a sync will take. Then this machine's own: articles file,
local disk, and whether all shards together are one dataset. A cluster's ladder ends where it breaks; the others are
climbed all the same.
"""

import os
import shutil
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote

import numpy as np

from embmerge import atomic
from embmerge.articles import count_articles
from embmerge.errors import DiskError, LocalDataError
from embmerge.events import Observer, ignore
from embmerge.mergedfile import check_output, room_needed
from embmerge.plaintext import size
from embmerge.remote.climb import Climb, Reached, missing
from embmerge.remote.credentials import configured
from embmerge.remote.ladder import Broken, DoctorResult, Ladder
from embmerge.remote.login import Ask
from embmerge.remote.survey import survey
from embmerge.remote.terms import Terms
from embmerge.settings import Settings


def doctor(
    settings: Settings, *, observer: Observer = ignore, stop: threading.Event, ask: Ask | None = None
) -> DoctorResult:
    """Climb the ladder of every cluster of `settings` (default: all that are configured), then this machine's own.

    Each rung is told to `observer` as it is climbed (`Checked`). Nothing is downloaded, nothing is written but a host
    key that is accepted. What breaks is in the result.
    """
    ladder = Ladder(observer)
    reached: list[Reached] = []
    known: tuple[str, ...] = ()
    with ExitStack() as open_clusters:
        try:
            with ladder.rung("credentials folder", f"ls -la {quote(str(settings.credentials))}") as found:
                known = configured(settings.credentials, observer)
                found.append(f"{settings.credentials} has {', '.join(known)}")
        except Broken:
            pass
        names = settings.clusters or known
        for name in names:
            if stop.is_set():
                break
            climb = Climb(name, replace(settings, retries=0), ladder, stop, ask, open_clusters)
            try:
                climb.climb(reached)
            except Broken:
                continue
        articles = _articles(ladder, settings)
        _disk(ladder, settings, reached)
        if len([each for each in reached if each.headers]) == len(names) > 0:
            others = tuple(name for name in known if name not in names)
            terms = Terms(articles, settings.max_extra_rows, any_dtype=settings.dtype is not None, others=others)
            _coverage(ladder, reached, terms, stop)
    return DoctorResult(tuple(ladder.rungs), ladder.error)


def _articles(ladder: Ladder, settings: Settings) -> int | None:
    """How many articles there are, None if that cannot be told."""
    path, expected = settings.articles, settings.expected_articles
    try:
        with ladder.rung("articles file", f"ls -l {quote(str(path))}") as found:
            count = count_articles(path)
            if expected is not None and count != expected:
                raise LocalDataError(f"{path} holds {count:,} articles, but {expected:,} are expected")
            found.append(f"{path} holds {count:,} articles")
            return count
    except Broken:
        return None


def _disk(ladder: Ladder, settings: Settings, reached: list[Reached]) -> None:
    """Room for what is still to be downloaded and for the merged file, which may lie on the same disk."""
    todo = missing(settings.embeddings, [each.listing for each in reached])
    headers = [header for each in reached for header in each.headers]
    wide = np.dtype(settings.dtype).itemsize if settings.dtype else None
    merged = sum(room_needed(settings.output, h.rows, h.dim * (wide or h.dtype.itemsize)) for h in headers)
    folders = f"{quote(str(settings.embeddings))} {quote(str(settings.output.parent))}"
    needs: dict[int, tuple[Path, int]] = {}
    try:
        with ladder.rung("local disk", f"df -h {folders}") as found:
            for folder, nbytes in ((settings.embeddings, todo), (settings.output.parent, merged)):
                place = _existing(folder)
                if not place.is_dir():
                    raise DiskError(atomic.no_folder(place), hint="move it away, or choose another folder")
                if not os.access(place, os.W_OK):
                    raise DiskError(f"{place} is not writable", hint="choose another folder, or change its permissions")
                device = place.stat().st_dev
                needs[device] = (place, needs.get(device, (place, 0))[1] + nbytes)
            check_output(settings.output)
            for place, nbytes in needs.values():
                free = shutil.disk_usage(place).free
                if free < nbytes:
                    raise DiskError(
                        f"the disk of {place.resolve()} is too full: {size(free)} free, {size(nbytes)} needed",
                        hint="free some room, or choose another disk with --embeddings and --output",
                    )
                found.append(f"{size(free)} free, {size(nbytes)} needed")
    except Broken:
        pass


def _coverage(ladder: Ladder, reached: list[Reached], terms: Terms, stop: threading.Event) -> None:
    """Whether a merge would succeed."""
    try:
        with ladder.rung("coverage", "invoke verify-remote") as found:
            seen = survey([each.cluster for each in reached], terms, stop=stop)
            if seen.error:
                raise seen.error
            found.append(f"rows {seen.coverage.start:,} - {seen.coverage.end:,}, each held once")
    except Broken:
        pass


def _existing(folder: Path) -> Path:
    """`folder`, or its nearest parent that exists, be it as a link to nothing."""
    return next(each for each in (folder, *folder.parents, Path()) if each.exists() or each.is_symlink())

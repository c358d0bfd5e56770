"""The clusters that a task asks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from embmerge.events import Observer
from embmerge.remote.cluster import Cluster
from embmerge.remote.credentials import configured, load_credentials
from embmerge.remote.login import Ask
from embmerge.settings import Settings


@dataclass(frozen=True)
class Fleet:
    """The clusters that were asked for, and the names of those that are configured besides."""

    clusters: tuple[Cluster, ...]
    others: tuple[str, ...]


@contextmanager
def fleet(settings: Settings, *, observer: Observer, stop: threading.Event, ask: Ask | None) -> Iterator[Fleet]:
    """The clusters of `settings`, or all that have a credentials file; hung up on at the end.

    Raises `CredentialsError` before anything is connected.
    """
    known = configured(settings.credentials, observer)
    names = settings.clusters or known
    credentials = [load_credentials(name, settings.credentials, observer) for name in names]
    clusters = tuple(Cluster(each, settings, observer=observer, stop=stop, ask=ask) for each in credentials)
    try:
        yield Fleet(clusters, tuple(name for name in known if name not in names))
    finally:
        for cluster in clusters:
            cluster.close()

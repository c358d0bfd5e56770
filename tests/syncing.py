"""A cluster behind a bad line, and a sync from it: what the tests of `remote/` that move data share."""

import json
import pickle
import threading
from pathlib import Path

import asyncssh
import numpy as np

from embmerge.demo.server import Accounts, Home, Server
from embmerge.remote.cluster import Cluster
from embmerge.remote.credentials import load_credentials
from embmerge.remote.sync import sync
from embmerge.settings import Settings
from tests.relay import Relay
from tests.servers import Sshd, make_key

KEY = asyncssh.generate_private_key("ssh-ed25519")
MB = 1 << 20


def write_shard(path, *, start=0, rows=64, dim=256, seed=0):
    """A shard of `rows` × `dim` float32, as a GPU worker leaves it."""
    values = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    place = [int(part) for part in path.stem.replace("cluster", "").split("_gpu")]
    facts = {"start_index": start, "end_index": start + rows, "cluster_id": place[0], "gpu_id": place[1], "model": "m"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"embeddings": values, **facts}, protocol=4))
    return path


class Lab:
    """One cluster `a` with a server of its own, a line to it, and a folder for its shards. A context manager.

    The server is embedded, or OpenSSH's if there is `sshd`, which has the further arguments of `tests.servers.Sshd`.
    """

    def __init__(self, folder, *, name="a", home=Home, options=None, relay=None, sshd=None):
        self.name = name
        self.home, self.local, self.credentials = (
            folder / f"{name}-home",
            folder / "embeddings",
            folder / ".credentials",
        )
        self.remote = self.home / "out"
        self.remote.mkdir(parents=True)
        self.credentials.mkdir(exist_ok=True)
        if sshd is not None:
            key = make_key(folder / "key")
            self.server = Sshd(folder, keys=[key], **sshd)
            self.login = {"username": self.server.user, "key_file": str(key)}
            self.remote_dir = str(self.remote)
        else:
            accounts = lambda: Accounts({"user": "secret"})  # noqa: E731  made anew for each connection
            self.server = Server(self.home, accounts, home=home, host_key=KEY, **(options or {}))
            self.login = {"username": "user", "password": "secret"}
            self.remote_dir = "/out"
        self.relay_options = relay or {}
        self.events = []
        self.stop = threading.Event()

    def __enter__(self):
        self.server.__enter__()
        self.relay = Relay(self.server.port, **self.relay_options).__enter__()
        facts = {"address": "127.0.0.1", "port": self.relay.port, "remote_dir": self.remote_dir, **self.login}
        path = self.credentials / f"{self.name}.credentials"
        path.write_text(json.dumps(facts))
        path.chmod(0o600)
        return self

    def __exit__(self, *_error):
        self.relay.__exit__()
        self.server.__exit__()

    def shards(self, count=1, *, rows=64, dim=256):
        """Write so many shards on the cluster; 64 × 256 are 64 KB."""
        return [
            write_shard(self.remote / f"cluster0_gpu{gpu}.pkl", start=gpu * rows, rows=rows, dim=dim, seed=gpu)
            for gpu in range(count)
        ]

    def settings(self, **settings):
        """Settings with short time-outs."""
        short = {"connect_timeout": 5, "stall_timeout": 5, "keepalive": 1, "connections": 2}
        return Settings(credentials=self.credentials, embeddings=self.local, **(short | settings))

    def cluster(self, settings):
        """The cluster, not yet connected."""
        credentials = load_credentials(self.name, self.credentials)
        return Cluster(credentials, settings, observer=self.see, stop=self.stop)

    def see(self, event):
        """Observe an event."""
        self.events.append(event)

    def seen(self, kind):
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def sync(self, *, others=(), headers=None, dry_run=False, checksum=False, **settings):
        """Sync from this cluster, and from those of `others`, into `local`."""
        chosen = self.settings(**settings)
        clusters = [lab.cluster(chosen) for lab in (self, *others)]
        try:
            return sync(
                clusters,
                self.local,
                chosen,
                headers=headers,
                dry_run=dry_run,
                checksum=checksum,
                observer=self.see,
                stop=self.stop,
            )
        finally:
            for cluster in clusters:
                cluster.close()

    def same(self):
        """The names of the local shards; fails unless each is byte-equal to the remote one and nothing else is here."""
        here = {path.name for path in self.local.glob("*.pkl")}
        for name in here:
            assert (self.local / name).read_bytes() == (self.remote / name).read_bytes(), name
        assert {path.name for path in self.local.iterdir()} - here <= {"manifest.json", ".partial"}
        return here


def partials(local):
    """The folders of unfinished downloads."""
    folder = Path(local) / ".partial"
    return sorted(folder.iterdir()) if folder.exists() else []

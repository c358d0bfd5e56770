"""Doctor's ladder for one cluster, from its credentials file to a read that tells how long a sync will take."""

import stat
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from embmerge.errors import EmbmergeError, HostKeyError, LocalDataError, LoginError, RemoteDataError
from embmerge.events import Event, HostKeyAccepted
from embmerge.plaintext import duration, printable, size
from embmerge.remote.cluster import Cluster
from embmerge.remote.credentials import SUFFIX, Credentials, load_credentials
from embmerge.remote.files import Listing, no_shards
from embmerge.remote.firsthop import first_hop
from embmerge.remote.ladder import Ladder, Rung
from embmerge.remote.login import Ask
from embmerge.remote.plan import local_files
from embmerge.remote.rungs import READ, open_tcp, read_banner, read_rate, resolve
from embmerge.settings import Settings
from embmerge.shard import ShardHeader


@dataclass(frozen=True)
class Reached:
    """A cluster whose ladder held up to the remote directory."""

    cluster: Cluster
    listing: Listing
    headers: tuple[ShardHeader, ...] = ()


@dataclass
class Climb:
    """One cluster's ladder."""

    name: str
    settings: Settings
    ladder: Ladder
    stop: threading.Event
    ask: Ask | None
    open_clusters: ExitStack
    accepted: list[HostKeyAccepted] = field(default_factory=list)

    def climb(self, reached: list[Reached]) -> None:
        """Go up as far as it holds; the cluster is among `reached` once its remote directory could be listed."""
        credentials = self._credentials()
        self._line(credentials)
        cluster = Cluster(credentials, self.settings, observer=self._listen, stop=self.stop, ask=self.ask)
        self.open_clusters.callback(cluster.close)
        ssh = _command("ssh", credentials)
        self._login(cluster, ssh)
        with (
            self._rung("home directory", _command("sftp", credentials)) as found,
            cluster.sftp() as sftp,
        ):
            found.append(printable(sftp.normalize(".")))
        directory = credentials.remote_dir or self.settings.remote_dir
        with self._rung("remote directory", f"{ssh} ls -la {quote(directory)}") as found:
            listing = cluster.listing()
            found.append(printable(listing.remote_dir))
        reached.append(Reached(cluster, listing))
        with self._rung("shards", f"{ssh} ls -la {quote(listing.remote_dir)}") as found:
            headers = self._headers(cluster, listing)
            nbytes = sum(file.nbytes for file in listing.shards)
            found.append(f"{len(headers)} with {sum(header.rows for header in headers):,} rows, {size(nbytes)}")
        reached[-1] = Reached(cluster, listing, headers)
        self._read(cluster, listing)

    def _credentials(self) -> Credentials:
        path = self.settings.credentials / f"{self.name}{SUFFIX}"
        with self._rung("credentials file", f"ls -l {quote(str(path.parent))}") as found:
            credentials = load_credentials(self.name, self.settings.credentials)
            first_hop(credentials, self.settings)  # which reads those of the gateway
            user = f"{credentials.username}@" if credentials.username else ""
            found.append(f"{path}: {user}{credentials.address}")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"others may read {path} ({mode:o})"
            hint = f"try: chmod 600 {quote(str(path))}"
            self.ladder.add(Rung(self.name, "permissions", ok=None, text=text, hint=hint))
        else:
            self.ladder.add(Rung(self.name, "permissions", ok=True, text=f"{mode:o}, nobody else may read it"))
        return credentials

    def _line(self, credentials: Credentials) -> None:
        """Name, TCP and banner of the machine that we connect to first, unless a command of the person's does that."""
        hop = first_hop(credentials, self.settings)
        if hop is None:
            for rung in ("name resolution", "TCP", "SSH banner"):
                self.ladder.add(Rung(self.name, rung, ok=True, text="left to the ProxyCommand of ~/.ssh/config"))
            return
        host, port, limit = printable(hop.host), hop.port, self.settings.connect_timeout
        with self._rung("name resolution", f"ping -c 1 {quote(host)}") as found:
            found.append(f"{hop.what}{host} is {', '.join(resolve(hop.host, port)[:3])}")
        with self._rung("TCP", f"nc -vz {quote(host)} {port}") as found:
            line, seconds = open_tcp(hop.host, port, limit)
            found.append(f"port {port} answers within {seconds * 1000:.1f} ms")
        with line, self._rung("SSH banner", f"ssh -v -p {port} {quote(host)}") as found:
            found.append(read_banner(line, limit))

    def _login(self, cluster: Cluster, ssh: str) -> None:
        """Host key and login: one connection proves both, its error tells which of them breaks."""
        try:
            cluster.connect()
        except HostKeyError as error:
            self.ladder.breaks("host key", error, "ask who runs the machine for its key's fingerprint", self.name)
        except EmbmergeError as error:
            if isinstance(error, LoginError):  # who refuses us has shown the right key before
                self._host_key("is the one that is known")
            self.ladder.breaks("login", error, ssh, self.name)
        key = cluster.connection.transport.get_remote_server_key()
        self._host_key(f"{key.fingerprint}, as known")
        factor = ", with a second factor" if cluster.single else ""
        text = f"as {printable(cluster.connection.user)}{factor}"
        self.ladder.add(Rung(self.name, "login", ok=True, text=text))

    def _host_key(self, text: str) -> None:
        if self.accepted:
            key = self.accepted[-1]
            text = f"{key.fingerprint}, new; kept in {key.known_hosts}"
        self.ladder.add(Rung(self.name, "host key", ok=True, text=text))

    def _headers(self, cluster: Cluster, listing: Listing) -> tuple[ShardHeader, ...]:
        if not listing.shards:
            raise no_shards(cluster.name, listing)
        headers = []
        for _file, header in cluster.headers(listing.shards):
            if not isinstance(header, ShardHeader):
                raise RemoteDataError(header.message, hint=header.hint)
            headers.append(header)
        return tuple(headers)

    def _read(self, cluster: Cluster, listing: Listing) -> None:
        largest = max(listing.shards, key=lambda file: file.nbytes)
        with self._rung("16 MB read", "invoke sync --transfer plain") as found:
            nbytes, rate, trip = read_rate(cluster, largest, self.settings)
            limit = self.settings.limit_rate
            todo = missing(self.settings.embeddings, [listing])
            seconds = todo / min(rate, limit or rate)
            only = f" over {size(nbytes)}" if nbytes < READ else ""
            found.append(f"{size(rate)}/s{only}, round trip {trip * 1000:.1f} ms")
            found.append(f"{size(todo)} to sync will take {duration(seconds)}" if todo else "nothing to sync")

    def _rung(self, name: str, command: str) -> AbstractContextManager[list[str]]:
        return self.ladder.rung(name, command, self.name)

    def _listen(self, event: Event) -> None:
        if isinstance(event, HostKeyAccepted):
            self.accepted.append(event)


def _command(program: str, credentials: Credentials) -> str:
    """The ssh or sftp command that logs in as we do, as far as it has the same means."""
    port = f" {'-P' if program == 'sftp' else '-p'} {credentials.port}" if credentials.port else ""
    key = f" -i {quote(credentials.key_file)}" if credentials.key_file else ""
    gateway = f" -J {quote(credentials.gateway)}" if credentials.gateway else ""
    user = f"{credentials.username}@" if credentials.username else ""
    return f"{program}{port}{key}{gateway} {quote(user + credentials.address)}"


def missing(embeddings: Path, listings: Iterable[Listing]) -> int:
    """How many bytes a sync would download; what it could resume is not counted."""
    files = [file for listing in listings for file in listing.shards]
    try:
        here = local_files(embeddings, [file.name for file in files])
    except LocalDataError:
        here = {}
    return sum(file.nbytes for file in files if here.get(file.name) != (file.nbytes, file.mtime))

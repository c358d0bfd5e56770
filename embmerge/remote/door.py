"""The way in to one cluster: its hops, its gateway, and an authenticated connection as often as one is wanted."""

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import fabric
import paramiko

from embmerge.errors import CredentialsError
from embmerge.events import Detail, Observer
from embmerge.plaintext import printable
from embmerge.remote.credentials import SUFFIX, Credentials, load_credentials
from embmerge.remote.explained import explained
from embmerge.remote.firsthop import described
from embmerge.remote.hostkeys import KnownHosts
from embmerge.remote.login import Ask, Login
from embmerge.remote.transport import transport_factory
from embmerge.settings import Settings


@dataclass
class Door:
    """How to get in to one cluster, again and again: what `connect` needs, and what it learnt.

    `asked` is True once a second factor was asked: no further connection is possible without another one.
    """

    credentials: Credentials
    settings: Settings
    observer: Observer
    ask: Ask | None
    asked: bool = False
    route: tuple[str, ...] = ()  # the clusters that this one is the gateway of
    _secret: str | None = field(default=None, repr=False)
    _gateway: fabric.Connection | None = field(default=None, repr=False)
    _beyond: "Door | None" = field(default=None, repr=False)  # the gateway's own
    _one_gateway: threading.Lock = field(default_factory=threading.Lock, repr=False)  # for all connections

    @property
    def address(self) -> str:
        """Host, or host:port, as the person wrote it."""
        port = self.credentials.port
        return f"{self.credentials.address}:{port}" if port else self.credentials.address

    def connect(self) -> fabric.Connection:
        """One more connection: open, authenticated, kept alive.

        Raises `ConnectionLost` where another try may help, `LoginError`, `HostKeyError`, `ConnectError` or
        `CredentialsError` where it does not.
        """
        connection = described(self.credentials, gateway=self._through(), connect_kwargs={})
        hosts = KnownHosts(self.credentials.name, self.settings.credentials, self.settings.host_keys, self.observer)
        hops = [connection]
        while isinstance(hops[-1].gateway, fabric.Connection):
            hops.append(hops[-1].gateway)
        try:
            for hop in reversed(hops):  # the first one first: each is the way to the next
                if not hop.is_connected:
                    self._open(hop, hosts, own=hop is connection)
        except BaseException:
            self.hang_up(connection)
            raise
        return connection

    def secret(self) -> str | None:
        """The password; a password command is run once."""
        if self._secret is None:
            self._secret = self.credentials.secret()
        return self._secret

    def hang_up(self, connection: fabric.Connection) -> None:
        """Close a connection, and the hops that `~/.ssh/config` put before it; the common gateway stays."""
        hop: Any = connection
        while isinstance(hop, fabric.Connection) and hop is not self._gateway:
            with suppress(OSError, EOFError, paramiko.SSHException):  # the line may be gone
                hop.close()
                hop.client.close()  # the former does nothing before a login is complete
            hop = hop.gateway

    def close(self) -> None:
        """Close the common gateway, and what leads to it."""
        if self._beyond:
            if self._gateway:
                self._beyond.hang_up(self._gateway)
            self._beyond.close()

    def _through(self) -> fabric.Connection | None:
        """The connection to the gateway that the credentials name; the one we have, if it still stands."""
        if not self.credentials.gateway:
            return None
        with self._one_gateway:
            self._beyond = self._beyond or self._gateway_door(self.credentials.gateway)
            if self._gateway is None or not self._gateway.is_connected:
                if self._gateway:
                    self._beyond.hang_up(self._gateway)
                self._gateway = self._beyond.connect()
                self.asked = self.asked or self._beyond.asked
            return self._gateway

    def _gateway_door(self, name: str) -> "Door":
        """How to get in to the gateway: a cluster with credentials of its own, or any host."""
        route = (*self.route, self.credentials.name)
        if (self.settings.credentials / f"{name}{SUFFIX}").exists():
            if name in route:
                raise CredentialsError(
                    f"the gateways go in a circle: {' → '.join((*route, name))}",
                    hint=f"remove `gateway` from the credentials of {name}",
                )
            credentials = load_credentials(name, self.settings.credentials, self.observer)
        else:
            credentials = Credentials(name=name, address=name)
        return Door(credentials, self.settings, self.observer, self.ask, route=route)

    def _open(self, hop: fabric.Connection, hosts: KnownHosts, *, own: bool) -> None:
        settings, where = self.settings, f"{hop.host}:{hop.port}"
        identities = hop.connect_kwargs.pop("key_filename", [])
        login = Login(self, hop, identities, own=own)
        hop.connect_kwargs.update(
            transport_factory=transport_factory,
            auth_strategy=login,
            banner_timeout=settings.connect_timeout,
            auth_timeout=max(settings.connect_timeout, settings.stall_timeout),
            channel_timeout=settings.stall_timeout,
        )
        hop.connect_timeout = settings.connect_timeout
        hosts.guard(hop.client)
        try:
            hop.open()
        except Exception as error:
            if meant := explained(error, hop, hosts, self.credentials.name):
                raise meant from error
            raise
        hop.transport.set_keepalive(max(1, round(settings.keepalive)))
        self.asked = self.asked or login.asked
        cipher = printable(str(getattr(hop.transport, "remote_cipher", "?")))
        self.observer(Detail(f"logged in at {where} as {printable(hop.user)}, {cipher}", self.credentials.name))

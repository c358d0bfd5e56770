"""Which machine is connected to first: the cluster itself, or the gateway on the way to it."""

import getpass
import os
from dataclasses import dataclass
from typing import Any

import fabric
import paramiko

from embmerge.errors import CredentialsError
from embmerge.plaintext import printable
from embmerge.remote.credentials import SUFFIX, Credentials, load_credentials
from embmerge.settings import Settings


@dataclass(frozen=True)
class Hop:
    """A host and port to open; `what` is 'gateway ' or ''."""

    host: str
    port: int
    what: str = ""


def first_hop(credentials: Credentials, settings: Settings) -> Hop | None:
    """The first machine on the way, by the credentials and `~/.ssh/config`; None behind a ProxyCommand.

    Raises `CredentialsError` for an address that is none, and if the gateway's own credentials are broken. Nothing is
    connected.
    """
    seen = {credentials.name}
    what = ""
    while credentials.gateway and credentials.gateway not in seen:
        name, what = credentials.gateway, "gateway "
        seen.add(name)
        if (settings.credentials / f"{name}{SUFFIX}").exists():
            credentials = load_credentials(name, settings.credentials)
        else:
            credentials = Credentials(name=name, address=name)
    hop = described(credentials)
    while isinstance(hop.gateway, fabric.Connection):
        hop, what = hop.gateway, "gateway "
    return None if hop.gateway else Hop(hop.host, hop.port, what)


def described(credentials: Credentials, **more: Any) -> fabric.Connection:
    """The connection, not yet open, with everything that `~/.ssh/config` says about it. Raises `CredentialsError`."""
    given, address = credentials, printable(credentials.address)
    if given.username and "@" in given.address:
        raise CredentialsError(f"{given.name}: address {address} has a user in it, and username is another one")
    try:
        getpass.getuser()  # which fabric and paramiko do, whoever is to log in
    except (KeyError, OSError):  # the latter since Python 3.13
        raise CredentialsError(
            f"{given.name}: the user {os.getuid()}, who runs this, has no name on this machine",
            hint="name one: USER=somebody invoke doctor",
        ) from None
    try:
        config = fabric.Config(overrides={"timeouts": {"connect": None}})
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise CredentialsError(
            f"{given.name}: ~/.ssh/config cannot be read: {printable(str(error))}", hint="does ssh take it? ssh -G host"
        ) from None
    try:
        return fabric.Connection(given.address, user=given.username, port=given.port, config=config, **more)
    except RecursionError:
        raise CredentialsError(
            f"{given.name}: by ~/.ssh/config the way to {address} leads through itself", hint="look at ProxyJump there"
        ) from None
    except (OSError, ValueError, paramiko.SSHException) as error:
        why = printable(str(error))
        raise CredentialsError(f"{given.name}: {address} cannot be an address (with ~/.ssh/config): {why}") from None

"""Which machine is connected to first: the cluster itself, or the gateway on the way to it."""

from dataclasses import dataclass

import fabric

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

    Raises `CredentialsError` if the gateway's own credentials are broken. Nothing is connected.
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
    hop = fabric.Connection(
        credentials.address, user=credentials.username, port=credentials.port, config=fabric.Config()
    )
    while isinstance(hop.gateway, fabric.Connection):
        hop, what = hop.gateway, "gateway "
    return None if hop.gateway else Hop(hop.host, hop.port, what)

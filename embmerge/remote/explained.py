"""What errors of paramiko and of the system mean to somebody who wants to log in, and what to do about them."""

import re
import socket
from contextlib import suppress

import fabric
import paramiko

from embmerge.errors import ConnectError, ConnectionLost, EmbmergeError, LoginError, Unreached
from embmerge.plaintext import printable
from embmerge.remote.hostkeys import KnownHosts
from embmerge.settings import expanded

# RFC 4254, 5.1: why a channel was not opened; a machine behind the gateway that is starting again is no refusal
_CONNECT_FAILED, _RESOURCE_SHORTAGE = 2, 4


def explained(  # noqa: C901, PLR0911  a table, with a row for each
    error: BaseException, hop: fabric.Connection, hosts: KnownHosts, name: str
) -> EmbmergeError | None:
    """What an error of paramiko's or the system's means; None if it is neither's."""
    where = f"{printable(hop.host)}:{hop.port}"
    if isinstance(error, paramiko.BadHostKeyException):
        return hosts.changed(error, hop.port)
    if isinstance(error, socket.gaierror | UnicodeError):
        hint = "is the address spelled right, is the VPN up? invoke doctor tells more"
        if _includes():
            hint += "; an alias must stand in ~/.ssh/config itself, what that includes is not read"
        return Unreached(f"{name}: unknown host name {printable(hop.host)}", hint=hint)
    if isinstance(error, OSError) and error.filename is not None and isinstance(hop.gateway, str):
        why = f"{error.strerror}: {printable(str(error.filename))}"
        return ConnectError(f"{name}: the ProxyCommand of ~/.ssh/config for {where} cannot be run: {why}")
    if isinstance(error, paramiko.ChannelException):
        passes = error.code in (_CONNECT_FAILED, _RESOURCE_SHORTAGE)
        return (Unreached if passes else ConnectError)(
            f"{name}: the gateway does not let us through to {where}: {printable(error.text)}"
        )
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"{name}: time-out: no answer from {where}", hint="is the VPN up? is a firewall between?")
    if isinstance(error, ConnectionRefusedError | paramiko.ssh_exception.NoValidConnectionsError):
        return Unreached(f"{name}: connection refused by {where}", hint="is the port right, is its SSH server running?")
    text = printable(str(error), 120)
    if isinstance(error, paramiko.SSHException) and "too many authentication failures" in text.lower():
        return LoginError(
            f"{name}: too many authentication failures at {where}",
            hint="your agent offers too many keys: name the right one as `key_file` in the credentials",
        )
    if isinstance(error, paramiko.AuthenticationException):
        return LoginError(f"{name}: authentication failed at {where}: {text}")
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return ConnectError(
            f"{name}: {where} speaks no SSH that we do: {text}",
            hint="ask who runs it to allow aes256-gcm@openssh.com and curve25519-sha256, which OpenSSH does by default",
        )
    if isinstance(error, OSError | EOFError | paramiko.SSHException):
        reason = error.strerror if isinstance(error, OSError) and error.strerror else text or "closed by the server"
        return ConnectionLost(
            f"{name}: connection lost at {where}: {reason}", hint="invoke doctor tells where it breaks"
        )
    return None


def _includes() -> bool:
    """Whether `~/.ssh/config` goes on in other files, which paramiko does not look into."""
    with suppress(OSError):
        text = expanded("~/.ssh/config").read_text(encoding="utf-8", errors="replace")
        return bool(re.search(r"^\s*include\b", text, re.IGNORECASE | re.MULTILINE))
    return False

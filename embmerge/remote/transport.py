"""The SSH transport that every connection uses: AES-GCM first, small packets at once.

Given to Fabric as `connect_kwargs={"transport_factory": transport_factory}`.
"""

import logging
import socket
from typing import Any

import paramiko

# One pass in hardware instead of cipher and HMAC. paramiko knows both, but puts them last.
AES_GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")

# A dropped line is reported by whoever uses it; paramiko would print tracebacks where nobody has set up logging.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def transport_factory(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A paramiko transport over `sock`, a socket or a channel of a gateway's connection.

    `kwargs` are those that paramiko's `SSHClient.connect` gives to a transport.
    """
    if isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a request for data must not wait for an answer
    transport = paramiko.Transport(sock, **kwargs)
    _keep_farewell(transport)
    options = transport.get_security_options()
    gcm = tuple(cipher for cipher in AES_GCM if cipher in options.ciphers)  # paramiko of old had none
    options.ciphers = gcm + tuple(cipher for cipher in options.ciphers if cipher not in gcm)
    return transport


def _keep_farewell(transport: paramiko.Transport) -> None:
    """Make the words with which a server hangs up the transport's exception: paramiko only logs them.

    "Too many authentication failures" would otherwise look like a line that dropped.
    """
    public = transport.logger
    level = min(logging.INFO, public.getEffectiveLevel())
    private = logging.Logger(public.name, level)  # noqa: LOG001  getLogger would keep one a connection for ever
    private.parent = public

    def listen(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith("Disconnect (code "):
            transport.saved_exception = paramiko.SSHException(text.partition("): ")[2] or "closed by the server")
        return bool(public.isEnabledFor(record.levelno))

    private.addFilter(listen)
    transport.logger = private


def without_gcm(transport: paramiko.Transport) -> str:
    """The cipher that was agreed on if it is a slow one, else ''."""
    cipher = str(getattr(transport, "remote_cipher", ""))
    return "" if cipher in AES_GCM else cipher

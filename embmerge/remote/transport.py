"""The SSH transport that every connection uses: AES-GCM first, small packets at once.

Given to Fabric as `connect_kwargs={"transport_factory": transport_factory}`.
"""

import logging
import socket
import threading
import time
from typing import Any

import paramiko
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.common import MSG_SERVICE_REQUEST

from embmerge.remote.packets import Packets, ReadAhead

# One pass in hardware instead of cipher and HMAC. paramiko knows both, but puts them last.
AES_GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")

_PATIENCE = 30.0  # seconds for the first answer, where nothing else is set
_LOOK = 0.002  # seconds between two looks for it

# A dropped line is reported by whoever uses it; paramiko would print tracebacks where nobody has set up logging.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _AuthHandler(AuthOnlyHandler):  # type: ignore[misc]  # paramiko has no types
    """paramiko's, which begins to listen for the answer when it has asked, and now and then misses a quick one."""

    _answered: threading.Event | None = None

    def send_auth_request(self, username: str, method: str, finish_message: Any = None) -> Any:
        """Ask, and wait for the answer."""
        self._answered = threading.Event()
        return super().send_auth_request(username, method, finish_message)

    @property
    def auth_event(self) -> threading.Event | None:
        """What is set when the answer comes: the one from before the question, whatever paramiko makes after it."""
        return self._answered

    @auth_event.setter
    def auth_event(self, _event: threading.Event | None) -> None:
        pass

    def wait_for_response(self, _event: threading.Event) -> Any:
        """The answer."""
        return super().wait_for_response(self._answered)


class Transport(paramiko.ServiceRequestingTransport):  # type: ignore[misc]  # paramiko has no types
    """paramiko's transport that asks for the login service once, not once a try: some servers hang up at the second.

    paramiko's own wait for the answer has no end, and looks ten times a second.
    """

    def get_auth_handler(self) -> AuthOnlyHandler:
        """Who asks for the login and hears the answer."""
        return _AuthHandler(self)

    def ensure_session(self) -> None:
        """Ask for the login service, unless that is done."""
        if self._service_userauth_accepted:
            return
        message = paramiko.Message()
        message.add_byte(bytes((MSG_SERVICE_REQUEST,)))
        message.add_string("ssh-userauth")
        self._send_message(message)
        deadline = time.monotonic() + (self.auth_timeout or _PATIENCE)
        while not self._service_userauth_accepted:
            if not self.is_active():
                raise self.get_exception() or EOFError("closed by the server")
            if time.monotonic() > deadline:
                raise paramiko.SSHException("no answer to the request to log in")
            time.sleep(_LOOK)
        self.auth_handler: Any = self.get_auth_handler()

    def auth_none(self, username: str) -> list[str]:
        """Ask what the server takes; paramiko's own version trips over a callback that it was not given."""
        self.ensure_session()
        further: list[str] = self.auth_handler.send_auth_request(username, "none", lambda _message: None)
        return further


def transport_factory(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A paramiko transport over `sock`, a socket or a channel of a gateway's connection.

    `kwargs` are those that paramiko's `SSHClient.connect` gives to a transport.
    """
    if isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a request must not wait for an answer
    transport = Transport(ReadAhead(sock), packetizer_class=Packets, **kwargs)
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

"""How an SFTP session begins and how one knows that it is over, whoever speaks in it: paramiko leaves both open."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from embmerge.errors import ConnectError, ConnectionLost
from embmerge.plaintext import printable

_OPEN_FAILED = 2  # RFC 4254, 5.1: SSH_OPEN_CONNECT_FAILED
_SILENCE = 0.9  # of the time that is given: a session that has not begun by then was answered by nobody
_MOMENT = 1.0  # seconds in which a line that is gone is known to be


@contextmanager
def beginning(transport: paramiko.Transport, seconds: float) -> Iterator[None]:
    """The body begins an SFTP session; the transport is closed if it takes longer, since some of paramiko's waits do.

    Raises `paramiko.ChannelException` if the server ends the session at once, or says something else: it has no SFTP.
    """
    began = time.monotonic()
    timer = threading.Timer(seconds, transport.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    except paramiko.ChannelException:
        raise
    except paramiko.SFTPError as error:
        raise paramiko.ChannelException(
            _OPEN_FAILED, "what comes there is no SFTP: does the login print text?"
        ) from error
    except (paramiko.SSHException, EOFError, OSError, ConnectionLost) as error:
        timer.cancel()
        if time.monotonic() - began > _SILENCE * seconds:  # paramiko has a time-out of its own
            transport.close()
        transport.join(_MOMENT)  # a line that is gone ends its sessions first
        if transport.is_active():
            raise paramiko.ChannelException(_OPEN_FAILED, "it has no SFTP there") from error
        raise
    finally:
        timer.cancel()


def is_over(client: paramiko.SFTPClient) -> bool:
    """Whether the session of paramiko's own client has ended: it tells so as if something were wrong with a file.

    Asking is an `OSError` then that names no reason, and reading finds the file's end; both may come a moment before
    the transport knows that the line is gone.
    """
    channel = client.get_channel()
    return bool(channel.closed or channel.eof_received)


def no_session(name: str, error: paramiko.ChannelException) -> ConnectError:
    """The error for a server that lets us in, and then opens no session or runs no SFTP in it."""
    return ConnectError(
        f"{name}: the server opens no session: {printable(error.text)}",
        hint="does sftp work there? ask who runs it about MaxSessions and Subsystem sftp in sshd_config",
    )

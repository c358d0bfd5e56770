"""SFTP with many requests on the way at once, over one channel of a paramiko transport.

paramiko's own client asks for 32 KB at a time, takes every payload through four copies and two threads, and waits for
the answer to all but reads. Here requests are sent as they come, an answer goes to the function that was given with
the request, and the bytes of a file go from the transport's thread straight to their place.

A channel is used by one thread. Its functions are called in that thread, by `wait()`; only a `Sink` is called in the
transport's thread. Nothing of paramiko but public names is used; the one liberty is that `Channel.in_buffer` is ours.
"""

import errno
import itertools
import math
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import paramiko

from embmerge.errors import ConnectionLost
from embmerge.plaintext import printable
from embmerge.remote import answers
from embmerge.remote.files import RemoteStat
from embmerge.remote.inbox import DATA, VERSION, VERSION_ID, Inbox, Read, Reply, Sink, WireError
from embmerge.remote.packets import Packets, Taker
from embmerge.remote.session import beginning

__all__ = ["Read", "SftpChannel", "Sink", "WireError"]

INIT, OPEN, CLOSE, READ, OPENDIR, READDIR, REALPATH, STAT = 1, 3, 4, 5, 11, 12, 16, 17

LARGEST_READ = 255 * 1024  # OpenSSH answers at most 256 KB, headers included
SMALLEST_READ = 32 * 1024  # every server answers that
MOST_ENTRIES = 100_000  # of a directory
WINDOW = 512 << 20  # what a server may send before we say that it arrived: what is asked for is the bound, not this

_HEAD, _PLACE = struct.Struct(">IBI"), struct.Struct(">QI")  # of every request; of a read: offset and length

Item = TypeVar("Item")
Then = Callable[[Any], None]


class SftpChannel:
    """One SFTP session on an authenticated transport.

    Raises `ConnectionLost` if the line is gone or stays silent for `stall_timeout` seconds while an answer is due,
    `WireError` if the server or paramiko does something that this class does not understand, and paramiko's
    `ChannelException` if the server takes no further session on this connection.
    """

    def __init__(self, transport: paramiko.Transport, *, stall_timeout: float) -> None:
        self._stall_timeout = stall_timeout
        self._ids = itertools.count(1)
        self._then: dict[int, Then] = {}
        self._outgoing: list[bytes] = []
        self._transport = transport
        self.largest_read = LARGEST_READ
        self.round_trip = math.inf  # seconds, the shortest so far
        self._inbox = Inbox(wake_at=WINDOW // 16)
        try:
            with beginning(transport, stall_timeout):
                self._channel = transport.open_session(window_size=WINDOW, timeout=stall_timeout)
                self._begin()
        except paramiko.ChannelException:
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error

    def _begin(self) -> None:
        channel = self._channel
        if any(not hasattr(getattr(channel, "in_buffer", None), name) for name in ("feed", "read", "close")):
            raise WireError("this paramiko keeps what arrives in another way")
        channel.in_buffer = self._inbox
        self._deliver(self._inbox.feed_all)
        channel.invoke_subsystem("sftp")
        channel.sendall(struct.pack(">IBI", 5, INIT, 3))
        answer: list[Reply] = []
        self._then[VERSION_ID] = answer.append
        while not answer:
            self.wait(self._stall_timeout)
        if answer[0].kind != VERSION:
            raise WireError("the server does not begin as SFTP does")

    @property
    def waiting_for(self) -> int:
        """How many requests have no answer yet."""
        return len(self._then)

    def open(self, path: str, then: Callable[[bytes | OSError], None]) -> None:
        """Open a file for reading; `then` gets its handle or what the server has against it."""
        name = os.fsencode(path)
        body = _text(name) + struct.pack(">II", 1, 0)  # SSH_FXF_READ, no attributes
        self._ask(OPEN, body, lambda reply: then(answers.handle(reply, path)))

    def stat(self, path: str, then: Callable[[RemoteStat | OSError], None]) -> None:
        """Ask what `path` is now, symbolic links followed."""
        self._ask(STAT, _text(os.fsencode(path)), lambda reply: then(answers.attributes(reply, path)))

    def close_file(self, handle: bytes) -> None:
        """Give a handle back; nobody waits for the answer."""
        self._ask(CLOSE, _text(handle), lambda _reply: None)

    def read(self, handle: bytes, reads: Sequence[Read], then: Callable[[OSError | None], None]) -> None:
        """Ask for the bytes of `reads`, all of one file; `then` gets None when all are in their sinks.

        If some cannot be had, it gets the first such `OSError` when all are answered. `EOFError` is not among them: a
        file that ends earlier is an `OSError` with `errno.ENODATA`.
        """
        name, errors, due = _text(handle), [], len(reads)

        def ask(read: Read) -> None:
            start, length = read.offset + read.received, read.length - read.received
            self._ask(READ, name + _PLACE.pack(start, length), answered, read)

        def answered(reply: Reply) -> None:
            nonlocal due
            read = reply.read
            if reply.kind == DATA and read and read.received < read.length:  # it ends, or no more is given at once
                if reply.nbytes >= SMALLEST_READ:
                    self.largest_read = min(self.largest_read, reply.nbytes)
                return ask(read)
            if reply.kind != DATA:
                errors.append(answers.problem(reply, "read"))
            due -= 1
            return None if due else then(errors[0] if errors else None)

        for read in reads:
            ask(read)

    def stats(self, paths: Sequence[str]) -> list[RemoteStat | OSError]:
        """What each of `paths` is now, in one round trip."""
        return self._gather(self.stat, paths)

    def listing(self, path: str) -> tuple[str, list[tuple[str, RemoteStat | OSError]]]:
        """The absolute path of a directory, and what is in it, in a few round trips. Raises `OSError`.

        Where there is more than `MOST_ENTRIES`, only so much is given.
        """
        replies: dict[str, Reply] = {}
        raw = _text(os.fsencode(path))
        self._ask(REALPATH, raw, partial(replies.__setitem__, "path"))
        self._ask(OPENDIR, raw, partial(replies.__setitem__, "handle"))
        while len(replies) < 2:  # noqa: PLR2004  both
            self.wait(self._stall_timeout)
        handle = _or_raise(answers.handle(replies["handle"], path))
        absolute = _or_raise(answers.absolute(replies["path"], path))
        found: list[tuple[str, RemoteStat | OSError]] = []
        while True:  # one part after the other: not every server answers two questions about a handle at once
            (reply,) = self._gather(lambda opened, then: self._ask(READDIR, _text(opened), then), [handle])
            part = answers.names(reply, path)
            if isinstance(part, OSError):
                break
            found += part
            if len(found) > MOST_ENTRIES:
                break
        self.close_file(handle)
        if isinstance(part, OSError) and part.errno != errno.ENODATA:
            raise part
        return absolute, found

    def read_blocks(self, blocks: Sequence[tuple[str, int, int]]) -> list[bytes | OSError]:
        """The bytes of each block (path, offset, length), all in two round trips; fewer bytes where a file ends.

        For headers and the like: every block is held in memory, and is short (at most some 100 KB).
        """
        paths = list(dict.fromkeys(path for path, _, _ in blocks))
        opened = self._gather(self.open, paths)
        handles = dict(zip(paths, opened, strict=True))
        read = self._gather(lambda block, then: self._block(handles[block[0]], block, then), blocks)
        for handle in handles.values():
            if isinstance(handle, bytes):
                self.close_file(handle)
        return read

    def _block(self, handle: bytes | OSError, block: tuple[str, int, int], then: Then) -> None:
        """Read one block into memory."""
        _, offset, length = block
        if isinstance(handle, OSError):
            return then(handle)
        kept = bytearray()

        def finish(error: OSError | None) -> None:
            then(error if error and error.errno != errno.ENODATA else bytes(kept))

        return self.read(handle, [Read(offset, length, lambda _offset, parts: kept.extend(b"".join(parts)))], finish)

    def _gather(self, ask: Callable[[Item, Then], None], items: Sequence[Item]) -> list[Any]:
        """Ask about all items at once; the answers in the same order."""
        given: dict[int, Any] = {}
        for number, item in enumerate(items):
            ask(item, partial(given.__setitem__, number))
        while len(given) < len(items):
            self.wait(self._stall_timeout)
        return [given[number] for number in range(len(items))]

    def wait(self, timeout: float, patience: int = 1) -> None:
        """Send what was asked for, then hand out the answers that came; return after `timeout` seconds without any.

        Answers of whole reads are worth waking up for when there are `patience` of them.
        """
        try:
            asked = self._send()
            if not self._then:
                return
            self._inbox.patience = min(patience, len(self._then))
            self._channel.settimeout(timeout)
            self._channel.recv(WINDOW)  # blocks until the inbox has something, and tells the server how much arrived
        except TimeoutError:  # (OSError's child: first)
            pass
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost(error) from error
        replies = self._inbox.take()
        if replies:
            self.round_trip = min(self.round_trip, time.monotonic() - asked)
        for reply in replies:
            then = self._then.pop(reply.number, None)
            if then is None:
                raise WireError("the server answers what nobody asked")
            then(reply)
        if self._inbox.failure:
            raise self._inbox.failure
        if self._inbox.closed:
            raise self._lost(None)
        if self._then and self._inbox.silent_for() > self._stall_timeout:
            self._transport.close()  # whoever comes next must not wait for it again
            raise ConnectionLost(f"no byte for {self._stall_timeout:g} s")

    def _send(self) -> float:
        """Send what was asked for; the time, if no answer to anything older is due, else minus infinity."""
        asked = time.monotonic() if len(self._outgoing) == len(self._then) else -math.inf
        if self._outgoing:
            packets, self._outgoing = b"".join(self._outgoing), []
            self._inbox.listen()
            self._channel.settimeout(self._stall_timeout)
            try:
                self._channel.sendall(packets)
            except TimeoutError:  # some of it may be on its way: nothing that follows would be understood
                self._transport.close()
                raise ConnectionLost(f"the server takes no requests for {self._stall_timeout:g} s") from None
        return asked

    def _deliver(self, taker: Taker | None) -> None:
        """Have our packets, where they are ours, bring the data without paramiko."""
        packets = self._transport.packetizer
        if isinstance(packets, Packets):
            packets.deliver(self._channel.get_id(), taker)

    def close(self) -> None:
        """End the session. When this returns, no sink is written to any more."""
        self._inbox.shut()
        self._deliver(None)
        with suppress(OSError, EOFError, paramiko.SSHException):  # the line may be gone
            self._channel.close()

    def _ask(self, kind: int, body: bytes, then: Then, read: Read | None = None) -> None:
        number = next(self._ids) & 0x7FFFFFFF
        self._then[number] = then
        if read:
            self._inbox.expect(number, read)
        self._outgoing.append(_HEAD.pack(5 + len(body), kind, number) + body)

    def _lost(self, error: BaseException | None) -> ConnectionLost:
        cause = self._transport.get_exception() or error
        text = printable(str(cause)) if cause and str(cause) else "closed by the server"
        return ConnectionLost(f"connection lost: {text}")


def _text(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _or_raise(answer: Item | OSError) -> Item:
    if isinstance(answer, OSError):
        raise answer
    return answer

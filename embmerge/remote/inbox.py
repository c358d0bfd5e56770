"""What an SFTP server answers, taken apart as it arrives, in the thread of the transport.

An `Inbox` stands in for the buffer of a paramiko channel. paramiko feeds it with whatever came in a packet. Bytes of a
file go on to the `Sink` of the read that asked for them, without a copy, and once for all packets of an answer: each
write hands Python's lock around. Anything else is kept until its end.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from paramiko.buffered_pipe import PipeTimeout

DATA, VERSION = 103, 2
VERSION_ID = 0  # the first answer carries no request's number; requests count from 1

_HEAD = 9  # length, kind, number
_DATA_HEAD = 13  # and the length of the data
_MOST = 100_000  # answers that nobody has taken: more than a cluster has shards
_LONGEST = 256 * 1024  # of an answer that is kept; OpenSSH sends nothing longer


class WireError(Exception):
    """The server (or paramiko) does something that is not understood here; another reader may cope."""


class Sink(Protocol):
    """Where the bytes of a file go; called in the transport's thread."""

    def __call__(self, offset: int, parts: Sequence[memoryview], /) -> None:
        """Put `parts`, one after the other, at `offset` of the file."""


@dataclass(eq=False)
class Read:
    """One request for `length` bytes at `offset` of an open file; `received` of them are in `sink` by now."""

    offset: int
    length: int
    sink: Sink
    received: int = 0


class Reply(NamedTuple):
    """One answer: its kind, the number of the request, what follows them; `nbytes` is set for data instead.

    `read` is what it answers, if it was asked for with `expect`.
    """

    kind: int
    number: int
    body: bytes = b""
    nbytes: int = 0
    read: Read | None = None


class Inbox:
    """Answers by the side of the transport's thread (`feed`, `close`) and by that of the channel's user (the rest).

    `read` is what `Channel.recv` calls. It gives back an object as long as what arrived: paramiko measures it, to tell
    the server how much more it may send, and looks no closer. It returns when there are answers to take (of reads that
    are whole: `patience` of them), or at least every `wake_at` bytes.
    """

    def __init__(self, wake_at: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._wake_at = wake_at
        self._clock = clock
        self._news = threading.Condition()
        self._head = bytearray()
        self._need = _HEAD
        self._reads: dict[int, Read] = {}
        self._reading: Read | None = None
        self._parts: list[memoryview] = []  # of `_reading`, on their way to its sink
        self._number = self._left = self._nbytes = 0
        self._replies: list[Reply] = []
        self._urgent = False  # whether one of them is worth waking up for by itself
        self.patience = 1
        self._unacknowledged = 0
        self._heard = clock()
        self._shut = False
        self.closed = False
        self.failure: Exception | None = None

    # --- the transport's thread

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the channel. Nothing is raised here: it would end the whole transport."""
        self.feed_all([memoryview(data)])

    def feed_all(self, parts: Sequence[memoryview]) -> None:
        """The same for what came in several packets."""
        with self._news:
            if self._shut or self.failure:
                return
            self._heard = self._clock()
            try:
                for data in parts:
                    self._unacknowledged += len(data)
                    self._parse(data)
            except Exception as error:  # noqa: BLE001  raised in the user's thread instead
                self.failure = error
            if self._has_news():
                self._news.notify()

    def close(self) -> None:
        """The channel is at its end; what came before may still be taken."""
        with self._news:
            self._hand_over()
            self.closed = True
            self._news.notify()

    # --- the user's thread

    def expect(self, number: int, read: Read) -> None:
        """The data of request `number` go to `read.sink`."""
        self._reads[number] = read  # before it is asked for; a dict needs no lock for that

    def listen(self) -> None:
        """Something was asked just now: silence counts from here."""
        self._heard = self._clock()

    def silent_for(self) -> float:
        """Seconds since the last byte or the last request."""
        return self._clock() - self._heard

    def read(self, _nbytes: int, timeout: float | None = None) -> range:
        """Wait for news; raises paramiko's `PipeTimeout` after `timeout` seconds without."""
        with self._news:
            if not self._news.wait_for(self._has_news, timeout):
                raise PipeTimeout
            arrived, self._unacknowledged = self._unacknowledged, 0
            return range(arrived)

    def take(self) -> list[Reply]:
        """The answers that are complete."""
        with self._news:
            replies, self._replies = self._replies, []
            self._urgent = False
            return replies

    def shut(self) -> None:
        """Forget whatever still arrives. When this returns, no sink is in use and none will be."""
        with self._news:
            self._hand_over()
            self._shut = True

    def read_ready(self) -> bool:
        """Part of what paramiko's buffers offer."""
        return self._has_news()

    def __len__(self) -> int:
        return self._unacknowledged

    # --- taking apart

    def _has_news(self) -> bool:
        enough = self._urgent or len(self._replies) >= self.patience or self._unacknowledged >= self._wake_at
        return bool(enough or self.closed or self.failure)

    def _parse(self, data: memoryview) -> None:
        while data:
            if self._reading and len(data) < self._left:  # as good as always, so it is kept short
                self._parts.append(data)
                self._left -= len(data)
                return
            if self._reading:
                data = self._complete(self._reading, data)
                continue
            missing = self._need - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) == self._need:
                self._advance()

    def _complete(self, read: Read, data: memoryview) -> memoryview:
        """The rest of an answer is here; returns what follows it."""
        self._parts.append(data[: self._left])
        self._hand_over()
        self._replies.append(Reply(DATA, self._number, nbytes=self._nbytes, read=read))
        self._urgent |= read.received < read.length
        self._reading = None
        return data[self._left :]

    def _hand_over(self) -> None:
        """Give to the sink what has come for it."""
        read, parts, self._parts = self._reading, self._parts, []
        if read and parts and not self.failure:
            try:
                read.sink(read.offset + read.received, parts)
                read.received += sum(map(len, parts))
            except Exception as error:  # noqa: BLE001  raised in the user's thread instead
                self.failure = error

    def _advance(self) -> None:
        """`_head` holds as much as was needed: decide whether that is an answer, or how much more is."""
        head = self._head
        length, kind, number = int.from_bytes(head[:4], "big"), head[4], int.from_bytes(head[5:9], "big")
        if kind == DATA and len(head) < _DATA_HEAD:
            self._need = _DATA_HEAD
        elif kind == DATA:
            self._begin_data(number, int.from_bytes(head[9:], "big"), length)
        elif not _HEAD - 4 <= length <= _LONGEST:
            raise WireError(f"an answer of {length} bytes")
        elif len(head) < 4 + length:
            self._need = 4 + length
        else:
            if len(self._replies) >= _MOST:
                raise WireError("answer after answer that nobody asked for")
            self._restart()
            self._urgent = True
            read = self._reads.pop(number, None)
            self._replies.append(Reply(kind, VERSION_ID if kind == VERSION else number, bytes(head[9:]), read=read))

    def _begin_data(self, number: int, nbytes: int, length: int) -> None:
        read = self._reads.pop(number, None)
        if read is None or length != nbytes + _DATA_HEAD - 4 or not 0 < nbytes <= read.length - read.received:
            raise WireError("data that nobody asked for")
        self._restart()
        self._reading, self._number, self._left, self._nbytes = read, number, nbytes, nbytes

    def _restart(self) -> None:
        self._head = bytearray()
        self._need = _HEAD

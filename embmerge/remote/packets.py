"""Packets of SSH, taken out of what arrives with as little ado as Python allows.

paramiko copies a packet six times and asks the socket twice for it. With AES-GCM, where the length of a packet can be
read before anything is decrypted, many packets are taken here from one large receive, and the bytes of an SFTP channel
go straight to whoever asked for them. Everything else, and every other cipher, is left to paramiko.

The cipher is that of RFC 5647 as OpenSSH uses it: 4 bytes of length in the clear, the packet, 16 bytes of tag.
"""

import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import NeedRekeyException, Packetizer

_AHEAD = 512 * 1024  # bytes of one receive
_LONGEST = 256 * 1024  # bytes of a packet; OpenSSH's own limit (PACKET_MAX_SIZE)
_SHORT = 4096  # bytes: an answer, rather than a part of a file
_LENGTH, _TAG = 4, 16  # bytes
_A_WHILE = 100  # milliseconds; as long as paramiko lets a socket wait, to look around
_COUNTER = 1 << 64
_HEAD = struct.Struct(">BBII")  # before the data of a channel: padding length, kind, channel, length

# One transport at a time takes what it has received, for as long as more is there already. Decrypting, hashing and
# writing give Python's lock away; where several threads do so for every packet, they spend more time on passing the
# lock around than on the packets. Meanwhile the other connections' data wait in the system's buffers.
_turn = threading.Lock()
_A_TURN = 0.05  # seconds; then the others have theirs
_WITHOUT = 0.5  # seconds to wait for a turn: a disk that hangs under one connection must not silence the others

Taker = Callable[[Sequence[memoryview]], None]


class ReadAhead:
    """A socket, or a channel that serves as one, that is asked for much at a time; each call gives Python's lock away.

    Only the transport's thread receives.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_AHEAD))
        self._at = self._end = 0
        # paramiko waits a tenth of a second for a ProxyCommand to fill all the room, and for ever when it has ended
        self._pipe = sock.process.stdout.fileno() if isinstance(sock, paramiko.ProxyCommand) else None
        self._arrivals = select.poll()
        if isinstance(sock, socket.socket):
            self._arrivals.register(sock, select.POLLIN)
        elif self._pipe is not None:
            self._arrivals.register(self._pipe, select.POLLIN)

    def recv(self, nbytes: int) -> bytes:
        """As a socket's: waits only if nothing is here."""
        if self._at == self._end:
            self.receive()
        part = bytes(self._buffer[self._at : min(self._end, self._at + nbytes)])
        self._at += len(part)
        return part

    def packet(self) -> tuple[memoryview, memoryview] | None:
        """The length of the next packet as it stands there, and the rest with its tag; None if not all of it is here.

        Both are valid until the next receive.
        """
        start = self._at + _LENGTH
        if start > self._end:
            return None
        head = self._buffer[self._at : start]
        length = int.from_bytes(head, "big")
        if not _TAG <= length <= _LONGEST:
            raise paramiko.SSHException(f"a packet of {length} bytes")
        end = start + length + _TAG
        if end > self._end:
            return None
        self._at = end
        return head, self._buffer[start:end]

    def receive(self, *, wait: bool = True) -> int:
        """Receive what comes, behind what is here; 0 at the end. Raises as `recv` of a socket.

        Without `wait`, 0 as well if nothing has come so far.
        """
        if not wait and not self._has_come():
            return 0
        rest = self._end - self._at
        self._buffer[:rest] = self._buffer[self._at : self._end]
        self._at, self._end = 0, rest
        room = self._buffer[rest:]
        if isinstance(self._sock, socket.socket):
            received = self._sock.recv_into(room)
            if received < _SHORT:
                _acknowledge(self._sock)
        elif self._pipe is not None:
            if not self._arrivals.poll(_A_WHILE):
                raise TimeoutError
            received = os.readv(self._pipe, [room])
        else:
            data = self._sock.recv(len(room))
            received = len(data)
            room[:received] = data
        self._end += received
        return received

    def _has_come(self) -> bool:
        if isinstance(self._sock, socket.socket) or self._pipe is not None:
            return bool(self._arrivals.poll(0))
        return isinstance(self._sock, paramiko.Channel) and bool(self._sock.recv_ready())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Packets(Packetizer):  # type: ignore[misc]  # paramiko has no types
    """paramiko's packets, of which those with data for a known channel go to their taker and not through paramiko."""

    def __init__(self, sock: ReadAhead) -> None:
        super().__init__(sock)
        self._ahead = sock
        self._takers: dict[int, Taker] = {}
        self._gcm: Any = None
        self._salt, self._counter = b"", 0
        self._number = 0  # of the next packet that comes in
        self._nbytes = self._packets = 0  # since the keys were agreed on
        self._closed = False

    def deliver(self, channel: int, taker: Taker | None) -> None:
        """Have `taker` called, in the transport's thread, with the data of `channel` (our number); None: as ever."""
        if taker:
            self._takers[channel] = taker
        else:
            self._takers.pop(channel, None)

    def set_inbound_cipher(self, block_engine: Any, *args: Any, aead: bool = False, **kwargs: Any) -> None:
        """The keys were agreed on, for the first time or again."""
        if aead:
            kwargs["aead"] = aead
        super().set_inbound_cipher(block_engine, *args, **kwargs)
        self._gcm = block_engine if aead else None
        if aead:
            self._salt, self._counter = kwargs["iv_in"][:4], int.from_bytes(kwargs["iv_in"][4:], "big")
        self._nbytes = self._packets = 0

    def reset_seqno_in(self) -> None:
        """The other side counts its packets from 0."""
        super().reset_seqno_in()
        self._number = 0

    def close(self) -> None:
        """End it, from any thread."""
        self._closed = True
        super().close()

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The next packet for paramiko: its kind and the rest. Raises as paramiko's."""
        if not self._gcm:
            kind, message = super().read_message()
            self._number = message.seqno + 1
            return kind, message
        while True:
            with _a_turn():
                message = self._take()
            if message:
                return message
            self._receive()

    def _take(self) -> tuple[int, paramiko.Message] | None:
        """Hand out data for as long as more is here; returns the first packet that is something else.

        Raises `NeedRekeyException` when it is time for that.
        """
        until = time.monotonic() + _A_TURN
        while True:
            data, message = self._open_all()
            for taker, parts in data:
                taker(parts)
            if message:
                return message
            if data and self.need_rekey():
                raise NeedRekeyException
            if time.monotonic() > until or not self._receive(wait=False):
                return None

    def _open_all(self) -> tuple[list[tuple[Taker, list[memoryview]]], tuple[int, paramiko.Message] | None]:
        """The data that are here, by taker, up to the first packet that is something else, if one is here."""
        data: list[tuple[Taker, list[memoryview]]] = []
        parts: list[memoryview] = []
        last: Taker | None = None
        while sealed := self._ahead.packet():
            packet = self._opened(*sealed)
            number, self._number = self._number, (self._number + 1) & 0xFFFFFFFF
            padding, kind, channel, nbytes = _HEAD.unpack_from(packet)
            taker = self._takers.get(channel) if kind == MSG_CHANNEL_DATA else None
            end = len(packet) - padding
            if not taker:
                message = paramiko.Message(packet[2:end])
                message.seqno = number
                return data, (kind, message)
            if nbytes != end - _HEAD.size:
                raise paramiko.SSHException("a packet whose lengths do not agree")
            if taker is not last:
                last, parts = taker, []
                data.append((taker, parts))
            parts.append(memoryview(packet)[_HEAD.size : end])
        return data, None

    def _opened(self, head: memoryview, body: memoryview) -> bytes:
        """A packet in the clear: the length of its padding, its kind, what it carries, and the padding."""
        nonce = self._salt + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % _COUNTER
        try:
            packet: bytes = self._gcm.decrypt(nonce, body, head)
        except InvalidTag:
            raise paramiko.SSHException("a packet was damaged on the way") from None
        if len(packet) - packet[0] < 2:  # noqa: PLR2004  padding length and kind
            raise paramiko.SSHException("a packet of nothing but padding")
        self._nbytes += len(packet)
        self._packets += 1
        if self._nbytes >= self.REKEY_BYTES or self._packets >= self.REKEY_PACKETS:  # as often as paramiko wants it
            self._trigger_rekey()
        return packet

    def _receive(self, *, wait: bool = True) -> int:
        """Receive more; 0 if nothing has come so far. Raises as paramiko's packetizer."""
        if self.handshake_timed_out():
            raise EOFError
        try:
            received = self._ahead.receive(wait=wait)
        except (TimeoutError, BlockingIOError):  # ten times a second, as paramiko has set it
            if self._closed:
                raise EOFError from None
            if self.need_rekey():
                raise NeedRekeyException from None
            self._check_keepalive()
            return 0
        except OSError:
            if self._closed:
                raise EOFError from None
            raise
        if wait and not received:
            raise EOFError
        return received


def _acknowledge(sock: socket.socket) -> None:
    """Tell the server at once that its words have arrived.

    OpenSSH sends with Nagle's algorithm until a session has begun: it holds its second answer back until the first is
    acknowledged, which Linux does after 40 ms (tcp(7), TCP_QUICKACK) where we have nothing to say.
    """
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # the line is gone; the next receive says so
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@contextmanager
def _a_turn() -> Iterator[None]:
    mine = _turn.acquire(timeout=_WITHOUT)
    try:
        yield
    finally:
        if mine:
            _turn.release()

"""Packets of SSH, taken out of what arrives with as little ado as Python allows.

paramiko copies a packet six times and asks the socket twice for it. With AES-GCM, where the length of a packet can be
read before anything is decrypted, many packets are taken here from one large receive, and the bytes of an SFTP channel
go straight to whoever asked for them. Everything else, and every other cipher, is left to paramiko.

The cipher is that of RFC 5647 as OpenSSH uses it: 4 bytes of length in the clear, the packet, 16 bytes of tag.
"""

import socket
from collections.abc import Callable
from typing import Any

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import NeedRekeyException, Packetizer

_AHEAD = 512 * 1024  # bytes of one receive
_LONGEST = 256 * 1024  # bytes of a packet; OpenSSH's own limit (PACKET_MAX_SIZE)
_LENGTH, _TAG = 4, 16  # bytes
_HEAD = 10  # bytes before the data of a channel: padding length, kind, channel, length
_COUNTER = 1 << 64

Taker = Callable[[memoryview], None]


class ReadAhead:
    """A socket, or a channel that serves as one, that is asked for much at a time; each call gives Python's lock away.

    Only the transport's thread receives.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_AHEAD))
        self._at = self._end = 0

    def recv(self, nbytes: int) -> bytes:
        """As a socket's: waits only if nothing is here."""
        if self._at == self._end:
            self._receive()
        return bytes(self.take(min(nbytes, self._end - self._at)))

    def need(self, nbytes: int) -> memoryview:
        """The next `nbytes`, which stay next until they are taken.

        Raises as `recv` of a socket, and may be called again then; `EOFError` at the end.
        """
        while self._end - self._at < nbytes:
            if not self._receive():
                raise EOFError
        return self._buffer[self._at : self._at + nbytes]

    def take(self, nbytes: int) -> memoryview:
        """Bytes that are here, valid until the next receive."""
        part = self._buffer[self._at : self._at + nbytes]
        self._at += nbytes
        return part

    def _receive(self) -> int:
        """Receive what comes, behind what is here; 0 at the end."""
        rest = self._end - self._at
        self._buffer[:rest] = self._buffer[self._at : self._end]
        self._at, self._end = 0, rest
        room = self._buffer[rest:]
        if isinstance(self._sock, socket.socket):
            received = self._sock.recv_into(room)
        else:
            data = self._sock.recv(len(room))
            received = len(data)
            room[:received] = data
        self._end += received
        return received

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
            packet = self._next()
            end = len(packet) - packet[0]
            kind = packet[1]
            number, self._number = self._number, (self._number + 1) & 0xFFFFFFFF
            if kind == MSG_CHANNEL_DATA and (taker := self._takers.get(int.from_bytes(packet[2:6], "big"))):
                if int.from_bytes(packet[6:_HEAD], "big") != end - _HEAD:
                    raise paramiko.SSHException("a packet whose lengths do not agree")
                taker(memoryview(packet)[_HEAD:end])
                if self.need_rekey():
                    raise NeedRekeyException
                continue
            message = paramiko.Message(packet[2:end])
            message.seqno = number
            return kind, message

    def _next(self) -> bytes:
        """The next packet, decrypted and whole: the length of its padding, its kind, what it carries, its padding."""
        length = int.from_bytes(self._wait_for(_LENGTH), "big")
        if not _TAG <= length <= _LONGEST:
            raise paramiko.SSHException(f"a packet of {length} bytes")
        self._wait_for(_LENGTH + length + _TAG)
        head, body = self._ahead.take(_LENGTH), self._ahead.take(length + _TAG)
        nonce = self._salt + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % _COUNTER
        try:
            packet: bytes = self._gcm.decrypt(nonce, body, head)
        except InvalidTag:
            raise paramiko.SSHException("a packet was damaged on the way") from None
        if packet[0] > length - 2:
            raise paramiko.SSHException("a packet of nothing but padding")
        self._count(length)
        return packet

    def _wait_for(self, nbytes: int) -> memoryview:
        while True:
            if self.handshake_timed_out():
                raise EOFError
            try:
                return self._ahead.need(nbytes)
            except (TimeoutError, BlockingIOError):  # ten times a second, as paramiko has set it
                if self._closed:
                    raise EOFError from None
                if self.need_rekey():
                    raise NeedRekeyException from None
                self._check_keepalive()
            except OSError:
                if self._closed:
                    raise EOFError from None
                raise

    def _count(self, length: int) -> None:
        """After so much, keys must be agreed on again; how much that is, paramiko says."""
        self._nbytes += length
        self._packets += 1
        if self._nbytes >= self.REKEY_BYTES or self._packets >= self.REKEY_PACKETS:
            self._trigger_rekey()

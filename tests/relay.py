"""A line that can be bad: a TCP relay on loopback with a delay, a rate, and faults on demand.

In a test, `with Relay(port) as relay:` runs it in a thread; connect to `relay.port`. For a benchmark it is a process of
its own: `python -m tests.relay TARGET_PORT --delay-ms 25 --mbit 200` prints its port and ends when its stdin does.
"""

import argparse
import asyncio
import socket
import struct
import sys
import threading
from collections import deque

HOLD = 64 << 20  # bytes under way in one direction of one connection, before its sender has to wait
PIECE = 16 << 10  # bytes that come at once over a slow line, however many have come here at once


class Relay:
    """Relays connections to `target` on loopback. `delay` is one way, in seconds; `rate` in bytes a second, for all. Of
    connections at the same time it takes `at_most` so many.

    `passed` counts what the server has sent and the relay has let through. All functions may be called from any thread.
    """

    def __init__(self, target, *, delay=0.0, rate=None, at_most=None):
        self.target, self.delay, self.rate, self.at_most = target, delay, rate, at_most
        self.port = 0
        self.passed = 0
        self.connections = 0  # ever made
        self.reached = threading.Event()  # set by a fault that was planned, when it happens
        self.over = threading.Event()  # set when the last connection has ended
        self._fault = None  # (at which count of `passed`, what to do)
        self._frozen = False
        self._refusing = 0
        self._free_at = {True: 0.0, False: 0.0}  # by direction: when the line has sent what it was given
        self._ends = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._ready = threading.Event()

    def __enter__(self):
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_error):
        self._on_loop(self._cut, "reset")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # --- faults

    def cut(self, how="reset"):
        """Cut every connection now, by `reset` or by `fin`."""
        self._on_loop(self._cut, how)

    def cut_one(self):
        """Reset one connection, whichever."""
        self._on_loop(lambda: next(iter(self._ends)).cut("reset"))

    def cut_after(self, nbytes, how="reset"):
        """Cut every connection once so many more bytes have come from the server; exactly so many get through."""
        self._plan(nbytes, lambda: self._cut(how), cuts=True)

    def freeze(self, *, seconds=None):
        """Let nothing through in either direction (for so long); connections stay, and new ones are made."""
        self._on_loop(self._freeze, seconds)

    def thaw(self):
        """Let everything through again, what waited first."""
        self._on_loop(self._thaw)

    def corrupt_after(self, nbytes):
        """Flip a bit in what comes from the server after so many more bytes."""
        self._plan(nbytes, None)

    def call_after(self, nbytes, function):
        """Call `function` (in the relay's thread) once so many more bytes have come from the server."""
        self._plan(nbytes, function)

    def refuse(self, *, connections=None):
        """Close new connections as soon as they are made (so many of them)."""
        self._refusing = connections or float("inf")

    def accept(self):
        """Take new connections again."""
        self._refusing = 0

    # --- the relay's thread

    def _run(self):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self.listen())
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def listen(self):
        """Start to listen on `port`."""
        server = await asyncio.get_running_loop().create_server(lambda: _End(self, from_server=False), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def _on_loop(self, function, *arguments):
        done = threading.Event()

        def call():
            function(*arguments)
            done.set()

        if threading.current_thread() is self._thread:
            function(*arguments)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)
            done.wait(10)

    def _plan(self, nbytes, action, *, cuts=False):
        self.reached.clear()
        self._on_loop(lambda: setattr(self, "_fault", (self.passed + nbytes, action, cuts)))

    def _cut(self, how):
        for end in list(self._ends):
            end.cut(how)

    def _freeze(self, seconds):
        self._frozen = True
        if seconds:
            self._loop.call_later(seconds, self._thaw)

    def _thaw(self):
        self._frozen = False
        for end in list(self._ends):
            end.deliver()

    def is_refused(self):
        """Whether the connection that was just made is not taken."""
        self._refusing, refused = max(0, self._refusing - 1), self._refusing > 0
        return refused or (self.at_most and len([end for end in self._ends if not end.from_server]) >= self.at_most)

    def filter(self, data):
        """What of the server's `data` gets through; a planned fault may strike."""
        at, action, cuts = self._fault or (None, None, False)
        if at is None or self.passed + len(data) <= at:
            self.passed += len(data)
            return data
        self._fault = None
        keep = at - self.passed
        self.passed += keep
        if action is None:
            data = data[:keep] + bytes([data[keep] ^ 0x10]) + data[keep + 1 :]
            self.passed += len(data) - keep
        else:
            self._loop.call_soon(action)
            if cuts:
                data = data[:keep]
            else:
                self.passed += len(data) - keep
        self.reached.set()
        return data

    def due(self, nbytes, from_server):
        """When `nbytes` arrive that are sent now."""
        now = asyncio.get_running_loop().time()
        if self.rate:
            now = self._free_at[from_server] = max(now, self._free_at[from_server]) + nbytes / self.rate
        return now + self.delay


class _End(asyncio.Protocol):
    """One end of a relayed connection: what is received here goes out at `peer`, when it is due."""

    def __init__(self, relay, *, from_server, peer=None):
        self.relay, self.from_server, self.peer = relay, from_server, peer
        self.transport = None
        self.full = False  # this end cannot take more for now
        self.finished = False  # its other side has said its last word, and that was passed on
        self._waiting = deque()  # (due, data; None is the end)
        self._held = 0
        self._timer = None

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=1 << 20)
        if not self.from_server:
            self.relay.connections += 1
            if self.relay.is_refused():
                transport.abort()
                return
            transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._connect())
        self.relay._ends.add(self)
        self.relay.over.clear()

    async def _connect(self):
        loop = asyncio.get_running_loop()
        try:
            _, self.peer = await loop.create_connection(
                lambda: _End(self.relay, from_server=True, peer=self), "127.0.0.1", self.relay.target
            )
        except OSError:
            self.transport.abort()
            return
        self.transport.resume_reading()

    def data_received(self, data):
        step = PIECE if self.relay.rate else len(data)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            self._waiting.append((self.relay.due(len(piece), self.from_server), piece))
        self._held += len(data)
        if self._held > HOLD:
            self.transport.pause_reading()
        self.deliver()

    def eof_received(self):
        self._waiting.append((self.relay.due(0, self.from_server), None))
        self.deliver()
        return True

    def deliver(self):
        """Pass on what is due."""
        loop = asyncio.get_running_loop()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._waiting and not self.relay._frozen and self.peer and not self.peer.full:
            due, data = self._waiting[0]
            if due > loop.time() + 0.0002:
                self._timer = loop.call_at(due, self.deliver)
                return
            self._waiting.popleft()
            if data is None:
                self.finished = True
                try:
                    if not self.peer.transport.is_closing():
                        self.peer.transport.write_eof()
                except OSError:  # it has hung up by a reset
                    self.peer.finished = True
                if self.peer.finished:  # neither has anything left to say
                    self.transport.close()
                    self.peer.transport.close()
                continue
            self._held -= len(data)
            if self.peer.transport.is_closing():
                continue
            self.peer.transport.write(self.relay.filter(data) if self.from_server else data)
            if self._held <= HOLD // 2 and not self.transport.is_closing():
                self.transport.resume_reading()

    def cut(self, how):
        """End this side at once; by FIN, what was delivered still arrives."""
        self._waiting.clear()
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        else:
            self.transport.close()

    def pause_writing(self):
        self.full = True

    def resume_writing(self):
        self.full = False
        if self.peer:
            self.peer.deliver()

    def connection_lost(self, _error):
        self.relay._ends.discard(self)
        if not self.relay._ends:
            self.relay.over.set()
        self.full = True
        if self.peer and self.peer.transport and not self.peer.transport.is_closing():
            self.peer.transport.close()


async def _serve(relay):
    server = await relay.listen()
    sys.stdout.write(f"{relay.port}\n")
    sys.stdout.flush()
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main(arguments=None):
    """Relay until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=int)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="one way")
    parser.add_argument("--mbit", type=float, default=0.0, help="of all connections together; 0: as fast as it goes")
    given = parser.parse_args(arguments)
    asyncio.run(_serve(Relay(given.target, delay=given.delay_ms / 1000, rate=given.mbit * 125_000 or None)))


if __name__ == "__main__":
    main()

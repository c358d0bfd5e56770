"""A download that tests begin and leave."""

from embmerge.remote.files import RemoteFile
from embmerge.remote.partial import begin

FILE = RemoteFile("a", "cluster0_gpu0.pkl", "/out/cluster0_gpu0.pkl", 100, 1_700_000_000)
ELSEWHERE = "0" * 12 + "-1-1-0"  # an owner on another machine


def write(part, start, end):
    part.write(start, [memoryview(bytes(range(start, end)))])
    part.add(start, end)


def read(part, start, length):
    buffer = bytearray(length)
    assert part.read(start, memoryview(buffer)) == length
    return bytes(buffer)


def abandoned(directory, *ranges, by=None):
    """A partial whose run has ended (or, `by` an owner, may not have)."""
    part = begin(directory, FILE)
    for start, end in ranges:
        write(part, start, end)
    if by:
        part.sync()
        part.folder.rename(part.folder.with_suffix(f".{by}"))
    else:
        part.leave()

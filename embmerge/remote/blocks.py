"""A remote file of which only some blocks are here, for a reader that asks for little."""

EDGE = 8 << 10  # bytes at either end of a shard; its header lies in there


class Unknown(Exception):
    """A block that was not fetched yet."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Blocks:
    """A file of which some blocks are known: reading any other raises `Unknown`. It has what `read_header` needs."""

    def __init__(self, blocks: dict[int, bytes], nbytes: int) -> None:
        self._blocks, self._nbytes, self._at = blocks, nbytes, 0

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int) -> int:
        """Move there; nothing is fetched."""
        self._at = offset
        return self._at

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end; `Unknown` if their block was not fetched."""
        size = min(size, self._nbytes - self._at)
        read = b""
        while size > 0:
            part = self._part(size)
            if not part:
                break
            read += part
            size -= len(part)
            self._at += len(part)
        return read

    def readline(self, size: int) -> bytes:
        """Up to a line break, at most so many bytes."""
        line = b""
        while not line.endswith(b"\n") and len(line) < size and (character := self.read(1)):
            line += character
        return line

    def _part(self, size: int) -> bytes:
        for offset, block in self._blocks.items():
            if offset <= self._at < offset + len(block):
                return block[self._at - offset : self._at - offset + size]
            if offset <= self._at < offset + EDGE and len(block) < EDGE:
                return b""  # the file ended earlier than the listing said
        raise Unknown(self._at)

"""The headers of remote files, of which as little as possible crosses the network."""

import errno
from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Any

import paramiko

from embmerge.errors import ShardError
from embmerge.plaintext import printable
from embmerge.remote.blocks import EDGE, Blocks, Unknown
from embmerge.remote.files import CHECKPOINT_NAME, RemoteFile
from embmerge.remote.session import is_over
from embmerge.remote.sftp import SftpChannel
from embmerge.shard import ShardHeader, read_header

_ROUNDS = 8  # of further blocks for shards that are laid out otherwise
_OPEN = 256  # files open at once: a login may often have 1,024
_DOUBLED = 4  # times that a block is twice as long as the one before

Headers = Iterator[tuple[RemoteFile, ShardHeader | ShardError]]


def at_once(channel: SftpChannel, files: Sequence[RemoteFile]) -> Headers:
    """The header of each file, or why it has none: blocks of all files are asked for together.

    Raises as the channel.
    """
    known: dict[RemoteFile, dict[int, bytes]] = {file: {} for file in files}
    wanted = [(file, offset) for file in files for offset in {0, max(0, file.nbytes - EDGE)}]
    found: dict[RemoteFile, ShardHeader | ShardError] = {}
    for further in range(_ROUNDS):
        length = EDGE << min(further, _DOUBLED)  # a list of titles is longer than an edge
        blocks = [(file.path, offset, length) for file, offset in wanted]
        answers = [
            answer
            for first in range(0, len(blocks), _OPEN)
            for answer in channel.read_blocks(blocks[first : first + _OPEN])
        ]
        for (file, offset), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, OSError):
                found[file] = _unreadable(file, answer)
            else:
                known[file][offset] = answer
        wanted = []
        for file in files:
            if file not in found:
                try:
                    found[file] = _header(Blocks(known[file], file.nbytes), file)
                except Unknown as block:
                    wanted.append((file, block.offset))
        if not wanted:
            break
    for file in files:
        yield file, found.get(file) or _too_much(file)


def one_by_one(sftp: paramiko.SFTPClient, files: Sequence[RemoteFile]) -> Headers:
    """The same over paramiko's own client."""
    for file in files:
        try:
            with sftp.open(file.path, "rb", 4096) as remote:
                header = _header(remote, file)
            if is_over(sftp):  # for paramiko the file ends then
                raise EOFError
            yield file, header
        except OSError as error:  # noqa: PERF203  each file has its own fate
            if isinstance(error, TimeoutError | ConnectionError) or is_over(sftp):
                raise
            yield file, _unreadable(file, error)


def _header(source: Any, file: RemoteFile) -> ShardHeader | ShardError:
    try:
        prefix = bool(CHECKPOINT_NAME.fullmatch(file.name))
        return read_header(source, file.nbytes, file.name, cluster=file.cluster, prefix=prefix)
    except ShardError as error:
        return error


def _unreadable(file: RemoteFile, error: OSError) -> ShardError:
    why = "permission denied" if error.errno == errno.EACCES else printable(str(error.strerror or error))
    return ShardError(
        f"{printable(file.name)} cannot be read: {why}", hint=f"on the cluster: ls -l {quote(printable(file.path))}"
    )


def _too_much(file: RemoteFile) -> ShardError:
    return ShardError(
        f"{printable(file.name)}: it holds more beside its rows than is read over the network",
        hint="download it and look at it: invoke sync, then invoke inspect",
    )

"""What an SFTP server's answers say: version 3, as in draft-ietf-secsh-filexfer-02, which every server speaks.

Each function gives back what was asked for, or the `OSError` that fits best what the server has against it. An answer
that is cut short or of another kind raises `WireError`.
"""

import errno
import os
import stat
import struct

from embmerge.plaintext import printable
from embmerge.remote.files import RemoteStat
from embmerge.remote.inbox import Reply, WireError

STATUS, HANDLE, NAME, ATTRS = 101, 102, 104, 105

_EOF = 1  # SSH_FX_EOF
_ERRNO = {2: errno.ENOENT, 3: errno.EACCES, 8: errno.EOPNOTSUPP}  # SSH_FX_…; anything else is an I/O error
_EXTENDED = 0x80000000  # attributes that we do not know follow


def handle(reply: Reply, path: str) -> bytes | OSError:
    """The handle of the file or folder `path` that was opened."""
    if reply.kind != HANDLE:
        return problem(reply, path)
    length, rest = int.from_bytes(reply.body[:4], "big"), reply.body[4:]
    if not 0 < length <= len(rest):
        raise WireError("a handle that is cut short")
    return rest[:length]


def attributes(reply: Reply, path: str) -> RemoteStat | OSError:
    """What `path` is."""
    if reply.kind != ATTRS:
        return problem(reply, path)
    try:
        return _attributes(reply.body, 0)[0]
    except struct.error as error:
        raise WireError("attributes that are cut short") from error


def names(reply: Reply, path: str) -> list[tuple[str, RemoteStat | OSError]] | OSError:
    """The next names in the folder `path`, each with its attributes; `errno.ENODATA` after the last."""
    if reply.kind != NAME:
        return problem(reply, path)
    found = []
    try:
        (count,), at = struct.unpack_from(">I", reply.body), 4
        for _ in range(count):
            texts = []
            for _text_of in ("name", "what ls shows"):
                (length,) = struct.unpack_from(">I", reply.body, at)
                texts.append(reply.body[at + 4 : at + 4 + length])
                at += 4 + length
            facts, at = _attributes(reply.body, at)
            found.append((os.fsdecode(bytes(texts[0])), facts))
    except struct.error as error:
        raise WireError("a list of names that is cut short") from error
    return found


def absolute(reply: Reply, path: str) -> str | OSError:
    """Where `path` is, from the root on."""
    found = names(reply, path)
    if isinstance(found, OSError):
        return found
    if not found:
        raise WireError("a path without a name")
    return found[0][0]


def problem(reply: Reply, path: str) -> OSError:
    """What the server has against a request about `path`."""
    if reply.kind != STATUS or len(reply.body) < 4:  # noqa: PLR2004  the code's length
        raise WireError("an answer of another kind than was asked for")
    code = int.from_bytes(reply.body[:4], "big")
    if code == _EOF:
        return OSError(errno.ENODATA, "the file ends here", path)
    text = printable(reply.body[8 : 8 + int.from_bytes(reply.body[4:8], "big")])
    number = _ERRNO.get(code, errno.EIO)
    return OSError(number, text or os.strerror(number), path)


def _attributes(body: bytes, at: int) -> tuple[RemoteStat | OSError, int]:
    """The attributes at `at` and where they end; size, mode and times must be among them."""
    (flags,) = struct.unpack_from(">I", body, at)
    at += 4
    fields: dict[int, tuple[int, ...]] = {}
    for flag, layout in ((1, ">Q"), (2, ">II"), (4, ">I"), (8, ">II")):  # size, owner, mode, times
        if flags & flag:
            fields[flag] = struct.unpack_from(layout, body, at)
            at += struct.calcsize(layout)
    if flags & _EXTENDED:
        (count,) = struct.unpack_from(">I", body, at)
        at += 4
        for _ in range(2 * min(count, len(body))):
            at += 4 + struct.unpack_from(">I", body, at)[0]
    if not all(flag in fields for flag in (1, 4, 8)):
        return OSError(errno.EIO, "the server does not tell size, mode and times"), at
    mode = fields[4][0]
    facts = RemoteStat(fields[1][0], fields[8][1], regular=stat.S_ISREG(mode), directory=stat.S_ISDIR(mode))
    return facts, at

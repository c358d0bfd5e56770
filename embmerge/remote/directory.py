"""The remote directory as paramiko's own client sees it, and the words for what is wrong with it."""

import errno
import posixpath
import stat
from shlex import quote

import paramiko

from embmerge.errors import RemoteDataError
from embmerge.plaintext import printable
from embmerge.remote.files import RemoteStat, some
from embmerge.remote.session import is_over


def entries(sftp: paramiko.SFTPClient, path: str, cluster: str) -> tuple[str, list[tuple[str, RemoteStat | OSError]]]:
    """The absolute path of the directory `path` of `cluster`, and what is in it.

    Raises `RemoteDataError` if it is missing (naming the nearest parent that exists) or cannot be read, and paramiko's
    errors if the session is over.
    """
    shown = printable(path)
    try:
        directory = sftp.normalize(path)
        return directory, [(entry.filename, _facts(entry)) for entry in sftp.listdir_attr(directory)]
    except OSError as error:
        if isinstance(error, TimeoutError) or is_over(sftp):
            raise
        if error.errno == errno.EACCES:
            raise RemoteDataError(
                f"{cluster}: the remote directory {shown} may not be read",
                hint=f"on the cluster: ls -ld {quote(shown)}; ask for chmod +rx, or set another remote_dir",
            ) from None
        if error.errno == errno.ENOENT or (error.errno is None and not _is_there(sftp, path)):
            raise _missing(sftp, path, cluster) from None
        raise RemoteDataError(f"{cluster}: cannot list {shown}: {printable(str(error))}") from None


def _is_there(sftp: paramiko.SFTPClient, path: str) -> bool:
    """Whether it is a directory; of a file in its place servers say as little as of a disk that fails."""
    try:
        return stat.S_ISDIR(sftp.stat(path).st_mode or 0)
    except OSError:
        if is_over(sftp):
            raise
        return False


def _missing(sftp: paramiko.SFTPClient, path: str, cluster: str) -> RemoteDataError:
    """The error for a directory that is not there."""
    path = posixpath.normpath(path if path.startswith("/") else posixpath.join(sftp.normalize("."), path))
    parent, names = path, []
    while parent != "/":
        parent = posixpath.dirname(parent)
        try:
            names = sorted(sftp.listdir(parent))
            break
        except OSError:
            if is_over(sftp):
                raise
    if parent == posixpath.dirname(path) and posixpath.basename(path) in names:
        return RemoteDataError(
            f"{cluster}: {printable(path)} is no directory", hint="set remote_dir to the folder of the shards"
        )
    there = some([printable(name, 40) for name in names if not name.startswith(".")]) or "nothing"
    return RemoteDataError(
        f"{cluster}: remote directory not found: {printable(path)}; the nearest that exists is "
        f"{printable(parent)}, with {there} in it",
        hint=f"set remote_dir in its credentials, or make it on the cluster: mkdir -p {quote(printable(path))}",
    )


def _facts(entry: paramiko.SFTPAttributes) -> RemoteStat:
    mode = entry.st_mode or 0
    return RemoteStat(
        entry.st_size or 0, int(entry.st_mtime or 0), regular=stat.S_ISREG(mode), directory=stat.S_ISDIR(mode)
    )

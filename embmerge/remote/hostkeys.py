"""Is this the machine it was last time? Host keys are read from two files, and written to the second.

An unknown host is accepted once (`accept-new`) or refused (`strict`). A changed key is always refused; so is another
type of key where one is known, for whoever sits in the middle chooses the type.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Literal

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

from embmerge.errors import HostKeyError
from embmerge.events import HostKeyAccepted, Observer
from embmerge.plaintext import printable
from embmerge.settings import expanded

_writing = threading.Lock()


class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """The keys in `~/.ssh/known_hosts` and in `directory`/known_hosts, and what to do about others."""

    def __init__(
        self, cluster: str, directory: Path, mode: Literal["accept-new", "strict"], observer: Observer
    ) -> None:
        self._cluster, self._mode, self._observer = cluster, mode, observer
        self._own = directory / "known_hosts"
        self._files = (expanded("~/.ssh/known_hosts"), self._own)

    def guard(self, client: paramiko.SSHClient) -> None:
        """Have `client` check the server's key before it says who logs in."""
        client.set_missing_host_key_policy(self)
        keys = client.get_host_keys()
        keys.clear()
        revoked = [entry.key for entry, _, _ in self._entries(revoked=True)]
        for entry, _, _ in self._entries():
            for host in entry.hostnames:
                if entry.key not in revoked:  # whichever line comes first; of an unknown key we are asked
                    keys.add(host, entry.key.get_name(), entry.key)

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """What paramiko asks: no line of either file has this host by its very name."""
        shown = printable(hostname)
        for entry, path, number in self._entries(revoked=True):
            if entry.key == key:
                raise HostKeyError(
                    f"{self._cluster}: {shown} has the host key {key.fingerprint}, revoked by {path}, line {number}",
                    hint="do not log in; ask who runs the machine",
                )
        with _writing:
            known = [entry.key for entry, _, _ in self._entries() if _names(entry, hostname)]
            if known and key not in known:
                raise paramiko.BadHostKeyException(hostname, key, known[0])
            if known:  # by a pattern, or somebody has accepted it since
                return
            if self._mode == "strict":
                raise HostKeyError(
                    f"{self._cluster}: the host key of {shown} is unknown: {key.get_name()} {key.fingerprint}",
                    hint=f"if that is its fingerprint, add the key to {self._own}, or set host_keys: accept-new",
                )
            self._append(f"{hostname} {key.get_name()} {key.get_base64()}\n")
        client.get_host_keys().add(hostname, key.get_name(), key)
        self._observer(HostKeyAccepted(self._cluster, shown, key.get_name(), key.fingerprint, self._own))

    def _append(self, line: str) -> None:
        """Write a line in one go: other processes may do the same."""
        try:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self._own.exists() and self._own.read_bytes()[-1:] not in (b"", b"\n")
            descriptor = os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, f"{chr(10) * unfinished}{line}".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HostKeyError(
                f"{self._cluster}: cannot write {self._own}: {error.strerror}",
                hint="an unknown host's key is kept there: make the folder writable",
            ) from None

    def changed(self, error: paramiko.BadHostKeyException, port: int) -> HostKeyError:
        """The refusal of a changed key, naming both fingerprints and where the old one stands."""
        bare = port == 22 or error.hostname.startswith("[")  # noqa: PLR2004  SSH's own port
        hostname = error.hostname if bare else f"[{error.hostname}]:{port}"
        expected = error.expected_key
        path, line = next(
            (path, line) for entry, path, line in self._entries() if entry.key == expected and _names(entry, hostname)
        )
        return HostKeyError(
            f"{self._cluster}: the host key of {printable(hostname)} has changed: it is {error.key.get_name()} "
            f"{error.key.fingerprint}, but {path}, line {line} has {expected.get_name()} {expected.fingerprint}",
            hint="somebody may be listening in; if the machine was set up anew (ask who runs it), "
            f"remove that line and connect again: ssh-keygen -R {quote(printable(hostname))} -f {quote(str(path))}",
        )

    def _entries(self, *, revoked: bool = False) -> Iterator[tuple[HostKeyEntry, Path, int]]:
        for path in self._files:
            lines: list[str] = []
            with suppress(OSError):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for number, whole in enumerate(lines, 1):
                line = whole.removeprefix("@revoked ").lstrip()
                if (line != whole.lstrip()) is not revoked:
                    continue
                with suppress(InvalidHostKey, paramiko.SSHException, ValueError):
                    entry = HostKeyEntry.from_line(line, number)
                    if entry and entry.key:
                        yield entry, path, number


def _names(entry: HostKeyEntry, hostname: str) -> bool:
    """Whether a line is about a host, as ssh sees it: in any case, by a hash, by `*` and `?`, and not after `!`."""
    name = hostname.lower()

    def fits(each: str) -> bool:
        if each.startswith("|1|"):
            return bool(HostKeys.hash_host(name, each) == each)
        pattern = re.escape(each.lower()).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(pattern, name) is not None

    without = [each[1:] for each in entry.hostnames if each.startswith("!")]
    return any(map(fits, entry.hostnames)) and not any(map(fits, without))

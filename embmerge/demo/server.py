"""An SSH cluster on this machine: an embedded server that serves one folder as a login's home."""

import asyncio
import asyncio.subprocess
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import asyncssh

# A warning for every block that a guest who hung up did not read: two thousand lines for one Ctrl-C.
logging.getLogger("asyncio").setLevel(logging.ERROR)


class Accounts(asyncssh.SSHServer):
    """Who may log in: passwords by user name."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = passwords

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  asked of everybody
        """Everybody has to say who they are."""
        return True

    def password_auth_supported(self) -> bool:
        """By password."""
        return True

    def validate_password(self, username: str, password: str) -> bool:
        """Whether it is the right one."""
        return self._passwords.get(username) == password


class Home(asyncssh.SFTPServer):
    """SFTP below one folder, which looks like the root of all."""

    folder: Path

    def __init__(self, channel: Any) -> None:
        super().__init__(channel, chroot=bytes(self.folder))


class Server:
    """An embedded SSH server on 127.0.0.1 that runs in a thread of its own; a context manager.

    `folder` is what a login sees as its home. `accounts` makes the object that decides who may log in, `home` is the
    class that serves files, `options` go to `asyncssh.listen`.
    """

    def __init__(
        self,
        folder: Path,
        accounts: Callable[[], asyncssh.SSHServer],
        *,
        home: type[asyncssh.SFTPServer] = Home,
        port: int = 0,
        host_key: Any = None,
        **options: Any,
    ) -> None:
        self.folder, self.port = folder, port
        self.host_key = host_key or asyncssh.generate_private_key("ssh-ed25519")
        self._accounts = accounts
        self._home = type(home.__name__, (home,), {"folder": folder})
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sshd", daemon=True)
        self._acceptor: Any = None
        self._guests: set[asyncssh.SSHServerConnection] = set()

    def __enter__(self) -> "Server":  # noqa: PYI034  typing.Self came with Python 3.11
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Listen, on the port of the last time if there was one."""
        self._run(self._listen())

    def stop(self) -> None:
        """Hang up on everybody and listen no more."""
        self._run(self._close())

    async def _listen(self) -> None:
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=self._guest,
            server_host_keys=[self.host_key],
            sftp_factory=self._home,
            process_factory=self._shell,
            encoding=None,
            allow_scp=False,
            **self._options,
        )
        self.port = self._acceptor.get_port()

    def _guest(self) -> asyncssh.SSHServer:
        """Who decides about one connection; that is remembered, to be hung up on."""
        accounts = self._accounts()
        made = accounts.connection_made

        def remembered(conn: asyncssh.SSHServerConnection) -> None:
            self._guests.add(conn)
            made(conn)

        accounts.connection_made = remembered  # type: ignore[method-assign]  # of this one object, whatever its class: asyncssh tells nobody else
        return accounts

    async def _close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()  # not waited for: since Python 3.12 that would be for the guests to leave
            self._acceptor = None
        for guest in self._guests:
            guest.abort()
        self._guests.clear()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _shell(self, process: Any) -> None:
        """Run a command in the folder, for `sync --checksum`; its paths begin at the root that the login sees."""
        if process.command is None:
            process.exit(1)
            return
        root = quote(str(self.folder.absolute()))
        command = process.command.replace(" /", f" {root}/").replace(f" {root}/dev/null", " /dev/null")
        shell = await asyncio.create_subprocess_shell(
            command,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await shell.communicate()
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(shell.returncode or 0)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

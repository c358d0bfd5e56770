"""Real SSH servers on loopback, and this side of the line: OpenSSH's sshd, the embedded server, an agent, a desk."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import asyncssh
import paramiko
import pytest

from embmerge.demo.server import Server
from embmerge.remote.cluster import Cluster
from embmerge.remote.credentials import load_credentials
from embmerge.settings import Settings

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SSHD = shutil.which("sshd", path=_PATH)
PASSWORD = "correct horse"
_SHADOW = "$6$embmerge$e9zPbCmeK5CxXsoBWjy3.bhJm3P7Dni5mkkgo48FRSdQuoycZAA3FoKTX2DUeczEeIoO/lvSmBtO3wbG6dHeq."
_IN_OWN_NAMESPACE = (  # an account that only this sshd knows: the machine's own files stay as they are
    'mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/shadow && mount --bind "$3" /mnt'
    ' && exec "$4" -D -e -f "$5"'
)


def need_sshd():
    """Skip where sshd is not installed; under CI that is a failure."""
    if SSHD:
        return
    reason = "OpenSSH's sshd is not installed (apt-get install openssh-server)"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def make_key(path, *, passphrase="", kind="ed25519"):
    """A key pair; returns the private one's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _run("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path))
    return path


def public(key):
    """The line that goes into authorized_keys."""
    return key.with_name(f"{key.name}.pub").read_text().strip()


class Sshd:
    """OpenSSH's sshd on a free port of 127.0.0.1, run as whoever runs the tests. A context manager.

    A login starts in `home`. `lines` go into its configuration. With `account` the login is a user `worker` without
    privileges and with the password `PASSWORD`, whom nobody but this sshd knows; that takes root and namespaces. Then
    `home` is at /mnt for the server.
    """

    def __init__(self, folder, *, keys=(), lines=(), account=False, shell=True):
        need_sshd()
        self.folder = folder / "sshd"
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        self.host_key = make_key(self.folder / "host_key")
        self.account = account
        self.user = "worker" if account else _me()
        self.port = free_port()
        (self.folder / "authorized_keys").write_text("".join(f"{public(key)}\n" for key in keys))
        self.lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "UseDNS no",
            "PrintMotd no",
            "KbdInteractiveAuthentication no",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PasswordAuthentication {'yes' if account else 'no'}",
            f"Subsystem sftp internal-sftp -d {'/mnt' if account else self.home}",
            *([] if shell else ["ForceCommand internal-sftp -d /"]),
            *lines,
        ]
        self._process = None

    def __enter__(self):
        if self.account:
            need_namespaces()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_error):
        self.stop()

    def start(self):
        """Listen."""
        config = self.folder / "sshd_config"
        config.write_text("\n".join([f"HostKey {self.host_key}", *self.lines]) + "\n")
        command = [SSHD, "-D", "-e", "-f", str(config)]
        if self.account:
            for path in (self.folder, *self.folder.parents):
                if path.stat().st_uid == os.geteuid() and path != Path("/"):
                    path.chmod(path.stat().st_mode | 0o011)
            users = self.folder / "passwd"
            users.write_text(Path("/etc/passwd").read_text() + "worker:x:54321:54321::/mnt:/bin/sh\n")
            shadow = self.folder / "shadow"
            shadow.write_text(Path("/etc/shadow").read_text() + f"worker:{_SHADOW}:19000:0:99999:7:::\n")
            shadow.chmod(0o600)
            inside = ["sh", str(users), str(shadow), str(self.home), SSHD, str(config)]
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_OWN_NAMESPACE, *inside]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 10
        while self._process.poll() is None and time.monotonic() < until:
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            threading.Event().wait(0.01)
        raise AssertionError("sshd does not start: " + (self.folder / "log").read_text())

    def stop(self):
        """End it and the sessions that it serves."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(10)
            self._process = None


class Agent:
    """An ssh-agent that holds `keys`, set as SSH_AUTH_SOCK by `monkeypatch`. A context manager."""

    def __init__(self, folder, monkeypatch, keys):
        self._keys, self._socket = keys, Path("/tmp") / f"embmerge-agent-{os.getpid()}-{id(self):x}"  # a short name
        monkeypatch.setenv("SSH_AUTH_SOCK", str(self._socket))
        self._folder = folder

    def __enter__(self):
        self._process = subprocess.Popen(["ssh-agent", "-D", "-a", str(self._socket)], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while not self._listens() and time.monotonic() < until:  # its socket is there a moment before it does
            threading.Event().wait(0.01)
        for key in self._keys:
            _run("ssh-add", "-q", str(key))
        return self

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as line:
            return line.connect_ex(str(self._socket)) == 0

    def __exit__(self, *_error):
        self._process.terminate()
        self._process.wait(10)
        self._socket.unlink(missing_ok=True)


class Login(asyncssh.SSHServer):
    """Who may log in to the embedded server: by password, by key, by answers, or by several of them.

    `questions` are rounds of (prompt, right answer). `then` is True if they are asked after a password or key.
    `tried` lists the methods that clients tried.
    """

    def __init__(self, *, passwords=None, keys=(), questions=(), then=False, tried=None):
        self._passwords, self._questions, self._then = passwords or {}, list(questions), then
        self._keys = {asyncssh.import_public_key(public(key)).public_data for key in keys}
        self._round, self._first = 0, False
        self.tried = [] if tried is None else tried

    def begin_auth(self, _username):
        return True

    def password_auth_supported(self):
        return bool(self._passwords)

    def validate_password(self, username, password):
        self.tried.append("password")
        return self._passwords.get(username) == password

    def public_key_auth_supported(self):
        return bool(self._keys)

    def validate_public_key(self, _username, key):
        self.tried.append("key")
        return key.public_data in self._keys

    def kbdint_auth_supported(self):
        return bool(self._questions)

    def get_kbdint_challenge(self, *_asked):
        self.tried.append("questions")
        return "Duo", "", "en", [(self._questions[self._round][0], False)]

    def validate_kbdint_response(self, _username, responses):
        if list(responses) != [self._questions[self._round][1]]:
            return False
        self._round += 1
        if self._round < len(self._questions):
            return "Duo", "", "en", [(self._questions[self._round][0], False)]
        return True


class Desk:
    """This side of the line: a folder of credentials, settings with short time-outs, and the events that were seen."""

    def __init__(self, folder):
        self.credentials = folder / ".credentials"
        self.credentials.mkdir(mode=0o700)
        self.events = []
        self.stop = threading.Event()
        self._open = []

    def write(self, name="a", **facts):
        """NAME.credentials; returns its path."""
        path = self.credentials / f"{name}.credentials"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"address": "127.0.0.1", **facts}))
        return path

    def settings(self, **settings):
        """Settings with short time-outs and no second try."""
        short = {"connect_timeout": 5, "stall_timeout": 5, "retries": 0}
        return Settings(credentials=self.credentials, **(short | settings))

    def cluster(self, name="a", *, ask=None, **settings):
        """The cluster, not yet connected; `close` hangs up."""
        credentials = load_credentials(name, self.credentials, self.events.append)
        cluster = Cluster(credentials, self.settings(**settings), observer=self.events.append, stop=self.stop, ask=ask)
        self._open.append(cluster)
        return cluster

    def connected(self, name="a", **how):
        """The same, logged in."""
        cluster = self.cluster(name, **how)
        cluster.connect()
        return cluster

    def see(self, event):
        """Observe an event."""
        self.events.append(event)

    def seen(self, kind):
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def known_hosts(self):
        """The lines that were written for accepted hosts."""
        path = self.credentials / "known_hosts"
        return path.read_text().splitlines() if path.exists() else []

    def close(self):
        """Hang up on everybody."""
        for cluster in self._open:
            cluster.close()


def embedded(folder, login, **options):
    """The embedded server with the accounts of `login`, a function that makes a `Login`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Server(folder, login, **options)


def known_line(port, key, host="127.0.0.1"):
    """What known_hosts says about the server on `port` with that host key (a private key's path)."""
    return f"[{host}]:{port} {public(key)}\n"


def fingerprint(key):
    """OpenSSH's SHA256:… of a key file."""
    return paramiko.PKey.from_path(key).fingerprint


def free_port():
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]


def need_namespaces():
    """Skip where no account can be made without touching the machine's own."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("an account of its own for sshd takes root and mount namespaces")


def _me():
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()


def _run(*command):
    subprocess.run(command, check=True, capture_output=True)

"""Who may log in where: `.credentials/NAME.credentials`, JSON, checked before anything is connected."""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from embmerge.checked import MISSING_KEY, UNKNOWN, Problems, Secret, checked
from embmerge.errors import CredentialsError
from embmerge.events import Observer, Warned, ignore
from embmerge.plaintext import printable

SUFFIX = ".credentials"
CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAMED = "a cluster's name begins with a letter or digit, and has letters, digits, dots, dashes and underscores"
_COMMAND_LIMIT = 60  # seconds that a password command may ask its own questions
_UNSENT = re.compile("[\\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs
_LARGEST = 64 << 10  # bytes of a credentials file

Text = Annotated[str, Meta(min_length=1, max_length=1024)]


@dataclass(frozen=True)
class Credentials:
    """One cluster's credentials; secrets are out of every `repr`. `name` is that of the file."""

    name: str
    address: Text
    username: Text | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    password: Secret | None = None
    password_command: Text | None = None
    key_file: Text | None = None
    passphrase: Secret | None = None
    remote_dir: Text | None = None
    gateway: Text | None = None

    def secret(self) -> str | None:
        """The password, from the file or from `password_command`; None if there is neither.

        Raises `CredentialsError` if the command fails; what it printed is never shown.
        """
        if self.password is not None:
            return self.password.reveal()
        return _first_line(self.password_command, self.name) if self.password_command else None


def configured(directory: Path, warn: Observer = ignore) -> tuple[str, ...]:
    """The names of all clusters with a credentials file in `directory`, sorted; `warn` is told what is passed over."""
    try:
        if not directory.is_dir():
            raise CredentialsError(
                f"no folder {directory.absolute()}",
                hint="in embmerge's checkout: cp -r .credentials.example .credentials, then edit the files in it",
            )
        names = sorted(path.stem for path in directory.iterdir() if path.suffix == SUFFIX and path.name[0] != ".")
    except OSError as error:
        raise CredentialsError(f"cannot list {directory}: {error.strerror}", hint="see ls -ld of it") from None
    usable = tuple(name for name in names if CLUSTER_NAME.fullmatch(name))
    for name in names:
        if name not in usable:
            warn(Warned(f"{printable(str(directory / name))}{SUFFIX} is passed over: {_NAMED}"))
    if not usable:
        raise CredentialsError(
            f"no *{SUFFIX} file in {directory}", hint=f"copy one from .credentials.example and edit it; {_NAMED}"
        )
    return usable


def load_credentials(name: str, directory: Path, warn: Observer = ignore) -> Credentials:
    """The credentials of cluster `name`; others being able to read them is told to `warn`.

    Raises `CredentialsError` that names file, line, and what was expected, for every problem at once.
    """
    path = directory / f"{name}{SUFFIX}"
    if not CLUSTER_NAME.fullmatch(name):
        raise CredentialsError(f"{printable(name)!a} is not a cluster's name", hint=_NAMED)
    text = _read(path, directory)
    if path.stat().st_mode & 0o077:
        warn(Warned(f"others may read {path}; run: chmod 600 {shlex.quote(str(path))}", name))
    try:
        values = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path, text))
    except json.JSONDecodeError as error:
        raise CredentialsError(
            f"{path}, line {error.lineno}: not JSON: {error.msg.lower()} (column {error.colno})",
            hint='expected is {"address": "…", "username": "…", "password": "…"}',
        ) from None
    except (RecursionError, ValueError):  # the latter for a number of thousands of digits
        raise CredentialsError(f"{path}: not JSON that holds credentials") from None
    if not isinstance(values, dict):
        raise CredentialsError(f"{path}, line 1: expected a JSON object with address, username and password")
    try:
        known = {key: value for key, value in values.items() if key != "name"}
        if isinstance(known.get("address"), str):
            known["address"] = _bare(known["address"])
        credentials = checked(Credentials, {**known, "name": name}, strict=True)
        problems = [f"{path}{_line('name', text)}: unknown key 'name'"] if "name" in values else []
        unsent = [key for key, value in known.items() if isinstance(value, str) and _UNSENT.search(value)]
        problems += [_problem(key, "expected text that can be sent", path, text) for key in unsent]
    except Problems as found:
        problems = [_problem(key, what, path, text) for key, what in found.by_key.items()]
    if not problems:
        return credentials
    keys = ", ".join(field.name for field in fields(Credentials) if field.name != "name")
    raise CredentialsError("; ".join(problems), hint=f"the keys are: {keys}; see .credentials.example")


def _bare(address: str) -> str:
    """An address without the blanks that nobody sees, and without the brackets that IPv6 wears in a URL."""
    address = address.strip()
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address


def _read(path: Path, directory: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CredentialsError(f"{path} is no file")
        if path.stat().st_size > _LARGEST:
            raise CredentialsError(f"{path} is too large for a credentials file")
        return path.read_text(encoding="utf-8-sig")  # Notepad begins it with a byte order mark
    except FileNotFoundError:
        others = ", ".join(sorted(each.stem for each in directory.glob(f"*{SUFFIX}"))) or "none"
        raise CredentialsError(
            f"no credentials file {path}", hint=f"copy one from .credentials.example; configured are: {others}"
        ) from None
    except UnicodeDecodeError:
        raise CredentialsError(f"{path}: not a text file") from None
    except OSError as error:
        raise CredentialsError(f"cannot read {path}: {error.strerror}", hint="whose file is it? see ls -l") from None


def _unique(pairs: list[tuple[str, Any]], path: Path, text: str) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := {key for key in keys if keys.count(key) > 1}:
        key = min(twice)
        raise CredentialsError(f"{path}{_line(key, text)}: {printable(key, 40)!a} stands there twice")
    return dict(pairs)


def _problem(key: str, what: str, path: Path, text: str) -> str:
    if what == MISSING_KEY:
        return f"{path}: {key!r} is missing"
    where = f"{path}{_line(key, text)}"
    if what == UNKNOWN:
        return f"{where}: unknown key {printable(key, 40)!a}"
    return f"{where}: {key!r}: {what}"


def _line(key: str, text: str) -> str:
    """Where `key` stands, as `, line N`; '' if that cannot be told."""
    match = re.search(rf"{re.escape(json.dumps(key))}\s*:", text)
    return f", line {text.count(chr(10), 0, match.start()) + 1}" if match else ""


def _first_line(command: str, name: str) -> str:
    words = [word for word in command.split() if "=" not in word]  # what a variable is set to may be a secret, too
    hint = f"run it by hand and see: {printable(' '.join(words[:1]), 60)} …"
    try:
        ran = subprocess.run(  # noqa: S602  the person's own command, with pipes as they please
            command, shell=True, stdout=subprocess.PIPE, timeout=_COMMAND_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise CredentialsError(f"{name}: password_command took more than {_COMMAND_LIMIT} s", hint=hint) from None
    if ran.returncode:
        raise CredentialsError(f"{name}: password_command failed (exit {ran.returncode})", hint=hint)
    try:
        line = ran.stdout.split(b"\n", 1)[0].decode().rstrip("\r")
    except UnicodeDecodeError:
        raise CredentialsError(f"{name}: password_command printed something else than UTF-8", hint=hint) from None
    if not line:
        raise CredentialsError(f"{name}: password_command printed nothing", hint=hint)
    return line

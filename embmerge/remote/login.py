"""Log in over one transport, by whatever the credentials, `~/.ssh/config` and the agent offer.

paramiko's own order (every agent key, every default key, then the password) ends in "too many authentication
failures" where an agent holds many keys, and it asks for second factors on its own. So the order is decided here: a
password or key that was given is all that is tried.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import fabric
import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.auth_strategy import AuthStrategy
from paramiko.pkey import UnknownKeyType

from embmerge.errors import CredentialsError, EmbmergeError, LoginError
from embmerge.plaintext import printable
from embmerge.remote.credentials import SUFFIX
from embmerge.settings import expanded

if TYPE_CHECKING:
    from embmerge.remote.door import Door

Ask = Callable[[str], str]  # shows a prompt to the person, returns what they type

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_PATIENCE = 120.0  # seconds for a person to find their second factor; sshd's LoginGraceTime gives no more
_ROUNDS = 5  # of questions that a server may ask for one login, and of factors that it may want


class Login(AuthStrategy):  # type: ignore[misc]  # paramiko has no types
    """What is tried to log in over one transport, in this order, and nothing else."""

    def __init__(self, door: "Door", hop: fabric.Connection, identities: list[str], *, own: bool) -> None:
        super().__init__(ssh_config=None)
        self._door, self._hop, self._identities, self._own = door, hop, identities, own
        self._password = door.secret() if own else None
        self._factors = 0  # that the server has taken
        self._locked: CredentialsError | None = None  # a key of ~/.ssh/config that we cannot open
        self.asked = False

    def authenticate(self, transport: paramiko.Transport) -> list[str]:
        """Log in, or raise `LoginError`; what else paramiko raises is explained by the caller."""
        given = self._door.credentials if self._own else None
        tried = []
        if given and given.key_file:
            key = load_key(expanded(given.key_file), self._passphrase, given.name)
            ways = iter([(f"the key {given.key_file}", key)])
        elif self._password is not None:
            return self._by_password(transport)
        else:
            ways = self._keys()
        for name, key in ways:
            tried.append(name)
            try:
                return self._rest(transport, transport.auth_publickey(self._hop.user, key))
            except paramiko.BadAuthenticationType as error:
                if "keyboard-interactive" in error.allowed_types and not (given and given.key_file):
                    return self._by_questions(transport)
                raise self._refused(tried, error.allowed_types) from None
            except paramiko.AuthenticationException as error:
                _unless_lost(error, transport)
                continue
        if not tried:
            return self._by_nothing(transport)
        raise self._refused(tried, [])

    def _by_nothing(self, transport: paramiko.Transport) -> list[str]:
        """Without a secret: perhaps the server asks questions, or nothing at all."""
        try:
            return self._rest(transport, transport.auth_none(self._hop.user))
        except paramiko.BadAuthenticationType as error:
            if "keyboard-interactive" in error.allowed_types:
                return self._by_questions(transport)
            raise self._refused([], error.allowed_types) from None

    def _by_password(self, transport: paramiko.Transport) -> list[str]:
        try:
            return self._rest(transport, transport.auth_password(self._hop.user, self._password, fallback=False))
        except paramiko.BadAuthenticationType as error:
            if "keyboard-interactive" in error.allowed_types:
                return self._by_questions(transport)
            raise self._refused(["the password"], error.allowed_types) from None
        except paramiko.AuthenticationException as error:
            _unless_lost(error, transport)
            raise self._refused(["the password"], []) from None

    def _rest(self, transport: paramiko.Transport, further: list[str]) -> list[str]:
        """The factors that the server wants besides the one that it took."""
        if not further:
            return []
        self._factors += 1
        if self._factors > _ROUNDS:
            raise LoginError(
                f"{self._door.credentials.name}: authentication failed: the server wants factor after factor"
            )
        if "password" in further and self._password is not None and "keyboard-interactive" not in further:
            return self._rest(transport, transport.auth_password(self._hop.user, self._password, fallback=False))
        if "keyboard-interactive" in further:
            return self._by_questions(transport)
        raise self._refused(["one factor"], further)

    def _by_questions(self, transport: paramiko.Transport) -> list[str]:
        """Answer what the server asks: its first question for a password from the file, others by asking the person."""
        unused = [self._password] if self._password is not None else []
        rounds = 0

        def answers(_title: str, _instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
            nonlocal rounds
            rounds += 1
            if rounds > _ROUNDS:
                name = self._door.credentials.name
                raise LoginError(f"{name}: authentication failed: the server asks question after question")
            return [self._answer(question, unused) for question, _echo in questions]

        if self._door.ask:
            transport.auth_timeout = max(transport.auth_timeout, _PATIENCE)
        try:
            return self._rest(transport, transport.auth_interactive(self._hop.user, answers))
        except paramiko.AuthenticationException as error:
            _unless_lost(error, transport)
            given = ["the password"] if self._password is not None else []
            raise self._refused(["the answer to the server's question"] if self.asked else given, []) from None

    def _answer(self, question: str, unused: list[str]) -> str:
        shown = printable(question.strip(), 120)
        wants_password = "password" in question.lower() and "one-time" not in question.lower()
        if unused and wants_password:
            return unused.pop()
        name = self._door.credentials.name
        if self._door.ask is None and wants_password and self._password is None:
            raise self._refused([], ["password"])
        if self._door.ask is None:
            raise LoginError(
                f"{name}: the server asks for a second factor ('{shown}'), and there is no terminal to ask you",
                hint="run it in a terminal; or ask who runs the cluster for a key that needs no second factor",
            )
        if self._door.asked:
            raise LoginError(f"{name}: another connection would need another code", hint="one connection goes on")
        self.asked = True
        return self._door.ask(f"{name}: {shown} ")

    def _keys(self) -> Iterator[tuple[str, paramiko.PKey]]:
        """Those of `~/.ssh/config`, else the agent's and the default ones."""
        for identity in self._identities:
            path = expanded(identity)
            if path.exists():
                try:
                    yield f"the key {identity}", load_key(path, self._passphrase, self._door.credentials.name)
                except CredentialsError as error:  # the agent may have it open
                    self._locked = self._locked or error
        for key in paramiko.Agent().get_keys():
            yield "a key of the agent", key
        if self._identities:
            return
        for name in _DEFAULT_KEYS:
            path = expanded(f"~/.ssh/{name}")
            if path.exists():
                try:
                    key = load_key(path, None, self._door.credentials.name)
                except CredentialsError as error:
                    self._locked = self._locked or error
                else:
                    yield f"the key ~/.ssh/{name}", key

    @property
    def _passphrase(self) -> str | None:
        passphrase = self._door.credentials.passphrase if self._own else None
        return passphrase.reveal() if passphrase else None

    def _refused(self, tried: list[str], allowed: list[str]) -> EmbmergeError:
        if self._locked:
            return self._locked
        who = printable(f"{self._hop.user}@{self._hop.host}")
        what = f"did not accept {', '.join(dict.fromkeys(tried))}" if tried else "wants a password or a key"
        wants = f"; it takes {printable(', '.join(allowed), 80)}" if allowed else ""
        name = self._door.credentials.name
        return LoginError(
            f"{name}: authentication failed: {who} {what}{wants}",
            hint=f"check username and password (or key_file) in {self._door.settings.credentials / (name + SUFFIX)}",
        )


def _unless_lost(error: paramiko.AuthenticationException, transport: paramiko.Transport) -> None:
    """Raise `ConnectionError` if the line dropped or was silent meanwhile: paramiko calls that a refusal, too."""
    if not transport.is_active() or "timeout" in str(error):
        raise ConnectionError("closed during the login") from error


def load_key(path: Path, passphrase: str | None, name: str) -> paramiko.PKey:
    """The private key in `path`. Raises `CredentialsError` that says what is wrong with it."""
    try:
        # absolute: paramiko expands a ~, too, and has no word for one that is nobody's
        return paramiko.PKey.from_path(path.absolute(), passphrase.encode() if passphrase else None)
    except FileNotFoundError:
        raise CredentialsError(f"{name}: no key file {path}", hint="correct `key_file` in its credentials") from None
    except OSError as error:
        raise CredentialsError(f"{name}: cannot read the key file {path}: {error.strerror}") from None
    except (paramiko.PasswordRequiredException, TypeError):
        raise CredentialsError(
            f"{name}: the key {path} needs a passphrase",
            hint="add `passphrase` to its credentials, or leave key_file out and use ssh-add",
        ) from None
    except (UnsupportedAlgorithm, UnknownKeyType):
        raise CredentialsError(
            f"{name}: the key {path} is of a kind that cannot be used here, as those on a FIDO stick are",
            hint="name an Ed25519, ECDSA or RSA key as `key_file`",
        ) from None
    except (ValueError, paramiko.SSHException):
        why = "cannot be opened with this passphrase" if passphrase else "is not a private key"
        hint = f"check it with: ssh-keygen -y -f {quote(str(path))}"
        raise CredentialsError(f"{name}: the key {path} {why}", hint=hint) from None

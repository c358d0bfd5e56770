"""Everything that can go wrong, as a tree; each branch has the exit code that `invoke` ends with.

    EmbmergeError                     1   base of all below
    ├── UsageError                    2   a flag or a value on the command line
    │   ├── SettingsError             2   invoke.yaml or INVOKE_EMBMERGE_…
    │   └── CredentialsError          2   .credentials/NAME.credentials
    ├── ConnectError                  3   no connection to a cluster, and trying again may not help
    │   ├── ConnectionLost            3   the line dropped or froze: the one error worth a retry
    │   │   └── Unreached             3   no such host name, or nobody listens: down for now, or a typo
    │   ├── LoginError                3   password, key or second factor refused
    │   └── HostKeyError              3   unknown (strict) or changed host key
    ├── RemoteDataError               4   what is on the cluster: directory, shards, coverage
    │   └── RemoteChanged             4   a remote file changed while it was being read
    ├── LocalDataError                5   what is on this machine: shards, articles, quality
    │   └── ShardError                5   one shard that cannot be read or trusted
    │       └── TruncatedShard        5   one that ends too early: still being written, or a broken copy
    ├── DiskError                     6   local disk full or not writable
    └── Interrupted                 130   Ctrl-C (130) or SIGTERM (143); what can be resumed is kept

An error's text is one line that says what is wrong and where. Its `hint` is one line that says what to do next.
Text that came from a cluster or a file must have gone through `embmerge.plaintext.printable` before it gets here.
"""


class EmbmergeError(Exception):
    """Base of all errors raised on purpose.

    `message` says what is wrong and where, `hint` what to do next (may be empty), `exit_code` is for the shell.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EmbmergeError):
    """A flag or a value that cannot be used."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting that cannot be used."""


class CredentialsError(UsageError):
    """A credentials file that is missing, broken or incomplete."""


class ConnectError(EmbmergeError):
    """A cluster that cannot be reached or talked to."""

    exit_code = 3


class ConnectionLost(ConnectError):
    """A line that dropped, froze or was refused for now: the one error that is worth another try."""


class Unreached(ConnectionLost):
    """A host name that nobody knows, or a port where nobody listens: down for now, or never there at all."""


class LoginError(ConnectError):
    """A password, key or second factor that the server refused; never retried."""


class HostKeyError(ConnectError):
    """A host key that is unknown (strict) or not the one we know; never retried."""


class RemoteDataError(EmbmergeError):
    """What lies on a cluster is not what a merge needs."""

    exit_code = 4


class RemoteChanged(RemoteDataError):
    """A remote file that changed between two looks at it."""


class LocalDataError(EmbmergeError):
    """What lies on this machine is not what a merge needs."""

    exit_code = 5


class ShardError(LocalDataError):
    """A shard that cannot be read, or that is not to be trusted."""


class TruncatedShard(ShardError):
    """A shard that ends too early: still being written, or a copy that broke off."""


class DiskError(EmbmergeError):
    """The local disk is full or cannot be written."""

    exit_code = 6


class Interrupted(EmbmergeError):
    """The person (or the system) asked to stop."""

    exit_code = 130

"""What is shown of an error that no task has caught, since it came before any began."""

import sys
from types import TracebackType


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`: settings that are no YAML are shown as any other error, all else as Python does it.

    They are read between the tasks' file and the first task. By which YAML library is known by the error's name alone.
    """
    if not any(base.__name__ == "YAMLError" for base in kind.__mro__):
        sys.__excepthook__(kind, error, trace)
        return
    from embmerge.console import Console  # noqa: PLC0415  `invoke --list` waits for this file
    from embmerge.errors import SettingsError  # noqa: PLC0415

    failure = SettingsError(f"settings: {' '.join(str(error).split())}", hint="indent with blanks, never with tabs")
    with Console.choose() as console:
        console.error(failure)
    sys.exit(failure.exit_code)

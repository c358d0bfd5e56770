"""Errors that come before any task."""

import sys

import pytest

from embmerge.uncaught import hook


class YAMLError(Exception):
    """As that of Invoke's own YAML, or of the system's."""


class ScannerError(YAMLError):
    pass


def test_settings_that_are_no_yaml_are_told_in_two_lines(capfd):
    with pytest.raises(SystemExit) as end:
        hook(ScannerError, ScannerError("found a tab\n  in line 2"), None)
    said = capfd.readouterr()
    assert (end.value.code, said.out) == (2, "")
    assert said.err == "Error: settings: found a tab in line 2\n  indent with blanks, never with tabs\n"


def test_any_other_error_is_shown_as_python_does_it(capfd, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *what: seen.append(what))
    error = ValueError("x")
    hook(ValueError, error, None)
    assert (seen, capfd.readouterr()) == ([(ValueError, error, None)], ("", ""))

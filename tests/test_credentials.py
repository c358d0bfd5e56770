"""Credentials files: what they may hold, and what is said about those that hold something else."""

import json
import os
import traceback
from pathlib import Path

import pytest

from embmerge.errors import CredentialsError
from embmerge.events import Warned
from embmerge.remote import credentials as module
from embmerge.remote.credentials import configured, load_credentials

SECRET = "correct horse battery staple"


def put(folder, text, name="tensor01", mode=0o600):
    path = folder / f"{name}.credentials"
    path.write_text(text if isinstance(text, str) else json.dumps(text, indent=1))
    path.chmod(mode)
    return path


def refused(folder, text):
    put(folder, text)
    with pytest.raises(CredentialsError) as caught:
        load_credentials("tensor01", folder)
    return caught.value


def test_address_username_and_password_are_enough(tmp_path):
    put(tmp_path, {"address": "h", "username": "ada", "password": SECRET})
    assert load_credentials("tensor01", tmp_path).secret() == SECRET


def test_no_secret_stands_in_repr_or_str(tmp_path):
    put(tmp_path, {"address": "h", "password": SECRET, "passphrase": SECRET})
    credentials = load_credentials("tensor01", tmp_path)
    assert SECRET not in repr(credentials) + str(credentials)


def test_an_unknown_key_is_named_with_its_line(tmp_path):
    error = refused(tmp_path, '{\n "address": "h",\n "pasword": "x"\n}')
    assert "line 3: unknown key 'pasword'" in error.message
    assert "password" in error.hint
    assert error.exit_code == 2


def test_a_wrong_type_is_named_with_its_line_and_what_was_expected(tmp_path):
    error = refused(tmp_path, '{\n "address": "h",\n\n "port": "22"\n}')
    assert "line 4: 'port': expected a whole number" in error.message


def test_a_byte_order_mark_which_notepad_writes_is_passed_over(tmp_path):
    put(tmp_path, '\ufeff{"address": "h"}')
    assert load_credentials("tensor01", tmp_path).address == "h"


@pytest.mark.parametrize("address", ["::1", " ::1\t", "[::1]"])
def test_an_address_may_wear_brackets_and_blanks(tmp_path, address):
    put(tmp_path, {"address": address})
    assert load_credentials("tensor01", tmp_path).address == "::1"


def test_an_address_of_blanks_is_none(tmp_path):
    assert "'address': expected" in refused(tmp_path, {"address": "  "}).message


def test_broken_json_is_named_with_line_and_column(tmp_path):
    assert "line 2" in refused(tmp_path, '{"address": "h",\n "username" "ada"}').message


@pytest.mark.parametrize("text", ["[]", '"x"', "null", "7", "[" * 50_000])
def test_something_else_than_an_object_is_refused(tmp_path, text):
    assert "JSON" in refused(tmp_path, text).message


def test_a_missing_address_is_named(tmp_path):
    assert "'address' is missing" in refused(tmp_path, "{}").message


def test_a_key_that_stands_twice_is_refused(tmp_path):
    assert "twice" in refused(tmp_path, '{"address": "a", "address": "b"}').message


def test_all_problems_are_told_at_once(tmp_path):
    message = refused(tmp_path, {"port": 0, "user": "x"}).message
    assert all(word in message for word in ("address", "port", "user"))


def test_the_files_own_name_cannot_be_set(tmp_path):
    assert "unknown key 'name'" in refused(tmp_path, {"address": "h", "name": "other"}).message


def test_a_bad_password_is_never_echoed(tmp_path):
    error = refused(tmp_path, {"address": "h", "password": [SECRET]})
    shown = "".join(traceback.format_exception(error)) + error.hint
    assert SECRET not in shown


def test_a_file_that_others_may_read_gets_a_warning_naming_the_chmod(tmp_path):
    path = put(tmp_path, {"address": "h"}, mode=0o644)
    seen = []
    load_credentials("tensor01", tmp_path, seen.append)
    assert seen == [Warned(f"others may read {path}; run: chmod 600 {path}", "tensor01")]


def test_a_missing_file_names_those_that_are_there(tmp_path):
    put(tmp_path, {"address": "h"}, name="tensor02")
    with pytest.raises(CredentialsError) as caught:
        load_credentials("tensor01", tmp_path)
    assert "tensor02" in caught.value.hint


@pytest.mark.parametrize("name", ["tensor 02", "tensör", "-x"])
def test_a_file_that_is_not_named_as_a_cluster_is_not_passed_over_in_silence(tmp_path, name):
    put(tmp_path, {"address": "h"})
    put(tmp_path, {"address": "h"}, name=name)
    warned = []
    assert configured(tmp_path, warned.append) == ("tensor01",)
    assert [event.text.partition(" is passed over: ")[0] for event in warned] == [f"{tmp_path / name}.credentials"]


def test_what_an_editor_hides_is_no_credentials_file(tmp_path):
    put(tmp_path, {"address": "h"})
    (tmp_path / ".#tensor02.credentials").symlink_to("me@here")
    assert configured(tmp_path) == ("tensor01",)


@pytest.mark.parametrize("name", ["../tensor01", "a/b", "", ".", "\x1b[2J"])
def test_a_name_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(CredentialsError):
        load_credentials(name, tmp_path)


def test_a_password_command_gives_its_first_line(tmp_path):
    put(tmp_path, {"address": "h", "password_command": f"printf '{SECRET}\\nmore\\n'"})
    assert load_credentials("tensor01", tmp_path).secret() == SECRET


@pytest.mark.parametrize("command", [f"echo '{SECRET}'; exit 3", "true"])
def test_a_password_command_that_fails_never_shows_what_it_printed(tmp_path, command):
    put(tmp_path, {"address": "h", "password_command": command})
    with pytest.raises(CredentialsError) as caught:
        load_credentials("tensor01", tmp_path).secret()
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("command", [f"TOKEN={SECRET} false", f"env TOKEN={SECRET} false", f"TOKEN={SECRET} true"])
def test_a_password_command_that_fails_shows_no_secret_that_it_was_given(tmp_path, command):
    put(tmp_path, {"address": "h", "password_command": command})
    with pytest.raises(CredentialsError) as caught:
        load_credentials("tensor01", tmp_path).secret()
    assert SECRET not in caught.value.message + caught.value.hint


def test_a_password_that_is_no_text_is_told_without_showing_it(tmp_path):
    put(tmp_path, {"address": "h", "password_command": "printf 'caf\\351\\n'"})
    with pytest.raises(CredentialsError, match="something else than UTF-8") as caught:
        load_credentials("tensor01", tmp_path).secret()
    assert "xe9" not in "".join(traceback.format_exception(caught.value))


def test_configured_clusters_are_those_with_a_file(tmp_path):
    put(tmp_path, {}, name="b")
    put(tmp_path, {}, name="a")
    (tmp_path / "known_hosts").touch()
    assert configured(tmp_path) == ("a", "b")


def test_no_folder_says_how_to_begin(tmp_path):
    with pytest.raises(CredentialsError) as caught:
        configured(tmp_path / "none")
    assert "cp -r .credentials.example" in caught.value.hint


def test_a_password_command_has_a_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_COMMAND_LIMIT", 0.1)
    put(tmp_path, {"address": "h", "password_command": "exec sleep 60"})
    with pytest.raises(CredentialsError, match="took more than"):
        load_credentials("tensor01", tmp_path).secret()


def test_the_examples_are_credentials():
    examples = Path(__file__).parent.parent / ".credentials.example"
    assert [load_credentials(name, examples).address for name in configured(examples)] == [
        "tensor01.example.com",
        "tensor02.example.com",
    ]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.credentials", 0o600)
    with pytest.raises(CredentialsError, match="is no file"):
        load_credentials("a", tmp_path)


@pytest.mark.parametrize("key", ["password", "username", "password_command"])
@pytest.mark.parametrize("text", ["\\ud800", "\\u0000"])
def test_text_that_can_be_sent_to_nobody_is_refused(tmp_path, key, text):
    path = tmp_path / "a.credentials"
    path.touch(mode=0o600)
    path.write_text(f'{{"address": "h", "{key}": "x{text}"}}')
    with pytest.raises(CredentialsError, match=f"line 1: '{key}': expected text that can be sent"):
        load_credentials("a", tmp_path)


def test_a_number_of_thousands_of_digits_is_refused(tmp_path):
    path = tmp_path / "a.credentials"
    path.touch(mode=0o600)
    path.write_text(f'{{"address": "h", "port": {"9" * 5000}}}')
    with pytest.raises(CredentialsError, match=r"a\.credentials"):
        load_credentials("a", tmp_path)


def test_a_folder_that_may_not_be_looked_for_is_an_error_of_the_credentials(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda _path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(CredentialsError, match="Permission denied"):
        configured(tmp_path)

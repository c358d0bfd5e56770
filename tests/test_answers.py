"""What an SFTP server answers, byte by byte."""

import errno
import os
import struct

import pytest

from embmerge.remote import answers
from embmerge.remote.files import RemoteStat
from embmerge.remote.inbox import Reply, WireError

SIZE, OWNER, MODE, TIMES, MORE = 1, 2, 4, 8, 0x80000000
FILE, FOLDER = 0o100644, 0o040755


def text(raw):
    return struct.pack(">I", len(raw)) + raw


def facts(flags=SIZE | OWNER | MODE | TIMES, *, mode=FILE, more=()):
    fields = {SIZE: (">Q", 5), OWNER: (">II", 1000, 1000), MODE: (">I", mode), TIMES: (">II", 1, 2)}
    raw = b"".join(struct.pack(*fields[flag]) for flag in fields if flags & flag)
    return (
        struct.pack(">I", flags)
        + raw
        + (struct.pack(">I", len(more) // 2) + b"".join(map(text, more)))[: None if flags & MORE else 0]
    )


def named(*entries):
    body = struct.pack(">I", len(entries)) + b"".join(text(name) + text(b"-rw") + after for name, after in entries)
    return Reply(answers.NAME, 1, body)


def status(code, words=b""):
    return Reply(answers.STATUS, 1, struct.pack(">I", code) + text(words) + text(b"en"))


def test_attributes_are_size_time_and_kind():
    assert answers.attributes(Reply(answers.ATTRS, 1, facts()), "x") == RemoteStat(5, 2, regular=True)


def test_a_folder_is_one():
    assert answers.attributes(Reply(answers.ATTRS, 1, facts(mode=FOLDER)), "x").directory


def test_attributes_that_nobody_knows_are_passed_over():
    entry = facts(SIZE | MODE | TIMES | MORE, more=(b"acl@example", b"..."))
    (first, second) = answers.names(named((b"a", entry), (b"b", facts())), "x")
    assert [first[0], second[0]] == ["a", "b"]


@pytest.mark.parametrize("missing", [SIZE, MODE, TIMES])
def test_attributes_without_size_mode_or_times_are_an_error_of_that_file(missing):
    assert isinstance(answers.attributes(Reply(answers.ATTRS, 1, facts(15 & ~missing)), "x"), OSError)


def test_names_of_any_bytes_come_as_the_system_writes_them():
    assert answers.names(named((b"\xff.pkl", facts())), "x")[0][0] == os.fsdecode(b"\xff.pkl")


@pytest.mark.parametrize("count", [1, 1 << 31])
def test_names_that_are_cut_short_are_no_sftp(count):
    with pytest.raises(WireError):
        answers.names(Reply(answers.NAME, 1, struct.pack(">I", count)), "x")


def test_an_absolute_path_is_the_first_name():
    assert answers.absolute(named((b"/home/x", facts())), "x") == "/home/x"


def test_a_path_without_a_name_is_no_sftp():
    with pytest.raises(WireError):
        answers.absolute(named(), "x")


@pytest.mark.parametrize("body", [b"", struct.pack(">I", 9) + b"ab", struct.pack(">I", 0)])
def test_a_handle_that_is_cut_short_is_no_sftp(body):
    with pytest.raises(WireError):
        answers.handle(Reply(answers.HANDLE, 1, body), "x")


def test_every_cut_of_attributes_is_refused():
    whole = facts()
    for end in range(len(whole)):
        with pytest.raises(WireError):
            answers.attributes(Reply(answers.ATTRS, 1, whole[:end]), "x")


@pytest.mark.parametrize("ask", [answers.handle, answers.attributes, answers.names, answers.absolute])
def test_what_the_server_has_against_it_is_given_back(ask):
    assert ask(status(3, b"not yours"), "x").errno == errno.EACCES


@pytest.mark.parametrize("ask", [answers.handle, answers.attributes, answers.names, answers.absolute])
def test_an_answer_of_another_kind_is_no_sftp(ask):
    with pytest.raises(WireError):
        ask(Reply(answers.STATUS + 50, 1, bytes(8)), "x")


@pytest.mark.parametrize(
    ("code", "number"), [(1, errno.ENODATA), (2, errno.ENOENT), (3, errno.EACCES), (4, errno.EIO), (99, errno.EIO)]
)
def test_each_code_is_the_error_that_fits_best(code, number):
    assert answers.problem(status(code), "x").errno == number


def test_words_of_the_server_cannot_steer_a_terminal():
    assert "\x1b" not in answers.problem(status(4, b"\x1b[2Jgone"), "x").strerror

"""What the server answers, taken apart; here by hand, byte by byte if need be."""

import struct

import pytest
from paramiko.buffered_pipe import PipeTimeout

from embmerge.remote.inbox import DATA, Inbox, Read, Reply, WireError

WAKE = 1 << 20


class File:
    def __init__(self):
        self.content = bytearray(100)
        self.writes = 0

    def __call__(self, offset, parts):
        data = b"".join(parts)
        self.content[offset : offset + len(data)] = data
        self.writes += 1


def data(number, content):
    return struct.pack(">IBII", 9 + len(content), DATA, number, len(content)) + content


def status(number, body=b""):
    return struct.pack(">IBI", 5 + len(body), 101, number) + body


def inbox_for(*reads):
    inbox = Inbox(WAKE)
    for number, read in enumerate(reads, 1):
        inbox.expect(number, read)
    return inbox


@pytest.mark.parametrize("step", [1, 2, 7, 12, 13, 1000])
def test_answers_are_understood_however_they_are_cut(step):
    file = File()
    reads = Read(10, 5, file), Read(20, 3, file)
    inbox = inbox_for(*reads)
    stream = data(1, b"hello") + status(9, b"no") + data(2, b"you")
    for at in range(0, len(stream), step):
        inbox.feed(stream[at : at + step])
    assert file.content[10:15] + file.content[20:23] == b"helloyou"
    expected = [Reply(DATA, 1, nbytes=5, read=reads[0]), Reply(101, 9, b"no"), Reply(DATA, 2, nbytes=3, read=reads[1])]
    assert inbox.take() == expected


def test_the_packets_of_one_answer_are_written_at_once():
    file = File()
    inbox = inbox_for(Read(0, 6, file))
    for part in (data(1, b"abcdef")[:15], b"cd", b"ef"):
        inbox.feed(part)
    assert (file.content[:6], file.writes) == (b"abcdef", 1)


@pytest.mark.parametrize("end", ["close", "shut"])
def test_what_came_of_an_answer_before_the_line_went_is_not_lost(end):
    file = File()
    read = Read(0, 6, file)
    inbox = inbox_for(read)
    inbox.feed(data(1, b"abcdef")[:17])
    getattr(inbox, end)()
    assert (file.content[:4], read.received) == (b"abcd", 4)


def test_nothing_is_written_after_shut():
    file = File()
    inbox = inbox_for(Read(0, 3, file))
    inbox.shut()
    inbox.feed(data(1, b"abc"))
    assert file.writes == 0


@pytest.mark.parametrize(
    "stream",
    [
        data(2, b"nobody asked"),
        data(1, b"more than asked"),
        struct.pack(">IBII", 99, DATA, 1, 3) + b"abc",
        struct.pack(">IBI", 1 << 30, 101, 1),
        struct.pack(">IBI", 2, 101, 1),
    ],
)
def test_what_cannot_be_understood_is_a_wire_error(stream):
    inbox = inbox_for(Read(0, 3, File()))
    inbox.feed(stream)
    assert isinstance(inbox.failure, WireError)


def test_an_error_of_the_sink_is_kept_for_the_user():
    def full(_offset, _parts):
        raise OSError("disk full")

    inbox = inbox_for(Read(0, 3, full))
    inbox.feed(data(1, b"abc"))
    assert str(inbox.failure) == "disk full"


def test_bytes_that_the_sink_refuses_do_not_count_as_received():
    def full(_offset, _parts):
        raise OSError("disk full")

    read = Read(0, 3, full)
    inbox_for(read).feed(data(1, b"abc"))
    assert read.received == 0


def test_read_returns_as_much_as_is_to_be_acknowledged():
    inbox = inbox_for()
    inbox.feed(status(1))
    assert len(inbox.read(1)) == 9
    inbox.take()
    with pytest.raises(PipeTimeout):
        inbox.read(1, 0.01)


def test_read_returns_when_the_channel_closes():
    inbox = inbox_for()
    inbox.close()
    assert len(inbox.read(1, 5)) == 0
    assert inbox.closed


def test_silence_counts_from_the_last_byte_or_request():
    now = [0.0]
    inbox = Inbox(WAKE, clock=lambda: now[0])
    now[0] = 5
    assert inbox.silent_for() == 5
    inbox.feed(status(1))
    now[0] = 7
    assert inbox.silent_for() == 2
    inbox.listen()
    assert inbox.silent_for() == 0


def test_a_patient_reader_is_woken_for_several_answers_at_once():
    inbox = inbox_for(*(Read(10 * n, 5, File()) for n in range(3)))
    inbox.patience = 2
    inbox.feed(data(1, b"hello"))
    assert not inbox.read_ready()
    inbox.feed(data(2, b"hello"))
    assert inbox.read_ready()


@pytest.mark.parametrize("answer", [status(1), data(1, b"hel")], ids=["a refusal", "less than was asked for"])
def test_a_patient_reader_is_woken_for_what_it_did_not_expect(answer):
    inbox = inbox_for(Read(0, 5, File()))
    inbox.patience = 9
    inbox.feed(answer)
    assert inbox.read_ready()


def test_answers_that_nobody_takes_end_the_session_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr("embmerge.remote.inbox._MOST", 50)
    inbox = Inbox(wake_at=1 << 20)
    inbox.feed(struct.pack(">IBI", 5, 101, 7) * 51)
    assert isinstance(inbox.failure, WireError)

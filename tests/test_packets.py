"""Packets as OpenSSH seals them with AES-GCM, over a real pair of sockets; and keys agreed on again by real servers."""

import socket
import sys
import threading

import paramiko
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EOF
from paramiko.packet import NeedRekeyException

from embmerge.remote import packets
from embmerge.remote.packets import Packets, ReadAhead
from tests.syncing import Lab

KEY, SALT = bytes(range(16)), b"salt"


class Line:
    """The server's end of a line, which seals what it sends, and our packets at the other."""

    def __init__(self):
        self.end, ours = socket.socketpair()
        ours.settimeout(0.02)
        self.packets = Packets(ReadAhead(ours))
        self.taken = []
        self.agree()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.end.close()
        self.packets.close()

    def agree(self):
        """Begin with new keys."""
        self.packets.set_inbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_in=SALT + bytes(8))
        self.sent = 0

    def sealed(self, payload):
        padding = 4 + -(len(payload) + 5) % 16
        packet = bytes([padding]) + payload + bytes(padding)
        nonce = SALT + self.sent.to_bytes(8, "big")
        self.sent += 1
        head = len(packet).to_bytes(4, "big")
        return head + AESGCM(KEY).encrypt(nonce, packet, head)

    def send(self, *payloads):
        self.end.sendall(b"".join(map(self.sealed, payloads)))

    def take(self, channel=7):
        self.packets.deliver(channel, lambda parts: self.taken.extend((channel, bytes(part)) for part in parts))


def data(text, channel=7):
    return bytes([MSG_CHANNEL_DATA]) + channel.to_bytes(4, "big") + len(text).to_bytes(4, "big") + text


def eof(channel=7):
    return bytes([MSG_CHANNEL_EOF]) + channel.to_bytes(4, "big")


@pytest.fixture
def line():
    with Line() as line:
        yield line


def test_what_is_no_data_goes_to_paramiko(line):
    line.send(eof(3))
    kind, message = line.packets.read_message()
    assert (kind, message.get_int(), message.get_remainder()) == (MSG_CHANNEL_EOF, 3, b"")


def test_data_of_a_channel_that_nobody_takes_goes_to_paramiko(line):
    line.take(7)
    line.send(data(b"abc", channel=8))
    kind, message = line.packets.read_message()
    assert (kind, message.get_int(), message.get_binary(), line.taken) == (MSG_CHANNEL_DATA, 8, b"abc", [])


def test_data_reach_their_takers_before_the_packet_that_follows(line):
    line.take(7)
    line.take(9)
    line.send(data(b"a"), data(b"b", 9), data(b"c"), eof())
    assert line.packets.read_message()[0] == MSG_CHANNEL_EOF
    assert line.taken == [(7, b"a"), (9, b"b"), (7, b"c")]


def test_data_go_to_paramiko_again_once_nobody_takes_them(line):
    line.take(7)
    line.packets.deliver(7, None)
    line.send(data(b"abc"))
    assert line.packets.read_message()[0] == MSG_CHANNEL_DATA


def test_a_packet_may_come_byte_by_byte(line):
    line.take(7)
    raw = line.sealed(data(b"x" * 100)) + line.sealed(eof())

    def drip():
        for at in range(len(raw)):
            line.end.sendall(raw[at : at + 1])

    thread = threading.Thread(target=drip)
    thread.start()
    assert line.packets.read_message()[0] == MSG_CHANNEL_EOF
    thread.join()
    assert line.taken == [(7, b"x" * 100)]


def test_more_than_one_receive_holds_is_taken_in_order(line):
    line.take(7)
    blocks = [bytes([number]) * 32_000 for number in range(50)]
    thread = threading.Thread(target=line.send, args=(*map(data, blocks), eof()))
    thread.start()
    assert line.packets.read_message()[0] == MSG_CHANNEL_EOF
    thread.join()
    assert line.taken == [(7, block) for block in blocks]


def test_a_packet_that_was_changed_on_the_way_is_refused(line):
    raw = bytearray(line.sealed(data(b"abc")))
    raw[10] ^= 1
    line.end.sendall(raw)
    with pytest.raises(paramiko.SSHException, match="damaged"):
        line.packets.read_message()


def test_a_packet_that_comes_twice_is_refused(line):
    raw = line.sealed(eof())
    line.end.sendall(raw + raw)
    line.packets.read_message()
    with pytest.raises(paramiko.SSHException, match="damaged"):
        line.packets.read_message()


@pytest.mark.parametrize("length", [0, 15, 256 * 1024 + 1, 0xFFFFFFFF])
def test_a_length_that_no_packet_has_is_refused_before_anything_is_held(line, length):
    line.end.sendall(length.to_bytes(4, "big") + bytes(100))
    with pytest.raises(paramiko.SSHException, match=f"a packet of {length} bytes"):
        line.packets.read_message()


@pytest.mark.parametrize("padding", [20, 200, 255])
def test_a_packet_of_nothing_but_padding_is_refused(line, padding):
    packet = bytes([padding]) + bytes(20)
    head = len(packet).to_bytes(4, "big")
    line.end.sendall(head + AESGCM(KEY).encrypt(SALT + bytes(8), packet, head))
    with pytest.raises(paramiko.SSHException, match="padding"):
        line.packets.read_message()


@pytest.mark.parametrize("said", [0, 2, 4, 0xFFFFFFFF])
def test_data_whose_length_is_another_are_refused(line, said):
    line.take(7)
    line.send(data(b"")[:5] + said.to_bytes(4, "big") + b"abc" + bytes(8))
    with pytest.raises(paramiko.SSHException, match="do not agree"):
        line.packets.read_message()
    assert line.taken == []


def test_the_end_of_the_line_is_the_end(line):
    line.end.close()
    with pytest.raises(EOFError):
        line.packets.read_message()


def test_a_line_that_we_close_ends_whoever_waits_for_it(line):
    timer = threading.Timer(0.05, line.packets.close)
    timer.start()
    with pytest.raises(EOFError):
        line.packets.read_message()


def test_new_keys_are_asked_for_after_as_many_packets_as_paramiko_says(line, monkeypatch):
    monkeypatch.setattr(Packets, "REKEY_PACKETS", 3)
    line.take(7)
    line.send(*[data(b"x")] * 3)
    with pytest.raises(NeedRekeyException):
        line.packets.read_message()
    assert len(line.taken) == 3


def test_new_keys_are_asked_for_after_as_many_bytes_as_paramiko_says(line, monkeypatch):
    monkeypatch.setattr(Packets, "REKEY_BYTES", 100)
    line.take(7)
    line.send(data(b"x" * 100))
    with pytest.raises(NeedRekeyException):
        line.packets.read_message()


def test_with_new_keys_packets_are_counted_anew(line, monkeypatch):
    monkeypatch.setattr(Packets, "REKEY_PACKETS", 4)
    for _ in range(2):
        line.send(eof(), eof(), eof())
        for _ in range(3):
            line.packets.read_message()
        line.agree()
    assert not line.packets.need_rekey()


def test_new_keys_that_are_due_are_not_waited_for(line):
    line.packets._trigger_rekey()
    with pytest.raises(NeedRekeyException):
        line.packets.read_message()


def test_a_handshake_that_takes_too_long_is_the_end(line):
    line.packets.start_handshake(0.01)
    with pytest.raises(EOFError):
        line.packets.read_message()


def test_a_line_on_which_nothing_comes_is_kept_alive(line):
    line.packets.set_outbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_out=SALT + bytes(8))
    line.packets.set_keepalive(0.01, lambda: line.send(eof()))
    assert line.packets.read_message()[0] == MSG_CHANNEL_EOF


def test_a_packet_knows_its_number(line):
    line.packets.reset_seqno_in()
    line.take(7)
    line.send(data(b"x"), eof(), eof())
    assert [line.packets.read_message()[1].seqno for _ in range(2)] == [1, 2]


def test_a_connection_that_holds_its_turn_for_long_does_not_silence_the_others(line, monkeypatch):
    monkeypatch.setattr(packets, "_WITHOUT", 0.01)
    line.take(7)
    line.send(data(b"a"), eof())
    with packets._turn:
        assert line.packets.read_message()[0] == MSG_CHANNEL_EOF
    assert line.taken == [(7, b"a")]


def test_data_that_come_while_others_are_handed_out_are_taken_in_the_same_turn(line):
    later = [data(b"b")]

    def take(parts):
        line.taken += map(bytes, parts)
        line.send(*later)
        later.clear()

    line.packets.deliver(7, take)
    line.send(data(b"a"))
    line.packets._receive()
    assert line.packets._take() is None
    assert line.taken == [b"a", b"b"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such option")
def test_a_short_answer_is_acknowledged_at_once():
    with socket.create_server(("127.0.0.1", 0)) as door:
        ours, (theirs, _) = socket.create_connection(door.getsockname()), door.accept()
    with ours, theirs:
        for _ in range(8):  # question and answer, after which Linux acknowledges with the next question
            theirs.sendall(b"?")
            ours.recv(1)
            ours.sendall(b"!")
        before = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        theirs.sendall(b"?")
        ReadAhead(ours).receive()
        assert (before, ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)) == (0, 1)


@pytest.mark.parametrize("sshd", [None, {"lines": ["RekeyLimit 256K"]}], ids=["embedded", "OpenSSH"])
def test_shards_arrive_whole_while_keys_are_agreed_on_again_and_again(tmp_path, monkeypatch, sshd):
    monkeypatch.setattr(Packets, "REKEY_BYTES", 300_000)
    with Lab(tmp_path, sshd=sshd) as lab:
        lab.shards(3, rows=2048)
        result = lab.sync(connections=1)
        assert (result.error, len(lab.same())) == (None, 3)


def test_what_a_proxy_command_has_is_taken_as_it_comes():
    command = paramiko.ProxyCommand("printf hello")
    command.settimeout(0.1)
    ahead = ReadAhead(command)
    assert (ahead.receive(), ahead.receive()) == (5, 0)  # paramiko's own waits for more, and never finds the end
    command.process.wait()


def test_a_proxy_command_that_has_nothing_is_no_end():
    command = paramiko.ProxyCommand("cat")
    with pytest.raises(TimeoutError):
        ReadAhead(command).receive()
    assert ReadAhead(command).receive(wait=False) == 0
    command.close()
    command.process.wait()

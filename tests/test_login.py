"""Who may log in: every way there is, against OpenSSH or the embedded server."""

import asyncio
import base64
import os
import shutil
import socket
import struct
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import asyncssh
import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from embmerge.errors import ConnectError, ConnectionLost, CredentialsError, LoginError, Unreached
from embmerge.events import Connected, Detail, Retrying
from tests.relay import Relay
from tests.servers import PASSWORD, Agent, Login, Sshd, embedded, free_port, make_key, need_sshd

CODE = "123456"


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path / "keys" / "mine")


@pytest.fixture
def sshd(tmp_path, key):
    with Sshd(tmp_path, keys=[key]) as sshd:
        yield sshd


@pytest.fixture
def server(tmp_path):
    """Starts embedded servers with the accounts that it is given; returns their ports."""
    with ExitStack() as running:

        def start(**accounts):
            folder = tmp_path / f"home{len(list(tmp_path.glob('home*')))}"
            return running.enter_context(embedded(folder, lambda: Login(**accounts))).port

        yield start


def works(cluster):
    """The connection does what a connection is for."""
    cluster.connect()
    with cluster.sftp() as sftp:
        return sftp.normalize(".")


# --- one factor -------------------------------------------------------------------------------------------------------


def test_a_password_logs_in_to_openssh(tmp_path, desk):
    with Sshd(tmp_path, account=True) as sshd:
        desk.write(port=sshd.port, username="worker", password=PASSWORD)
        assert works(desk.cluster()) == "/mnt"


def test_a_wrong_password_is_refused_once_and_says_where_to_correct_it(tmp_path, desk):
    with Sshd(tmp_path, account=True) as sshd:
        desk.write(port=sshd.port, username="worker", password="wrong-wrong")
        with pytest.raises(LoginError) as caught:
            desk.cluster(retries=5).connect()
    assert "a: authentication failed: worker@127.0.0.1 did not accept the password" in caught.value.message
    assert str(desk.credentials / "a.credentials") in caught.value.hint
    assert caught.value.exit_code == 3
    assert "wrong-wrong" not in str(caught.value) + caught.value.hint


def test_a_wrong_password_is_never_tried_again(server, desk):
    tried = []
    desk.write(port=server(passwords={"me": "right"}, tried=tried), username="me", password="wrong")
    with pytest.raises(LoginError):
        desk.cluster(retries=5).connect()
    assert tried == ["password"]


def test_too_many_keys_of_the_agent_are_told_and_never_tried_again(sshd, key, tmp_path, desk, monkeypatch):
    sshd.stop()
    sshd.lines.append("MaxAuthTries 1")
    sshd.start()
    desk.write(port=sshd.port, username=sshd.user)
    others = [make_key(tmp_path / "keys" / f"other{number}") for number in range(2)]
    with Agent(tmp_path, monkeypatch, [*others, key]), pytest.raises(LoginError, match="too many authentication fail"):
        desk.cluster(retries=5).connect()
    assert not desk.seen(Retrying)


def test_a_password_command_is_run_once_for_all_connections(server, desk, tmp_path):
    command = f"echo x >> {tmp_path / 'runs'}; echo pw"
    desk.write(port=server(passwords={"me": "pw"}), username="me", password_command=command)
    cluster = desk.connected()
    cluster.hang_up(cluster.another())
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_connection_is_kept_alive_as_often_as_is_set(server, desk, monkeypatch):
    asked = []
    monkeypatch.setattr(paramiko.Transport, "set_keepalive", lambda _transport, seconds: asked.append(seconds))
    desk.write(port=server(passwords={"me": "pw"}), username="me", password="pw")
    desk.connected(keepalive=7)
    assert asked == [7]


def test_a_login_that_was_refused_leaves_no_connection_open(server, desk):
    with Relay(server(passwords={"me": "right"})) as relay:
        desk.write(port=relay.port, username="me", password="wrong")
        with pytest.raises(LoginError):
            desk.cluster().connect()
        assert relay.over.wait(5)


def test_a_key_logs_in(sshd, key, desk):
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key))
    assert works(desk.cluster()) == str(sshd.home)


def test_a_key_with_a_passphrase_logs_in(tmp_path, desk):
    locked = make_key(tmp_path / "keys" / "locked", passphrase="open sesame")
    with Sshd(tmp_path, keys=[locked]) as sshd:
        desk.write(port=sshd.port, username=sshd.user, key_file=str(locked), passphrase="open sesame")
        assert works(desk.cluster())


@pytest.mark.parametrize(
    ("facts", "message"),
    [({}, "needs a passphrase"), ({"passphrase": "no sesame"}, "cannot be opened with this passphrase")],
)
def test_a_key_that_cannot_be_opened_says_why(tmp_path, desk, facts, message):
    locked = make_key(tmp_path / "keys" / "locked", passphrase="open sesame")
    with Sshd(tmp_path, keys=[locked]) as sshd:
        desk.write(port=sshd.port, username=sshd.user, key_file=str(locked), **facts)
        with pytest.raises(CredentialsError, match=message) as caught:
            desk.cluster().connect()
    assert "sesame" not in str(caught.value)


def unknown_key(kind):
    """A private key that no library of ours can use: one on a FIDO stick, or of a type that SSH never had."""
    if kind == "Ed448":
        key = ed448.Ed448PrivateKey.generate()
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def text(raw):
        return struct.pack(">I", len(raw)) + raw

    name, public = b"sk-ssh-ed25519@openssh.com", text(bytes(32)) + text(b"ssh:")
    private = bytes(8) + text(name) + public + b"\1" + text(bytes(64)) + text(b"") + text(b"me")
    private += bytes(range(1, 1 + -len(private) % 8))
    head = b"openssh-key-v1\0" + text(b"none") * 2 + text(b"") + struct.pack(">I", 1)
    raw = base64.encodebytes(head + text(text(name) + public) + text(private))
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + raw + b"-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize("kind", ["FIDO", "Ed448"])
def test_a_key_of_an_unknown_type_hides_no_other(sshd, key, desk, own_home, kind):
    unknown = own_home / "id_unknown"
    unknown.write_bytes(unknown_key(kind))
    (own_home / "config").write_text(f"Host *\n  IdentityFile {unknown}\n  IdentityFile {key}\n")
    desk.write(port=sshd.port, username=sshd.user)
    desk.connected()
    desk.write(port=sshd.port, username=sshd.user, key_file=str(unknown))
    with pytest.raises(CredentialsError, match="of a kind that cannot be used here"):
        desk.cluster().connect()


def test_a_missing_key_file_is_named(sshd, desk, tmp_path):
    desk.write(port=sshd.port, username=sshd.user, key_file=str(tmp_path / "nowhere"))
    with pytest.raises(CredentialsError, match=r"no key file .*nowhere"):
        desk.cluster().connect()


def test_a_key_file_in_a_home_that_nobody_has_is_missing(sshd, desk):
    desk.write(port=sshd.port, username=sshd.user, key_file="~nobody-of-that-name/key")
    with pytest.raises(CredentialsError, match="no key file ~nobody-of-that-name/key"):
        desk.cluster().connect()


def test_a_refused_key_is_named(sshd, tmp_path, desk):
    other = make_key(tmp_path / "keys" / "other")
    desk.write(port=sshd.port, username=sshd.user, key_file=str(other))
    with pytest.raises(LoginError, match=r"did not accept the key .*other"):
        desk.cluster(retries=5).connect()


def test_without_a_secret_the_agent_is_asked(sshd, key, tmp_path, desk, monkeypatch):
    desk.write(port=sshd.port, username=sshd.user)
    with Agent(tmp_path, monkeypatch, [key]):
        assert works(desk.cluster())


def test_without_a_secret_the_default_keys_are_tried(tmp_path, desk, own_home):
    with Sshd(tmp_path, keys=[make_key(own_home / "id_ed25519")]) as sshd:
        desk.write(port=sshd.port, username=sshd.user)
        assert works(desk.cluster())


def test_without_any_secret_the_error_says_what_the_server_takes(sshd, desk):
    desk.write(port=sshd.port, username=sshd.user)
    with pytest.raises(LoginError, match="wants a password or a key; it takes publickey"):
        desk.cluster().connect()


def test_agent_and_default_keys_are_left_alone_when_a_password_is_given(
    tmp_path, server, key, desk, own_home, monkeypatch
):
    tried = []
    make_key(own_home / "id_ed25519")
    desk.write(port=server(passwords={"me": "pw"}, keys=[key], tried=tried), username="me", password="pw")
    with Agent(tmp_path, monkeypatch, [key]):
        assert works(desk.cluster())
    assert tried == ["password"]


def test_agent_and_default_keys_are_left_alone_when_a_key_is_given(tmp_path, server, key, desk, own_home, monkeypatch):
    tried = []
    others = [make_key(own_home / "id_ed25519"), make_key(tmp_path / "keys" / "x")]
    desk.write(port=server(keys=[key], tried=tried), username="me", key_file=str(key))
    with Agent(tmp_path, monkeypatch, others):
        assert works(desk.cluster())
    assert set(tried) == {"key"}
    assert len(tried) <= 2  # asyncssh asks for each step of one try


def test_a_password_that_only_questions_take_is_answered_silently(server, desk):
    desk.write(port=server(questions=[("Password: ", "pw")]), username="me", password="pw")
    cluster = desk.cluster()
    assert works(cluster)
    assert not cluster.single


def test_a_login_without_a_shell_is_enough(tmp_path, key, desk):
    with Sshd(tmp_path, keys=[key], shell=False) as sshd:
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), remote_dir=str(sshd.home))
        (sshd.home / "cluster0_gpu0.pkl").write_bytes(b"x")
        assert [file.name for file in desk.connected().listing().shards] == ["cluster0_gpu0.pkl"]


def test_a_login_in_a_chroot_is_enough(tmp_path, desk):
    lines = ["ChrootDirectory /mnt"]
    with Sshd(tmp_path, account=True, shell=False, lines=lines) as sshd:
        (sshd.home / "out").mkdir()
        (sshd.home / "out" / "cluster0_gpu0.pkl").write_bytes(b"x")
        desk.write(port=sshd.port, username="worker", password=PASSWORD, remote_dir="out")
        listing = desk.connected().listing()
    assert listing.remote_dir == "/out"
    assert len(listing.shards) == 1


# --- a second factor --------------------------------------------------------------------------------------------------


@pytest.fixture
def asked():
    """Prompts that were shown; called with one, it answers with the code."""

    class Asked(list):
        def __call__(self, prompt):
            self.append(prompt)
            return CODE

    return Asked()


def test_a_code_is_asked_once_and_the_connection_is_the_only_one(server, desk, asked):
    desk.write(port=server(questions=[("Password: ", "pw"), ("Code: ", CODE)]), username="me", password="pw")
    cluster = desk.cluster(ask=asked)
    assert works(cluster)
    assert asked == ["a: Code: "]
    assert cluster.single
    with pytest.raises(ConnectError, match="another connection would need another code"):
        cluster.another()
    assert len(asked) == 1


def test_one_connection_of_a_code_carries_several_sessions(server, desk, asked):
    desk.write(port=server(questions=[("Code: ", CODE)]), username="me")
    cluster = desk.connected(ask=asked)
    with cluster.sftp() as one, cluster.sftp() as two:
        assert one.normalize(".") == two.normalize(".")
    assert len(asked) == 1


def test_without_a_terminal_the_question_is_told(server, desk):
    desk.write(port=server(questions=[("Password: ", "pw"), ("Code: ", CODE)]), username="me", password="pw")
    with pytest.raises(LoginError, match=r"asks for a second factor \('Code:'\), and there is no terminal") as caught:
        desk.cluster().connect()
    assert caught.value.exit_code == 3
    assert "run it in a terminal" in caught.value.hint


def test_a_question_for_a_password_that_nobody_gave_is_no_second_factor(server, desk):
    desk.write(port=server(questions=[("Password: ", "pw")]), username="me")
    with pytest.raises(LoginError, match="wants a password or a key; it takes password"):
        desk.cluster().connect()


def test_a_password_that_nobody_gave_was_not_refused(tmp_path, desk):
    lines = ["PasswordAuthentication no", "KbdInteractiveAuthentication yes", "MaxAuthTries 1"]
    with Sshd(tmp_path, account=True, lines=lines) as sshd:
        desk.write(port=sshd.port, username="worker")
        with pytest.raises(LoginError) as caught:
            desk.cluster(ask=None).connect()
    assert "did not accept the password" not in caught.value.message


def test_a_wrong_code_is_refused(server, desk):
    desk.write(port=server(questions=[("Code: ", CODE)]), username="me")
    with pytest.raises(LoginError, match="did not accept the answer"):
        desk.cluster(ask=lambda _prompt: "654321").connect()


def test_a_prompt_with_terminal_escapes_is_shown_as_text(server, desk, asked):
    desk.write(port=server(questions=[("\x1b[2JCode\n: ", CODE)]), username="me")
    desk.connected(ask=asked)
    assert asked == ["a: \\x1b[2JCode\\n: "]


@pytest.mark.parametrize(
    "questions",
    [[("Code: ", CODE)], [("One-time password: ", CODE)], [("Password: ", "pw"), ("Next password: ", CODE)]],
)
def test_a_password_is_the_answer_to_one_question_for_it_and_to_no_other(server, desk, asked, questions):
    desk.write(port=server(questions=questions), username="me", password="pw")
    desk.connected(ask=asked)
    assert asked == [f"a: {questions[-1][0]}"]


def test_a_person_may_take_longer_than_a_server(server, desk):
    def slowly(_prompt):
        threading.Event().wait(0.6)
        return CODE

    desk.write(port=server(questions=[("Code: ", CODE)]), username="me")
    assert works(desk.cluster(ask=slowly, connect_timeout=0.4, stall_timeout=0.4))


def test_a_server_that_asks_for_ever_is_left(server, desk, asked):
    desk.write(port=server(questions=[("Code: ", CODE)] * 99), username="me")
    with pytest.raises(LoginError, match="question after question"):
        desk.cluster(ask=asked).connect()
    assert len(asked) <= 5


# --- two hops ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path, key):
    with Sshd(tmp_path / "gate", keys=[key]) as sshd:
        yield sshd


def test_a_gateway_with_credentials_of_its_own_is_the_way(sshd, gateway, key, desk):
    desk.write("gate", port=gateway.port, username=gateway.user, key_file=str(key))
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")
    assert works(desk.cluster()) == str(sshd.home)
    assert [event.text.split(" as ")[0] for event in desk.seen(Detail)] == [
        f"logged in at 127.0.0.1:{gateway.port}",
        f"logged in at 127.0.0.1:{sshd.port}",
    ]


def test_the_gateways_host_key_is_written_like_the_clusters(sshd, gateway, key, desk):
    desk.write("gate", port=gateway.port, username=gateway.user, key_file=str(key))
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")
    desk.connected()
    assert [line.split()[0] for line in desk.known_hosts()] == [
        f"[127.0.0.1]:{gateway.port}",
        f"[127.0.0.1]:{sshd.port}",
    ]


def test_a_gateway_may_be_a_host_of_ssh_config(sshd, gateway, key, desk, own_home):
    (own_home / "config").write_text(
        f"Host door\n  HostName 127.0.0.1\n  Port {gateway.port}\n  User {gateway.user}\n  IdentityFile {key}\n"
    )
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="door")
    assert works(desk.cluster()) == str(sshd.home)


def test_an_alias_of_ssh_config_says_where_who_by_what_and_through_what(sshd, gateway, key, desk, own_home):
    (own_home / "config").write_text(
        f"Host door\n  HostName 127.0.0.1\n  Port {gateway.port}\n  User {gateway.user}\n  IdentityFile {key}\n"
        f"Host tensor\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {key}\n"
        "  ProxyJump door\n"
    )
    desk.write(address="tensor")
    assert works(desk.cluster()) == str(sshd.home)
    assert len(desk.seen(Detail)) == 2


def test_an_identity_of_ssh_config_may_lie_in_the_agent(tmp_path, desk, own_home, key, monkeypatch):
    locked = make_key(tmp_path / "keys" / "locked", passphrase="open sesame")
    with Sshd(tmp_path, keys=[key]) as sshd, Agent(tmp_path, monkeypatch, [key]):
        (own_home / "config").write_text(
            f"Host tensor\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {locked}\n"
        )
        desk.write(address="tensor")
        assert works(desk.cluster())


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_default_key_may_lie_in_the_agent_alone(tmp_path, desk, own_home, monkeypatch, kind):
    key = make_key(tmp_path / "keys" / "mine", kind=kind)
    with Sshd(tmp_path, keys=[key]) as sshd, Agent(tmp_path, monkeypatch, [key]):
        make_key(own_home / f"id_{kind}", passphrase="open sesame", kind=kind)
        desk.write(port=sshd.port, username=sshd.user)
        assert works(desk.cluster())


def test_default_keys_are_left_alone_where_ssh_config_names_another(tmp_path, desk, own_home, key):
    with Sshd(tmp_path, keys=[make_key(own_home / "id_ed25519")]) as sshd:
        (own_home / "config").write_text(
            f"Host tensor\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {key}\n"
        )
        desk.write(address="tensor")
        with pytest.raises(LoginError, match=f"did not accept the key {key}"):
            desk.cluster().connect()


def test_a_default_key_that_is_locked_hides_no_other(sshd, desk, own_home, key):
    make_key(own_home / "id_ed25519", passphrase="open sesame")
    shutil.copy(key, own_home / "id_rsa")  # of whatever kind it is
    desk.write(port=sshd.port, username=sshd.user)
    assert works(desk.cluster())


def test_a_default_key_that_nobody_can_open_is_told(sshd, desk, own_home):
    make_key(own_home / "id_ed25519", passphrase="open sesame")
    desk.write(port=sshd.port, username=sshd.user)
    with pytest.raises(CredentialsError, match="id_ed25519 needs a passphrase"):
        desk.cluster().connect()


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (b'Match exec "foo', "cannot"),
        (b"Host \xff\xfe", "cannot be read"),
        (b"Host tensor\n  ProxyJump door\nHost door\n  ProxyJump tensor\n", "leads through itself"),
        (b"Host tensor\n  ProxyCommand /does/not/exist %h\n", "cannot be run"),
    ],
)
def test_an_ssh_config_that_cannot_be_used_is_told_at_once(desk, own_home, config, what):
    (own_home / "config").write_bytes(config)
    desk.write(address="tensor", username="me", password="pw")
    with pytest.raises((CredentialsError, ConnectError), match=what) as caught:
        desk.cluster(retries=5).connect()
    assert not isinstance(caught.value, ConnectionLost)


def become_unknown(monkeypatch):
    """Become a user whom the system does not know, as in a container that was started with --user."""
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)


def test_who_has_no_name_is_told_to_take_one(desk, monkeypatch):
    desk.write(username="me", password="pw")
    become_unknown(monkeypatch)
    with pytest.raises(CredentialsError, match="user 54321, who runs this, has no name") as caught:
        desk.cluster().connect()
    assert "USER=" in caught.value.hint


def test_who_has_no_home_can_log_in_all_the_same(sshd, key, desk, monkeypatch):
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key))
    become_unknown(monkeypatch)
    monkeypatch.setenv("USER", "me")
    assert works(desk.cluster()) == str(sshd.home)


def test_two_users_are_one_too_many(desk):
    desk.write(address="me@host", username="you", password="pw")
    with pytest.raises(CredentialsError, match="has a user in it"):
        desk.cluster().connect()


def test_a_username_cannot_write_on_the_terminal(sshd, desk):
    desk.write(port=sshd.port, username="\x1b[31mme", password="pw")
    with pytest.raises(LoginError) as caught:
        desk.cluster().connect()
    assert "\x1b" not in caught.value.message


def test_a_passphrase_opens_the_identity_of_ssh_config(tmp_path, desk, own_home):
    locked = make_key(tmp_path / "keys" / "locked", passphrase="open sesame")
    with Sshd(tmp_path, keys=[locked]) as sshd:
        (own_home / "config").write_text(
            f"Host tensor\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {locked}\n"
        )
        desk.write(address="tensor", passphrase="open sesame")
        assert works(desk.cluster())


def tensor_behind_a_door(own_home, port, gateway, key):
    """`~/.ssh/config` that leads to 127.0.0.1:`port` through `gateway`."""
    (own_home / "config").write_text(
        f"Host door\n  HostName 127.0.0.1\n  Port {gateway.port}\n  User {gateway.user}\n  IdentityFile {key}\n"
        f"Host tensor\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump door\n"
    )


def test_a_password_is_for_the_cluster_and_never_for_a_hop_before_it(server, gateway, key, desk, own_home):
    tensor_behind_a_door(own_home, server(passwords={"me": "pw"}), gateway, key)
    desk.write(address="tensor", username="me", password="pw")
    assert works(desk.cluster())


def test_a_key_file_is_for_the_cluster_and_never_for_a_hop_before_it(tmp_path, server, gateway, key, desk, own_home):
    other = make_key(tmp_path / "keys" / "other")
    tensor_behind_a_door(own_home, server(keys=[other]), gateway, key)
    desk.write(address="tensor", username="me", key_file=str(other))
    assert works(desk.cluster())


def test_a_passphrase_is_for_the_clusters_key_and_never_for_one_of_a_hop(
    tmp_path, server, gateway, key, desk, own_home
):
    locked = make_key(tmp_path / "keys" / "locked", passphrase="open sesame")
    tensor_behind_a_door(own_home, server(keys=[locked]), gateway, key)
    desk.write(address="tensor", username="me", key_file=str(locked), passphrase="open sesame")
    assert works(desk.cluster())


def test_a_code_for_the_gateway_makes_the_connection_the_only_one(tmp_path, server, desk, asked):
    class Door(Login):
        def connection_requested(self, *_about):
            return True

    with embedded(tmp_path / "gate", lambda: Door(questions=[("Code: ", CODE)])) as gate:
        desk.write("gate", port=gate.port, username="me")
        desk.write(port=server(passwords={"me": "pw"}), username="me", password="pw", gateway="gate")
        cluster = desk.connected(ask=asked)
        assert asked == ["gate: Code: "]
        assert cluster.single


def test_a_gateway_whose_line_dropped_is_opened_again(sshd, gateway, key, desk):
    with Relay(gateway.port) as way:
        desk.write("gate", port=way.port, username=gateway.user, key_file=str(key))
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")
        cluster = desk.connected()
        transport = cluster.connection.gateway.transport
        way.cut()
        transport.join(10)
        cluster.hang_up(cluster.another())
        assert way.connections == 2


def test_a_gateway_that_opens_no_way_is_a_time_out(tmp_path, desk):
    class Silent(Login):
        async def connection_requested(self, *_about):
            await asyncio.Event().wait()

    with embedded(tmp_path / "gate", lambda: Silent(passwords={"me": "pw"})) as gate:
        desk.write("gate", port=gate.port, username="me", password="pw")
        desk.write(username="me", password="pw", gateway="gate")
        with pytest.raises(ConnectionLost):
            desk.cluster(stall_timeout=0.3).connect()


def test_what_the_gateway_does_not_let_through_is_told(gateway, key, desk):
    desk.write("gate", port=gateway.port, username=gateway.user, key_file=str(key))
    desk.write(port=free_port(), username="me", password="pw", gateway="gate")
    with pytest.raises(Unreached, match="gateway does not let us through"):
        desk.cluster().connect()


def test_what_the_gateway_may_not_do_is_never_tried_again(tmp_path, sshd, key, desk):
    with Sshd(tmp_path / "gate", keys=[key], lines=["AllowTcpForwarding no"]) as gateway:
        desk.write("gate", port=gateway.port, username=gateway.user, key_file=str(key))
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")
        with pytest.raises(ConnectError, match="gateway does not let us through") as caught:
            desk.cluster(retries=5).connect()
    assert not isinstance(caught.value, ConnectionLost)


def test_connections_at_the_same_time_go_through_one_gateway(sshd, gateway, key, desk):
    with Relay(gateway.port) as way:
        desk.write("gate", port=way.port, username=gateway.user, key_file=str(key))
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")
        cluster = desk.cluster()
        with ThreadPoolExecutor() as pool:
            for connection in list(pool.map(lambda _: cluster.another(), range(4))):
                cluster.hang_up(connection)
        assert way.connections == 1
        cluster.close()


def by_credentials(desk, own_home, sshd, gateway, key, way):
    desk.write("gate", port=way.port, username=gateway.user, key_file=str(key))
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")


def by_ssh_config(desk, own_home, sshd, gateway, key, way):
    (own_home / "config").write_text(
        f"Host door\n  HostName 127.0.0.1\n  Port {way.port}\n  User {gateway.user}\n  IdentityFile {key}\n"
        f"Host tensor\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {key}\n"
        "  ProxyJump door\n"
    )
    desk.write(address="tensor")


@pytest.mark.parametrize("led", [by_credentials, by_ssh_config])
def test_who_hangs_up_leaves_no_gateway_open(sshd, gateway, key, desk, own_home, led):
    with Relay(gateway.port) as way:
        led(desk, own_home, sshd, gateway, key, way)
        cluster = desk.cluster()
        cluster.connect()
        cluster.hang_up(cluster.another())
        cluster.close()
        assert way.over.wait(10)


def test_gateways_in_a_circle_are_an_error(desk):
    desk.write("b", gateway="a")
    desk.write("a", gateway="b")
    with pytest.raises(CredentialsError, match="circle"):
        desk.cluster("a").connect()


# --- what does not answer ---------------------------------------------------------------------------------------------


def test_a_refused_connection_says_whose_and_where(desk):
    port = free_port()
    desk.write(port=port, username="me", password="pw")
    with pytest.raises(ConnectionLost, match=f"a: connection refused by 127.0.0.1:{port}") as caught:
        desk.cluster().connect()
    assert "is its SSH server running?" in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_unknown_host_name_is_named(desk):
    desk.write(address="no-such-host.invalid", username="me", password="pw")
    with pytest.raises(ConnectionLost, match=r"a: unknown host name no-such-host\.invalid") as caught:
        desk.cluster().connect()
    assert "spelled right" in caught.value.hint


def test_an_alias_that_may_stand_in_an_included_file_gets_a_word_on_that(desk, own_home):
    (own_home / "config").write_text("Host x\n    User y\n\nInclude other\n")
    desk.write(address="no-such-host.invalid", username="me", password="pw")
    with pytest.raises(ConnectionLost) as caught:
        desk.cluster().connect()
    assert "must stand in ~/.ssh/config itself" in caught.value.hint


def test_a_server_that_says_nothing_is_a_time_out(desk, silent):
    desk.write(port=silent, username="me", password="pw")
    with pytest.raises(ConnectionLost, match=r"time-out|no answer|lost") as caught:
        desk.cluster(connect_timeout=0.3, stall_timeout=0.3).connect()
    assert str(silent) in caught.value.message


class Leaving(Login):
    """Hangs up on whoever shows a password, a key or an answer, or says nothing to it (`silent`)."""

    def __init__(self, *, silent, **accounts):
        super().__init__(**accounts)
        self._silent = silent

    def connection_made(self, conn):
        self._line = conn

    async def _leave(self, *_shown):
        if self._silent:
            await asyncio.Event().wait()
        self._line.abort()
        return False

    validate_password = validate_public_key = validate_kbdint_response = _leave


@pytest.mark.parametrize("silent", [False, True], ids=["hangs up", "is silent"])
@pytest.mark.parametrize("way", ["password", "key", "questions"])
def test_a_line_that_is_lost_during_a_login_is_no_refusal(tmp_path, desk, key, way, silent):
    accounts, mine = {
        "password": ({"passwords": {"me": "pw"}}, {"password": "pw"}),
        "key": ({"keys": [key]}, {"key_file": str(key)}),
        "questions": ({"questions": [("Password: ", "pw")]}, {"password": "pw"}),
    }[way]
    with embedded(tmp_path / "home", lambda: Leaving(silent=silent, **accounts)) as server:
        desk.write(port=server.port, username="me", **mine)
        with pytest.raises(ConnectionLost):
            desk.cluster(connect_timeout=0.4, stall_timeout=0.4).connect()


def test_a_server_that_speaks_another_cipher_is_told_and_never_tried_again(tmp_path, desk):
    other = {"encryption_algs": ["chacha20-poly1305@openssh.com"]}
    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"}), **other) as server:
        desk.write(port=server.port, username="me", password="pw")
        with pytest.raises(ConnectError, match="speaks no SSH that we do"):
            desk.cluster(retries=5).connect()
    assert not desk.seen(Retrying)


def test_a_server_that_never_begins_the_login_is_a_time_out(server, desk, monkeypatch):
    ignored = {5: lambda *_packet: True}  # RFC 4253, 10: SSH_MSG_SERVICE_REQUEST
    handlers = asyncssh.SSHServerConnection._packet_handlers | ignored
    monkeypatch.setattr(asyncssh.SSHServerConnection, "_packet_handlers", handlers)
    desk.write(port=server(passwords={"me": "pw"}), username="me", password="pw")
    with pytest.raises(ConnectionLost, match="no answer to the request to log in"):
        desk.cluster(connect_timeout=0.4, stall_timeout=0.4).connect()


@pytest.fixture
def silent():
    """The port of a listener that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_connect_that_nobody_completes_is_a_time_out(desk, full_queue):
    desk.write(port=full_queue, username="me", password="pw")
    with pytest.raises(ConnectionLost, match=f"time-out: no answer from 127.0.0.1:{full_queue}"):
        desk.cluster(connect_timeout=0.3).connect()


@pytest.fixture
def full_queue():
    """The port of a listener whose queue is full: connecting to it does not end."""
    with ExitStack() as lines:
        listener = lines.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            line = lines.enter_context(socket.socket())
            line.settimeout(0)
            line.connect_ex(listener.getsockname())
        probe = lines.enter_context(socket.socket())
        probe.settimeout(0.2)
        try:
            probe.connect(listener.getsockname())
        except TimeoutError:
            yield listener.getsockname()[1]
            return
        pytest.skip("this system completes connections that nobody accepts")


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_traceback_with_locals_shows_a_secret(server, desk):
    desk.write(port=server(passwords={"me": "x"}), username="me", password="hunter2hunter2")
    with pytest.raises(LoginError) as caught:
        desk.cluster().connect()
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "did not accept" in shown
    assert "hunter2" not in shown


def test_nothing_that_a_connection_shows_of_itself_holds_a_secret(server, desk):
    desk.write(port=server(passwords={"me": "hunter2"}), username="me", password="hunter2")
    cluster = desk.connected()
    connection = cluster.connection
    shown = (
        f"{cluster!r} {vars(cluster)!r} {connection!r} {vars(connection)!r} {dict(connection.config)!r} {desk.events!r}"
    )
    assert "hunter2" not in shown


def test_the_one_event_of_a_login_that_worked_is_connected(server, desk):
    desk.write(port=server(passwords={"me": "pw"}), username="me", password="pw")
    desk.connected()
    assert len(desk.seen(Connected)) == 1


def test_sshd_is_needed_under_ci(monkeypatch):
    monkeypatch.setattr("tests.servers.SSHD", None)
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception):
        need_sshd()


def test_a_server_that_wants_factor_after_factor_gets_five(desk):
    given = []

    class Insatiable(paramiko.ServerInterface):
        def get_allowed_auths(self, _username):
            return "password"

        def check_auth_password(self, _username, password):
            given.append(password)
            return paramiko.AUTH_PARTIALLY_SUCCESSFUL

    def serve(listener):
        transport = paramiko.Transport(listener.accept()[0])
        transport.add_server_key(paramiko.ECDSAKey.generate())
        transport.start_server(server=Insatiable())
        serving.append(transport)

    serving = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        desk.write(port=listener.getsockname()[1], username="u", password="pw")
        with pytest.raises(LoginError, match="factor after factor"):
            desk.cluster().connect()
        thread.join()
    serving[0].close()
    assert len(given) == 6

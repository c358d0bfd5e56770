"""Whose machine is it? Against real servers that show known, unknown, changed and revoked keys."""

import subprocess
import threading

import asyncssh
import paramiko
import pytest

from embmerge.errors import HostKeyError
from embmerge.events import HostKeyAccepted
from embmerge.remote.hostkeys import KnownHosts
from tests.servers import Login, Sshd, embedded, fingerprint, known_line, make_key, public


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path / "keys" / "mine")


@pytest.fixture
def sshd(tmp_path, key, desk):
    with Sshd(tmp_path, keys=[key]) as sshd:
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key))
        yield sshd


def refused(desk, **settings):
    with pytest.raises(HostKeyError) as caught:
        desk.cluster(retries=5, **settings).connect()
    assert caught.value.exit_code == 3
    return caught.value


def test_an_unknown_host_is_accepted_once_and_its_fingerprint_shown(sshd, desk):
    desk.connected()
    desk.connected()
    (event,) = desk.seen(HostKeyAccepted)
    assert event.fingerprint == fingerprint(sshd.host_key)
    assert event.fingerprint.startswith("SHA256:")
    assert desk.known_hosts() == [known_line(sshd.port, sshd.host_key).strip()]


def test_the_fingerprint_is_the_one_that_ssh_keygen_shows(sshd, desk):
    desk.connected()
    listed = subprocess.run(["ssh-keygen", "-lf", sshd.host_key], check=True, capture_output=True, text=True).stdout
    assert desk.seen(HostKeyAccepted)[0].fingerprint in listed


def test_what_is_written_is_for_the_owner_alone(sshd, desk):
    desk.connected()
    assert (desk.credentials / "known_hosts").stat().st_mode & 0o077 == 0


def test_openssh_reads_what_was_written(sshd, desk):
    desk.connected()
    found = subprocess.run(
        ["ssh-keygen", "-F", f"[127.0.0.1]:{sshd.port}", "-f", desk.credentials / "known_hosts"],
        check=False,
        capture_output=True,
    )
    assert found.returncode == 0


def test_strict_refuses_an_unknown_host_and_says_how_to_add_it(sshd, desk):
    error = refused(desk, host_keys="strict")
    assert f"the host key of [127.0.0.1]:{sshd.port} is unknown" in error.message
    assert fingerprint(sshd.host_key) in error.message
    assert str(desk.credentials / "known_hosts") in error.hint
    assert desk.known_hosts() == []


@pytest.mark.parametrize("where", ["home", "credentials"])
def test_strict_takes_a_host_of_either_file(sshd, desk, own_home, where):
    folder = own_home if where == "home" else desk.credentials
    (folder / "known_hosts").write_text(known_line(sshd.port, sshd.host_key))
    desk.connected(host_keys="strict")
    assert not desk.seen(HostKeyAccepted)


def test_a_hashed_entry_is_known(sshd, desk, own_home):
    path = own_home / "known_hosts"
    path.write_text(known_line(sshd.port, sshd.host_key))
    subprocess.run(["ssh-keygen", "-H", "-f", path], check=True, capture_output=True)
    assert "127.0.0.1" not in path.read_text()
    desk.connected(host_keys="strict")


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("mode", ["accept-new", "strict"])
def test_a_changed_key_is_refused_naming_both_fingerprints_file_and_line(sshd, desk, own_home, tmp_path, mode, hashed):
    old = make_key(tmp_path / "keys" / "old")
    path = own_home / "known_hosts"
    path.write_text("# mine\nother.example ssh-ed25519 " + public(old).split()[1] + "\n" + known_line(sshd.port, old))
    if hashed:
        subprocess.run(["ssh-keygen", "-H", "-f", path], check=True, capture_output=True)
    error = refused(desk, host_keys=mode)
    assert "has changed" in error.message
    assert fingerprint(old) in error.message
    assert fingerprint(sshd.host_key) in error.message
    assert f"{path}, line 3" in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f {path}" in error.hint
    assert desk.known_hosts() == []


def test_a_key_of_another_type_is_a_changed_key(sshd, desk, tmp_path):
    old = make_key(tmp_path / "keys" / "old", kind="ecdsa")
    (desk.credentials / "known_hosts").write_text(known_line(sshd.port, old))
    assert "has changed" in refused(desk).message


def test_a_server_set_up_anew_is_refused(sshd, desk, tmp_path):
    desk.connected().close()
    sshd.stop()
    sshd.host_key = make_key(tmp_path / "keys" / "new_host")
    sshd.start()
    assert f"{desk.credentials / 'known_hosts'}, line 1" in refused(desk).message


def test_no_password_reaches_a_server_whose_key_has_changed(tmp_path, desk):
    tried = []
    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"}, tried=tried)) as server:
        desk.write(port=server.port, username="me", password="pw")
        (desk.credentials / "known_hosts").write_text(known_line(server.port, make_key(tmp_path / "keys" / "old")))
        refused(desk)
    assert tried == []


def test_a_changed_key_of_the_gateway_is_refused(sshd, desk, key, tmp_path):
    with Sshd(tmp_path / "gate", keys=[key]) as gate:
        desk.write("gate", port=gate.port, username=gate.user, key_file=str(key))
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), gateway="gate")
        (desk.credentials / "known_hosts").write_text(known_line(gate.port, make_key(tmp_path / "keys" / "old")))
        assert f"the host key of [127.0.0.1]:{gate.port} has changed" in refused(desk).message


def test_a_changed_key_of_a_hop_of_ssh_config_is_refused(sshd, desk, key, tmp_path, own_home):
    with Sshd(tmp_path / "gate", keys=[key]) as gate:
        (own_home / "config").write_text(
            f"Host door\n  HostName 127.0.0.1\n  Port {gate.port}\n  User {gate.user}\n  IdentityFile {key}\n"
            f"Host tensor\n  HostName 127.0.0.1\n  Port {sshd.port}\n  ProxyJump door\n"
        )
        desk.write(address="tensor", username=sshd.user, key_file=str(key))
        (own_home / "known_hosts").write_text(known_line(gate.port, make_key(tmp_path / "keys" / "old")))
        assert f"the host key of [127.0.0.1]:{gate.port} has changed" in refused(desk).message


def test_a_revoked_key_is_refused(sshd, desk, own_home):
    (own_home / "known_hosts").write_text(f"@revoked * {public(sshd.host_key)}\n")
    error = refused(desk)
    assert f"revoked by {own_home / 'known_hosts'}, line 1" in error.message
    assert desk.known_hosts() == []


def test_lines_that_nobody_understands_are_left_alone(sshd, desk):
    path = desk.credentials / "known_hosts"
    before = "\n# comment\nhost\n|1|x|y ssh-ed25519 AAAA\n\xff\xfe garbage \x00\nlast line without an end"
    path.write_bytes(before.encode("latin-1"))
    desk.connected()
    assert path.read_bytes() == before.encode("latin-1") + b"\n" + known_line(sshd.port, sshd.host_key).encode()


def test_two_logins_at_once_write_a_host_once(sshd, desk):
    clusters = [desk.cluster() for _ in range(4)]
    threads = [threading.Thread(target=cluster.connect) for cluster in clusters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.known_hosts()) == 1
    assert len(desk.seen(HostKeyAccepted)) == 1


def test_a_known_hosts_that_cannot_be_written_says_so(tmp_path, desk):
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"}), host_key=host_key) as server:
        desk.write(port=server.port, username="me", password="pw")
        (desk.credentials / "known_hosts").mkdir()
        assert "cannot write" in refused(desk).message


def test_a_key_may_be_revoked_for_one_host(sshd, desk, own_home):
    (own_home / "known_hosts").write_text(f"@revoked {known_line(sshd.port, sshd.host_key)}")
    assert "revoked by" in refused(desk).message


def test_a_key_that_is_revoked_in_one_line_and_known_in_another_is_refused(sshd, desk, own_home):
    (own_home / "known_hosts").write_text(f"@revoked * {public(sshd.host_key)}\n")
    (desk.credentials / "known_hosts").write_text(known_line(sshd.port, sshd.host_key))
    assert "revoked by" in refused(desk).message


def test_a_key_that_is_known_of_another_host_only_is_no_changed_key(sshd, desk, own_home):
    (own_home / "known_hosts").write_text(f"other.invalid {public(sshd.host_key)}\n")
    desk.connected()


def test_a_key_that_was_accepted_elsewhere_a_moment_ago_is_the_one_that_counts(desk, tmp_path):
    old, new = make_key(tmp_path / "keys" / "old"), make_key(tmp_path / "keys" / "new")
    hosts, client = KnownHosts("a", desk.credentials, "accept-new", desk.see), paramiko.SSHClient()
    hosts.guard(client)
    (desk.credentials / "known_hosts").write_text(known_line(2222, old))
    with pytest.raises(paramiko.BadHostKeyException):
        hosts.missing_host_key(client, "[127.0.0.1]:2222", paramiko.PKey.from_path(new))
    assert not desk.seen(HostKeyAccepted)


def test_a_changed_key_at_the_usual_port_is_told_by_the_bare_name(desk, tmp_path):
    keys = [make_key(tmp_path / "keys" / name) for name in ("new", "old")]
    (desk.credentials / "known_hosts").write_text(f"tensor {public(keys[1])}\n")
    error = paramiko.BadHostKeyException("tensor", *map(paramiko.PKey.from_path, keys))
    told = KnownHosts("a", desk.credentials, "accept-new", desk.see).changed(error, 22)
    assert "the host key of tensor has changed" in told.message
    assert f"{desk.credentials / 'known_hosts'}, line 1" in told.message


PATTERNS = ["[127.0.0.*]:{port}", "[127.0.0.?]:{port}", "[127.0.0.1]:*", "[LOCALHOST]:{port},[127.0.0.1]:{port}"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_changed_key_is_refused_where_only_a_pattern_names_the_host(sshd, desk, own_home, tmp_path, pattern):
    other = make_key(tmp_path / "other")
    line = " ".join([pattern.format(port=sshd.port), *public(other).split()[:2]])
    (own_home / "known_hosts").write_text(f"{line}\n")
    error = refused(desk)
    assert "has changed" in error.message
    assert "line 1" in error.message


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_host_that_a_pattern_names_is_known(sshd, desk, own_home, pattern):
    line = " ".join([pattern.format(port=sshd.port), *public(sshd.host_key).split()[:2]])
    (own_home / "known_hosts").write_text(f"{line}\n")
    desk.connected(host_keys="strict")
    assert not desk.seen(HostKeyAccepted)


def test_a_host_is_the_same_in_capital_letters(sshd, desk, own_home, key, tmp_path):
    other = make_key(tmp_path / "other")
    (own_home / "known_hosts").write_text(" ".join([f"[localhost]:{sshd.port}", *public(other).split()[:2]]) + "\n")
    desk.write(port=sshd.port, username=sshd.user, key_file=str(key), address="LocalHost")
    assert "has changed" in refused(desk).message


def test_a_pattern_does_not_name_what_it_leaves_out(sshd, desk, own_home, tmp_path):
    other = make_key(tmp_path / "other")
    line = " ".join([f"[127.0.0.*]:{sshd.port},![127.0.0.1]:{sshd.port}", *public(other).split()[:2]])
    (own_home / "known_hosts").write_text(f"{line}\n")
    desk.connected()

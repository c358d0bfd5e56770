"""Doctor's ladder: each rung is broken for real, and is the one that is named."""

import json
import pickle
import re
import shutil
import socket
import threading
from dataclasses import replace

import asyncssh
import pytest

from embmerge.demo.server import Accounts, Server
from embmerge.errors import (
    ConnectError,
    CredentialsError,
    DiskError,
    HostKeyError,
    LocalDataError,
    LoginError,
    RemoteDataError,
    UsageError,
)
from embmerge.events import Checked, ignore
from embmerge.remote import rungs
from embmerge.remote.credentials import load_credentials
from embmerge.remote.doctor import doctor
from embmerge.remote.firsthop import first_hop
from embmerge.settings import Settings
from tests.servers import PASSWORD, Agent, Sshd, make_key
from tests.test_waiting import ROWS, write

LADDER = [
    ("", "credentials folder"),
    ("t", "credentials file"),
    ("t", "permissions"),
    ("t", "name resolution"),
    ("t", "TCP"),
    ("t", "SSH banner"),
    ("t", "host key"),
    ("t", "login"),
    ("t", "home directory"),
    ("t", "remote directory"),
    ("t", "shards"),
    ("t", "16 MB read"),
    ("", "articles file"),
    ("", "local disk"),
    ("", "coverage"),
]


class Patient:
    """One healthy cluster `t` with two shards, and everything on this side that a sync and a merge need."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.remote = folder / "home" / "emb"
        self.credentials = folder / "credentials"
        self.file = self.credentials / "t.credentials"
        self.settings = Settings(
            credentials=self.credentials,
            embeddings=folder / "embeddings",
            articles=folder / "wikipedia.pkl",
            output=folder / "merged" / "x.pkl",
            connect_timeout=5,
            stall_timeout=5,
        )

    def given(self, **changes):
        facts = {"address": "127.0.0.1", "port": self.server.port, "username": "user", "password": "pw"}
        self.credentials.mkdir(exist_ok=True)
        self.file.touch(mode=0o600)
        self.file.write_text(json.dumps(facts | {"remote_dir": "emb"} | changes))

    def set(self, **changes):
        self.settings = replace(self.settings, **changes)

    def examine(self, observer=ignore, **how):
        return doctor(self.settings, observer=observer, stop=threading.Event(), **how)

    def breaks(self, rung, message, error, *, cluster="t", **how):
        """The one rung that broke; the cluster's ladder ends there, and this machine's own rungs are climbed still."""
        found = self.examine(**how)
        broken = [each for each in found.rungs if each.ok is False]
        assert [(each.cluster, each.name) for each in broken] == [(cluster, rung)]
        assert re.search(message, broken[0].text), broken[0].text
        assert broken[0].hint.startswith("try: ")
        assert isinstance(found.error, error)
        climbed = [(each.cluster, each.name) for each in found.rungs]
        if cluster:
            at = LADDER.index((cluster, rung))
            below = [each for each in climbed if each[0] == cluster]
            assert below == [each for each in LADDER[: at + 1] if each[0] == cluster and each in below]
            assert ("", "local disk") in climbed
        return broken[0]


@pytest.fixture
def accounts():
    return lambda: Accounts({"user": "pw"})


@pytest.fixture
def patient(tmp_path, own_home, accounts):
    folder = tmp_path / "home" / "emb"
    folder.mkdir(parents=True)
    for gpu in (0, 1):
        write(folder, gpu)
    articles = [{"id": str(n), "title": f"t{n}", "url": "u", "text": "x"} for n in range(2 * ROWS - 5)]
    (tmp_path / "wikipedia.pkl").write_bytes(pickle.dumps(articles))
    with Server(tmp_path / "home", accounts) as server:
        patient = Patient(tmp_path, server)
        patient.given()
        yield patient


def test_where_all_is_well_every_rung_holds_in_order(patient):
    seen = []
    found = patient.examine(seen.append)
    assert found.ok
    assert [(each.cluster, each.name) for each in found.rungs] == LADDER
    assert all(each.ok for each in found.rungs)
    assert [(event.cluster, event.rung, event.text) for event in seen if isinstance(event, Checked)] == [
        (each.cluster, each.name, each.text) for each in found.rungs
    ]


def test_a_healthy_ladder_says_what_it_found(patient):
    found = {each.name: each.text for each in patient.examine().rungs}
    assert found["login"] == "as user"
    assert found["remote directory"] == "/emb"
    assert found["shards"].startswith("2 with 100 rows, ")
    assert re.search(r"/s over 1.* KB, round trip .* ms; 2.* KB to sync will take .* s", found["16 MB read"])
    assert found["articles file"].endswith("holds 95 articles")


def test_what_is_here_already_is_not_counted_as_to_be_synced(patient):
    patient.settings.embeddings.mkdir()
    for path in patient.remote.iterdir():
        shutil.copy2(path, patient.settings.embeddings)
    found = {each.name: each.text for each in patient.examine().rungs}
    assert "; nothing to sync" in found["16 MB read"]


def test_the_read_works_over_plain_sftp_too(patient):
    patient.set(transfer="plain")
    assert patient.examine().ok


def test_a_large_read_ends_at_sixteen_megabytes(patient, monkeypatch):
    monkeypatch.setattr(rungs, "READ", 1000)
    assert "round trip" in {each.name: each.text for each in patient.examine().rungs}["16 MB read"]


# --- the troubleshooting table, row by row ----------------------------------------------------------------------------


def test_connection_refused_is_the_tcp_rung(patient):
    port = patient.server.port
    patient.server.stop()
    broken = patient.breaks("TCP", f"connection refused by 127.0.0.1:{port}", ConnectError)
    assert broken.hint.startswith(f"try: nc -vz 127.0.0.1 {port} ")


def test_remote_directory_not_found_is_its_rung(patient):
    patient.given(remote_dir="emb/nowhere/else")
    broken = patient.breaks("remote directory", "remote directory not found: /emb/nowhere/else", RemoteDataError)
    assert f"ssh -p {patient.server.port} user@127.0.0.1 ls -la emb/nowhere/else" in broken.hint


def test_no_embedding_files_found_is_the_shards_rung(patient):
    for path in patient.remote.iterdir():
        path.rename(path.with_suffix(".old"))
    patient.breaks("shards", r"no embedding files found.*cluster0_gpu0\.old", RemoteDataError)


def test_articles_file_missing_is_its_rung(patient):
    patient.settings.articles.unlink()
    patient.breaks("articles file", "articles file missing", LocalDataError, cluster="")


def test_gap_detected_is_the_coverage_rung(patient):
    (patient.remote / "cluster0_gpu0.pkl").unlink()
    broken = patient.breaks("coverage", "gap: rows 0 - 50 are missing", RemoteDataError, cluster="")
    assert broken.hint.startswith("try: invoke verify-remote")


def test_out_of_disk_is_the_disk_rung(patient, monkeypatch):
    with (patient.remote / "cluster0_gpu9.pkl").open("wb") as file:
        try:
            file.truncate(8 << 40)  # a sparse file: eight terabytes that nobody has
        except OSError:
            pytest.skip("this file system has no such large files")
    found = patient.examine()
    broken = {each.name: each for each in found.rungs if each.ok is False}
    assert re.search(r"too full: .* free, 8\.00 TB needed", broken["local disk"].text)
    assert broken["local disk"].hint.startswith("try: df -h ")


def test_authentication_failed_is_the_login_rung(patient):
    patient.given(password="wrong")
    broken = patient.breaks("login", "authentication failed", LoginError)
    assert broken.hint.startswith(f"try: ssh -p {patient.server.port} user@127.0.0.1 ")
    assert "wrong" not in broken.text + broken.hint


def test_host_key_changed_is_the_host_key_rung(patient):
    assert patient.examine().ok
    patient.server.stop()
    patient.server.host_key = asyncssh.generate_private_key("ssh-ed25519")
    patient.server.start()
    patient.breaks("host key", "has changed", HostKeyError)


class Impatient(Accounts):
    def validate_password(self, _username, _password):
        raise asyncssh.DisconnectError(asyncssh.DISC_PROTOCOL_ERROR, "Too many authentication failures")


@pytest.mark.parametrize("accounts", [lambda: Impatient({})], ids=["impatient"])
def test_too_many_authentication_failures_is_the_login_rung(patient):
    patient.breaks("login", "too many authentication failures", LoginError)


class Suspicious(asyncssh.SSHServer):
    """Asks for a code."""

    def connection_made(self, conn):
        self.connection = conn

    def begin_auth(self, _username):
        self.connection._next_service = b"ssh-userauth"  # paramiko asks for it again; OpenSSH takes that, asyncssh not
        return True

    def kbdint_auth_supported(self):
        return True

    def get_kbdint_challenge(self, *_asked):
        return "Duo", "", "en", [("Code: ", False)]

    def validate_kbdint_response(self, _username, responses):
        return list(responses) == ["123456"]


@pytest.mark.parametrize("accounts", [Suspicious], ids=["suspicious"])
def test_second_factor_asked_is_the_login_rung_where_nobody_can_be_asked(patient):
    patient.breaks("login", "asks for a second factor", LoginError)


@pytest.mark.parametrize("accounts", [Suspicious], ids=["suspicious"])
def test_a_second_factor_that_is_answered_lets_the_ladder_go_on(patient):
    found = patient.examine(ask=lambda _prompt: "123456")
    assert found.ok
    assert {each.name: each.text for each in found.rungs}["login"] == "as user, with a second factor"


# --- the other rungs --------------------------------------------------------------------------------------------------


def test_no_credentials_at_all_is_the_first_rung(patient):
    patient.file.unlink()
    patient.breaks("credentials folder", r"no \*\.credentials file", CredentialsError, cluster="")


def test_a_broken_credentials_file_is_its_rung(patient):
    patient.file.write_text("{")
    patient.breaks("credentials file", "line 1: not JSON", CredentialsError)


def test_a_file_that_others_may_read_is_worth_a_word_and_no_more(patient):
    patient.file.chmod(0o644)
    found = patient.examine()
    assert found.ok
    (rung,) = [each for each in found.rungs if each.ok is None]
    assert (rung.name, rung.hint) == ("permissions", f"try: chmod 600 {patient.file}")


def test_an_unknown_name_is_the_resolution_rung(patient):
    patient.given(address="no-such-host.invalid")
    patient.breaks("name resolution", "no machine is known by the name", ConnectError)


def test_a_port_of_another_service_is_the_banner_rung(patient):
    with socket.create_server(("127.0.0.1", 0)) as web:

        def serve():
            line, _ = web.accept()
            with line:
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        patient.given(port=web.getsockname()[1])
        patient.breaks("SSH banner", "is no SSH server: it said 'HTTP/1.1", ConnectError)


def test_an_unknown_host_is_the_host_key_rung_where_that_is_strict(patient):
    patient.set(host_keys="strict")
    patient.breaks("host key", "is unknown", HostKeyError)


def test_a_first_host_key_is_shown(patient):
    texts = [{each.name: each.text for each in patient.examine().rungs}["host key"] for _ in range(2)]
    assert ", new; kept in " in texts[0]
    assert re.fullmatch(r"SHA256:\S+, as known", texts[1])


def test_a_shard_that_is_cut_short_is_the_shards_rung(patient):
    path = patient.remote / "cluster0_gpu1.pkl"
    path.write_bytes(path.read_bytes()[:-100])
    patient.breaks("shards", r"cluster0_gpu1\.pkl is cut short", RemoteDataError)


def test_another_number_of_articles_is_the_articles_rung(patient):
    patient.set(expected_articles=7)
    patient.breaks("articles file", "holds 95 articles, but 7 are expected", LocalDataError, cluster="")


def test_a_folder_that_is_a_file_is_the_disk_rung(patient):
    patient.settings.embeddings.write_text("in the way")
    patient.breaks("local disk", "is no folder", DiskError, cluster="")


def test_a_folder_that_is_a_link_to_nothing_is_the_disk_rung(patient):
    patient.settings.embeddings.symlink_to("unmounted")
    patient.breaks("local disk", "embeddings is a link to what is not there", DiskError, cluster="")


def test_an_output_that_cannot_be_is_the_disk_rung(patient):
    patient.set(output=patient.folder / "merged.txt")
    patient.breaks("local disk", ".txt is no known format", UsageError, cluster="")


def test_one_broken_cluster_does_not_keep_the_other_from_being_climbed(patient):
    broken = patient.credentials / "a.credentials"
    broken.touch(mode=0o600)
    broken.write_text("{")
    found = patient.examine()
    assert [(each.cluster, each.name) for each in found.rungs if not each.ok] == [("a", "credentials file")]
    assert ("t", "16 MB read") in [(each.cluster, each.name) for each in found.rungs]


def test_only_the_clusters_that_are_named_are_climbed(patient):
    shutil.copy2(patient.file, patient.credentials / "a.credentials")
    patient.set(clusters=("t",))
    found = patient.examine()
    assert {each.cluster for each in found.rungs} == {"", "t"}


def test_no_secret_is_on_the_ladder(patient):
    patient.given(password="hunter2hunter2")
    assert "hunter2" not in repr(patient.examine())


def test_behind_a_gateway_the_gateway_is_climbed_first(patient):
    (patient.credentials / "g.credentials").touch(mode=0o600)
    (patient.credentials / "g.credentials").write_text(
        json.dumps({"address": "127.0.0.1", "port": patient.server.port, "username": "user", "password": "pw"})
    )
    patient.given(address="inside.invalid", gateway="g")
    patient.set(clusters=("t",))
    found = {each.name: each for each in patient.examine().rungs}
    assert found["name resolution"].text == "gateway 127.0.0.1 is 127.0.0.1"
    assert found["SSH banner"].ok
    assert found["login"].ok is False


def test_gateways_in_a_circle_are_not_followed_for_ever(desk):
    desk.write("a", gateway="b")
    desk.write("b", gateway="a")
    assert first_hop(load_credentials("a", desk.credentials), desk.settings()).what == "gateway "


# --- the same by OpenSSH's own server ---------------------------------------------------------------------------------


def behind(patient, sshd, **facts):
    """Let the patient's cluster be the one that `sshd` serves."""
    given = {"address": "127.0.0.1", "port": sshd.port, "username": sshd.user, "remote_dir": str(patient.remote)}
    patient.file.write_text(json.dumps(given | facts))


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path / "key")


def test_openssh_is_climbed_to_the_end(patient, key):
    with Sshd(patient.folder, keys=[key]) as sshd:
        behind(patient, sshd, key_file=str(key))
        found = patient.examine()
    assert found.ok, found.rungs
    assert [(each.cluster, each.name) for each in found.rungs] == LADDER


def test_a_key_that_openssh_refuses_is_the_login_rung(patient, key):
    with Sshd(patient.folder) as sshd:
        behind(patient, sshd, key_file=str(key))
        broken = patient.breaks("login", "authentication failed", LoginError)
    assert f"ssh -p {sshd.port} -i {key} " in broken.hint


def test_too_many_keys_of_an_agent_are_told_from_a_lost_line(patient, key, tmp_path, monkeypatch):
    keys = [make_key(tmp_path / f"key{n}") for n in range(3)]
    with Sshd(patient.folder, keys=[key], lines=["MaxAuthTries 2"]) as sshd, Agent(tmp_path, monkeypatch, keys):
        behind(patient, sshd)
        broken = patient.breaks("login", "too many authentication failures", LoginError)
    assert "key_file" in broken.hint


def test_a_new_host_key_of_openssh_is_the_host_key_rung(patient, key):
    sshd = Sshd(patient.folder, keys=[key])
    behind(patient, sshd, key_file=str(key))
    with sshd:
        assert patient.examine().ok
    sshd.host_key = make_key(sshd.folder / "another")
    with sshd:
        patient.breaks("host key", "has changed", HostKeyError)


def test_a_directory_that_may_not_be_read_is_the_remote_directory_rung(patient):
    with Sshd(patient.folder, account=True) as sshd:
        (sshd.home / "emb").mkdir(mode=0o700)
        behind(patient, sshd, password=PASSWORD, remote_dir="emb")
        patient.breaks("remote directory", "may not be read", RemoteDataError)


def test_broken_credentials_of_the_gateway_are_the_credentials_rung(patient):
    patient.given(gateway="g")
    patient.set(clusters=("t",))
    broken = patient.credentials / "g.credentials"
    broken.touch(mode=0o600)
    broken.write_text("{nonsense")
    patient.breaks("credentials file", "g.credentials", CredentialsError)


def test_an_address_that_is_none_is_the_credentials_rung(patient):
    patient.given(address="host:notaport")
    patient.breaks("credentials file", "cannot be an address", CredentialsError)


def test_the_merge_is_asked_how_much_room_it_needs(patient, monkeypatch):
    def asked(dtype):
        calls = []
        monkeypatch.setattr("embmerge.remote.doctor.room_needed", lambda *what: calls.append(what) or 0)
        patient.set(dtype=dtype)
        patient.examine()
        return calls

    usual = asked(None)
    assert {output for output, *_ in usual} == {patient.settings.output}
    assert sum(rows for _, rows, _ in usual) == 100
    assert asked("float64") == [(output, rows, 2 * row_nbytes) for output, rows, row_nbytes in usual]

"""One cluster: what lies there, and the headers of its shards, by either way of reading."""

import errno
import os

import asyncssh
import paramiko
import pytest

from embmerge.demo.server import Home
from embmerge.errors import ConnectError, ConnectionLost, RemoteDataError, ShardError, TruncatedShard
from embmerge.remote.cluster import Cluster
from embmerge.remote.files import no_shards
from embmerge.shard import ShardHeader
from tests.servers import PASSWORD, Login, Sshd, embedded, make_key
from tests.shards import dumped, make_shard, rows_of, shard_of
from tests.syncing import Lab

both_ways = pytest.mark.parametrize("transfer", ["fast", "plain"])


class Denying(Home):
    """Lists no folder named `closed`, opens no file named `cluster0_gpu9.pkl`, ends within `cluster0_gpu8.pkl`."""

    def scandir(self, path):
        if path.rstrip(b"/").endswith(b"closed"):
            raise asyncssh.SFTPPermissionDenied("Permission denied")
        return super().scandir(path)

    def open(self, path, *how):
        if path.endswith(b"cluster0_gpu9.pkl"):
            raise OSError(errno.EACCES, "Permission denied")
        self.last = path
        return super().open(path, *how)

    def read(self, file, offset, size):
        if self.last.endswith(b"cluster0_gpu8.pkl"):
            self.channel.exit(1)
        return super().read(file, offset, size)


@pytest.fixture
def remote(tmp_path, desk):
    """The remote directory of the cluster `a`."""
    folder = tmp_path / "home" / "out" / "emb"
    folder.mkdir(parents=True)
    with embedded(tmp_path / "home", lambda: Login(passwords={"me": "pw"}), home=Denying) as server:
        desk.port = server.port
        desk.write(port=server.port, username="me", password="pw", remote_dir="out/emb")
        yield folder


def no_listing(desk, **facts):
    if facts:
        desk.write(port=desk.port, username="me", password="pw", **facts)
    cluster = desk.connected()
    with pytest.raises(RemoteDataError) as caught:
        raise no_shards(cluster.name, cluster.listing())
    assert caught.value.exit_code == 4
    return caught.value


def read(desk, transfer="fast"):
    """What was found, by file name."""
    cluster = desk.connected(transfer=transfer)
    return {file.name: found for file, found in cluster.headers(cluster.listing().shards)}


# --- the listing ------------------------------------------------------------------------------------------------------


def test_shards_are_in_order_of_their_numbers(remote, desk):
    for name in ("cluster1_gpu10.pkl", "cluster1_gpu2.pkl", "cluster0_gpu3.pkl"):
        (remote / name).write_bytes(b"x")
    names = [file.name for file in desk.connected().listing().shards]
    assert names == ["cluster0_gpu3.pkl", "cluster1_gpu2.pkl", "cluster1_gpu10.pkl"]


def test_only_whole_names_of_regular_files_are_shards(remote, desk):
    (remote / "cluster0_gpu0.pkl").write_bytes(b"x")
    (remote / "cluster0_gpu1.pkl").mkdir()
    for name in ("cluster0_gpu0.pkl.part", "xcluster0_gpu0.pkl", "cluster0_gpu.pkl", "cluster0_gpu0.pkl\n"):
        (remote / name).write_bytes(b"x")
    listing = desk.connected().listing()
    assert [file.name for file in listing.shards] == ["cluster0_gpu0.pkl"]
    assert "cluster0_gpu1.pkl/" in listing.others
    assert "cluster0_gpu0.pkl\\n" in listing.others


def test_checkpoints_are_told_from_shards(remote, desk):
    (remote / "cluster0_gpu3_checkpoint_5000.pkl").write_bytes(b"x")
    (remote / "progress.json").write_bytes(b"{}")
    listing = desk.connected().listing()
    assert [file.name for file in listing.checkpoints] == ["cluster0_gpu3_checkpoint_5000.pkl"]
    assert listing.others == ("progress.json",)


def test_size_time_and_absolute_path_are_in_the_listing(remote, desk):
    (remote / "cluster0_gpu0.pkl").write_bytes(b"12345")
    os.utime(remote / "cluster0_gpu0.pkl", (1_700_000_000, 1_700_000_000))
    (file,) = desk.connected().listing().shards
    assert (file.nbytes, file.mtime, file.path) == (5, 1_700_000_000, "/out/emb/cluster0_gpu0.pkl")


@pytest.mark.parametrize("given", ["out/emb", "/out/emb", "out/../out/emb/", "~/out/emb"])
def test_a_remote_directory_is_absolute_or_below_home(remote, desk, given):
    (remote / "cluster0_gpu0.pkl").write_bytes(b"x")
    desk.write(port=desk.port, username="me", password="pw", remote_dir=given)
    assert desk.connected().listing().remote_dir == "/out/emb"


def test_the_home_itself_may_be_the_remote_directory(remote, desk):
    desk.write(port=desk.port, username="me", password="pw", remote_dir="~")
    assert desk.connected().listing().remote_dir == "/"


def test_a_missing_directory_says_how_to_make_it_and_what_is_near(remote, desk):
    (remote.parent / "emb2").mkdir()
    error = no_listing(desk, remote_dir="out/embeddings/run 7")
    assert "remote directory not found: /out/embeddings/run 7" in error.message
    assert "the nearest that exists is /out, with emb, emb2 in it" in error.message
    assert "mkdir -p '/out/embeddings/run 7'" in error.hint


def test_a_directory_that_may_not_be_read_says_so(remote, desk):
    (remote / "closed").mkdir()
    error = no_listing(desk, remote_dir="out/emb/closed")
    assert "may not be read" in error.message
    assert "ls -ld out/emb/closed" in error.hint


def test_a_directory_that_openssh_may_not_read_says_so(tmp_path, desk):
    with Sshd(tmp_path, account=True) as sshd:
        (sshd.home / "closed").mkdir(mode=0o700)
        desk.write(port=sshd.port, username="worker", password=PASSWORD, remote_dir="closed")
        assert "may not be read" in no_listing(desk).message


def test_a_directory_that_is_a_file_is_an_error(remote, desk):
    (remote / "file").write_bytes(b"x")
    error = no_listing(desk, remote_dir="out/emb/file")
    assert "/out/emb/file is no directory" in error.message
    assert "mkdir" not in error.hint


def test_without_a_shard_what_is_there_is_listed(remote, desk):
    for name in ("notes.txt", "cluster0_gpu0.pkl.part", "cluster0_gpu0_checkpoint_10.pkl", "\x1b[2Jevil"):
        (remote / name).write_bytes(b"x")
    error = no_listing(desk)
    assert "no embedding files found: no file named cluster*_gpu*.pkl in /out/emb" in error.message
    for name in ("notes.txt", "cluster0_gpu0.pkl.part", "cluster0_gpu0_checkpoint_10.pkl", "\\x1b[2Jevil"):
        assert name in error.message
    assert "\x1b" not in error.message


def test_an_empty_directory_has_nothing_in_it(remote, desk):
    assert "there is nothing at all" in no_listing(desk).message


@both_ways
def test_a_listing_that_breaks_off_is_an_error_and_no_shorter_listing(tmp_path, transfer):
    class BreakingOff(Home):
        async def scandir(self, path):
            async for each in super().scandir(path):
                yield each
            raise asyncssh.SFTPFailure("input/output error")

    with Lab(tmp_path, home=BreakingOff) as lab:
        lab.shards(126, rows=1, dim=1)  # with . and .. as many as asyncssh tells at once
        cluster = lab.cluster(lab.settings(transfer=transfer))
        cluster.connect()
        with pytest.raises(RemoteDataError, match="cannot list /out: input/output error"):
            cluster.listing()
        cluster.close()


def test_two_thousand_other_files_are_a_few_names_and_a_number(remote, desk):
    for number in range(2000):
        (remote / f"{number}.log").touch()
    message = no_listing(desk).message
    assert "and 1,995 more" in message
    assert len(message) < 300


# --- headers ----------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_header_of_a_remote_shard_is_that_of_the_local_file(remote, desk, transfer, protocol):
    make_shard(remote, rows_of(1000, 64), start=500, cluster=0, gpu=1, protocol=protocol)
    header = read(desk, transfer)["cluster0_gpu1.pkl"]
    assert (header.start, header.end, header.rows, header.dim) == (500, 1500, 1000, 64)
    assert (header.model, header.cluster) == ("all-tests-v1", "a")


BAD = {
    "cut short": (lambda whole: whole[:-300], TruncatedShard, "is cut short"),
    "empty": (lambda _whole: b"", TruncatedShard, "is cut short"),
    "no pickle": (lambda _whole: b"\x89HDF\r\n\x1a\n and so on", ShardError, "is not a usable shard"),
    "something else": (lambda _whole: dumped(["a", "list"]), ShardError, "it holds a list"),
    "a forbidden global": (lambda _whole: b"cos\nsystem\n(S'true'\ntR.", ShardError, r"os\.system"),
    "a list": (lambda _whole: dumped(shard_of([[1.0, 2.0]])), ShardError, "'embeddings' is a list"),
    "another range": (
        lambda _whole: dumped(shard_of(rows_of(40), end_index=50)),
        ShardError,
        "it says it covers rows 0 - 50, which are 50, but it holds 40",
    ),
}


@both_ways
@pytest.mark.parametrize("what", BAD)
def test_a_bad_shard_says_what_is_wrong(remote, desk, transfer, what):
    spoil, kind, message = BAD[what]
    make_shard(remote, rows_of(40), cluster=0, gpu=0)
    path = make_shard(remote, rows_of(40), start=40, cluster=0, gpu=1)
    path.write_bytes(spoil(path.read_bytes()))
    found = read(desk, transfer)
    assert found["cluster0_gpu0.pkl"].rows == 40
    assert type(found["cluster0_gpu1.pkl"]) is kind
    with pytest.raises(ShardError, match=message):
        raise found["cluster0_gpu1.pkl"]


@both_ways
def test_a_shard_that_may_not_be_read_does_not_hide_the_others(remote, desk, transfer):
    for gpu in (0, 9):
        make_shard(remote, rows_of(40), cluster=0, gpu=gpu)
    found = read(desk, transfer)
    assert found["cluster0_gpu0.pkl"].rows == 40
    assert "cluster0_gpu9.pkl cannot be read: permission denied" in str(found["cluster0_gpu9.pkl"])


def test_fields_beyond_the_first_blocks_are_found(remote, desk):
    padding = {f"field{number}": "x" * 100 for number in range(300)}
    shard = {**padding, **shard_of(rows_of(400, 64), cluster=0), **{f"late{n}": "y" * 100 for n in range(300)}}
    (remote / "cluster0_gpu0.pkl").write_bytes(dumped(shard))
    assert read(desk)["cluster0_gpu0.pkl"].rows == 400


@both_ways
def test_titles_and_ids_beside_the_rows_are_read_through(remote, desk, transfer):
    rows = rows_of(15_000, 8)
    titles = [f"Title {row}" for row in range(len(rows))]
    make_shard(remote, rows, cluster=0, gpu=0, titles=titles, ids=list(range(len(rows))))
    assert read(desk, transfer)["cluster0_gpu0.pkl"].rows == 15_000


def test_a_shard_with_more_beside_its_rows_than_is_fetched_says_so(remote, desk):
    make_shard(remote, rows_of(400, 64), cluster=0, gpu=0, notes=[f"{number:04000}" for number in range(300)])
    assert "more beside its rows than is read over the network" in str(read(desk)["cluster0_gpu0.pkl"])


def test_nothing_is_connected_before_connect(desk):
    desk.write()
    with pytest.raises(ConnectError, match="a is not connected"):
        _ = desk.cluster().connection


def test_both_ways_list_the_same_of_openssh(tmp_path, desk):
    key = make_key(tmp_path / "keys" / "mine")
    with Sshd(tmp_path, keys=[key]) as sshd:
        for number in range(250):  # more than one answer holds
            (sshd.home / f"cluster0_gpu{number}.pkl").write_bytes(b"x" * number)
        (sshd.home / "cluster1_gpu0.pkl").symlink_to("cluster0_gpu1.pkl")
        (sshd.home / "cluster1_gpu1.pkl").mkdir()
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), remote_dir=".")
        fast, plain = (desk.connected(transfer=way).listing() for way in ("fast", "plain"))
    assert fast == plain
    assert len(fast.shards) == 250
    assert fast.others == ("cluster1_gpu0.pkl", "cluster1_gpu1.pkl/")


def test_a_look_in_one_session_opens_one(remote, desk):
    make_shard(remote, rows_of(40), cluster=0, gpu=0)
    cluster = desk.connected()
    before = cluster.connection.transport._channel_counter
    with cluster.one_session():
        files = cluster.listing().shards
        assert [header.rows for _, header in cluster.headers(files)] == [40]
        assert cluster.look_again(files) == list(files)
    assert cluster.connection.transport._channel_counter == before + 1


@pytest.mark.parametrize(
    ("question", "look"),
    [
        ("normalize", Cluster.listing),
        ("listdir_attr", Cluster.listing),
        ("open", lambda cluster, files: list(cluster.headers(files))),
        ("stat", Cluster.look_again),
    ],
)
def test_a_session_that_ends_between_two_questions_is_a_lost_line_and_no_fault_of_a_file(
    remote, desk, monkeypatch, question, look
):
    make_shard(remote, rows_of(40), cluster=0, gpu=0)
    cluster = desk.connected(transfer="plain")
    files = cluster.listing().shards
    ask = getattr(paramiko.SFTPClient, question)

    def too_late(client, *about):
        client.get_channel().close()
        return ask(client, *about)

    monkeypatch.setattr(paramiko.SFTPClient, question, too_late)
    with pytest.raises(ConnectionLost):
        look(cluster, *([] if look is Cluster.listing else [files]))


def test_a_session_that_ends_within_a_header_is_a_lost_line_and_no_fault_of_the_shard(remote, desk):
    make_shard(remote, rows_of(40), cluster=0, gpu=8)
    cluster = desk.connected(transfer="plain")
    with pytest.raises(ConnectionLost):
        list(cluster.headers(cluster.listing().shards))


def test_links_named_like_shards_are_told_where_there_is_no_shard(tmp_path):
    with Lab(tmp_path) as lab:
        (lab.remote / "elsewhere").write_bytes(b"x")
        (lab.remote / "cluster0_gpu0.pkl").symlink_to(lab.remote / "elsewhere")
        cluster = lab.cluster(lab.settings())
        cluster.connect()
        message = no_shards(cluster.name, cluster.listing()).message
        cluster.close()
    assert "cluster0_gpu0.pkl (a link or the like, not followed), elsewhere" in message


def test_a_session_that_was_kept_ends_before_paramiko_gets_one(remote, desk):
    desk.write(port=desk.port, username="me", password="pw", remote_dir="nowhere")
    cluster = desk.connected()
    with cluster.one_session():
        kept = cluster._kept
        with pytest.raises(RemoteDataError, match="not found"):
            cluster.listing()
        assert kept._channel.closed


@pytest.mark.parametrize("transfer", ["fast", "plain"])
def test_where_one_session_is_granted_one_that_ends_late_is_waited_for(tmp_path, desk, transfer):
    key = make_key(tmp_path / "keys" / "mine")
    late = "ForceCommand /usr/lib/openssh/sftp-server; sleep 0.3"
    with Sshd(tmp_path, keys=[key], lines=["MaxSessions 1", late]) as sshd:
        desk.write(port=sshd.port, username=sshd.user, key_file=str(key), remote_dir=str(sshd.home))
        cluster = desk.connected(transfer=transfer)
        for _ in range(2):
            assert cluster.listing().remote_dir == str(sshd.home)


def test_a_line_that_freezes_under_paramikos_own_client_is_lost(tmp_path):
    with Lab(tmp_path) as lab:
        cluster = lab.cluster(lab.settings(stall_timeout=0.3))
        cluster.connect()

        def look():
            with cluster.sftp() as sftp:
                lab.relay.freeze()
                sftp.stat("/out")

        with pytest.raises(ConnectionLost):
            look()
        cluster.close()


def test_of_very_many_shards_few_are_open_at_once(tmp_path):
    most, now = [0], [0]

    class Counting(Home):
        def open(self, *how):
            now[0] += 1
            most[0] = max(most[0], now[0])
            return super().open(*how)

        def close(self, file):
            now[0] -= 1
            return super().close(file)

    with Lab(tmp_path, home=Counting) as lab:
        lab.shards(300, rows=1, dim=1)
        cluster = lab.cluster(lab.settings())
        cluster.connect()
        found = [header for _, header in cluster.headers(cluster.listing().shards)]
        cluster.close()
    assert all(isinstance(header, ShardHeader) for header in found)
    assert (len(found), most[0] <= 256) == (300, True)


def test_a_folder_of_more_files_than_can_be_shards_is_refused(tmp_path, monkeypatch):
    for room in ("cluster", "sftp"):
        monkeypatch.setattr(f"embmerge.remote.{room}.MOST_ENTRIES", 200)
    with Lab(tmp_path) as lab:
        for number in range(300):
            (lab.remote / f"x{number}").touch()
        cluster = lab.cluster(lab.settings())
        cluster.connect()
        with pytest.raises(RemoteDataError, match="/out holds more than 200 files"):
            cluster.listing()
        cluster.close()

"""verify-remote: what it finds on real servers, and what a merge would say to it."""

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from embmerge.demo.server import Home
from embmerge.errors import ConnectError, ConnectionLost, Interrupted, LocalDataError, LoginError, RemoteDataError
from embmerge.events import ClusterDone, ClusterFailed, ShardInspected, ShardsFound
from embmerge.remote.survey import survey
from embmerge.remote.terms import Terms
from embmerge.shard import read_header
from tests.relay import Relay
from tests.servers import Login, embedded, free_port
from tests.shards import make_shard, rows_of
from tests.syncing import Lab

ROWS = 40
TASKS = Path(__file__).parent.parent


@pytest.fixture
def fleet(tmp_path, desk):
    """Two clusters with two shards each: rows 0 - 80 on `a`, 80 - 160 on `b`."""
    with ExitStack() as running:
        desk.remote, desk.servers = {}, {}
        for number, name in enumerate("ab"):
            folder = tmp_path / name / "emb"
            folder.mkdir(parents=True)
            server = running.enter_context(embedded(tmp_path / name, lambda: Login(passwords={"me": "pw"})))
            desk.write(name, port=server.port, username="me", password="pw", remote_dir="emb")
            for gpu in range(2):
                put(folder, number, gpu)
            desk.remote[name], desk.servers[name] = folder, server
        yield desk


def put(folder, cluster, gpu, *, start=None, rows=ROWS, dim=6, dtype="<f4", **fields):
    start = (cluster * 2 + gpu) * ROWS if start is None else start
    return make_shard(folder, rows_of(rows, dim, dtype), start=start, cluster=cluster, gpu=gpu, **fields)


def look(desk, names="ab", **terms):
    clusters = [desk.cluster(name) for name in names]
    return survey(clusters, Terms(**({"articles": 4 * ROWS} | terms)), observer=desk.see, stop=desk.stop)


def bad(desk, **terms):
    """The error of verify-remote, which is of what lies on the clusters."""
    found = look(desk, **terms)
    assert isinstance(found.error, RemoteDataError)
    assert found.error.exit_code == 4
    assert not found.ok
    return found


def verdicts(found):
    return {f.file.name: f.verdict for cluster in found.clusters for f in cluster.findings}


def test_where_all_rows_are_there_once_a_merge_would_succeed(fleet):
    found = look(fleet)
    assert found.ok
    assert (found.coverage.start, found.coverage.end, found.coverage.rows) == (0, 160, 160)
    assert set(verdicts(found).values()) == {"ok"}
    assert set(found.headers) == {f"cluster{c}_gpu{g}.pkl" for c in (0, 1) for g in (0, 1)}


def test_each_step_is_told(fleet):
    look(fleet)
    assert {(event.cluster, event.count) for event in fleet.seen(ShardsFound)} == {("a", 2), ("b", 2)}
    assert len(fleet.seen(ShardInspected)) == 4
    assert len(fleet.seen(ClusterDone)) == 2


def test_one_cluster_alone_is_healthy_and_leaves_rows_for_the_others(fleet):
    found = look(fleet, "b", others=("a",))
    assert found.ok
    assert found.coverage.left == ((0, 80),)


def test_a_gap_names_the_range_its_neighbours_and_the_command_that_shows_it(fleet):
    (fleet.remote["a"] / "cluster0_gpu1.pkl").unlink()
    error = bad(fleet).error
    assert "rows 40 - 80 are missing" in error.message
    assert "between cluster0_gpu0.pkl (a) and cluster1_gpu0.pkl (b)" in error.message
    assert "on a: ls -l /emb or on b: ls -l /emb" in error.hint


def test_a_gap_at_the_end_is_known_from_the_articles(fleet):
    assert "rows 160 - 200 are missing (after cluster1_gpu1.pkl (b))" in bad(fleet, articles=200).error.message


def test_an_overlap_names_both_shards(fleet):
    put(fleet.remote["a"], 0, 1, rows=50)
    error = bad(fleet).error
    assert "overlap: rows 80 - 90 are held by both cluster0_gpu1.pkl (a) and cluster1_gpu0.pkl (b)" in error.message


def test_the_same_rows_twice_are_a_duplicate(fleet):
    put(fleet.remote["b"], 7, 0, start=0)
    assert "duplicate: rows 0 - 40 are held twice" in bad(fleet).error.message


def test_one_name_on_two_clusters_names_both(fleet):
    put(fleet.remote["b"], 0, 1)
    assert "cluster0_gpu1.pkl is offered by both a and b" in bad(fleet).error.message


def test_a_shard_that_is_cut_short_is_told_from_a_broken_one(fleet):
    whole = (fleet.remote["a"] / "cluster0_gpu0.pkl").read_bytes()
    (fleet.remote["a"] / "cluster0_gpu0.pkl").write_bytes(whole[:-100])
    (fleet.remote["a"] / "cluster0_gpu1.pkl").write_bytes(b"\x89HDF\r\n\x1a\n and so on")
    found = bad(fleet)
    assert verdicts(found)["cluster0_gpu0.pkl"] == "truncated"
    assert verdicts(found)["cluster0_gpu1.pkl"] == "unreadable"
    assert "cluster0_gpu0.pkl is cut short" in found.error.message


@pytest.mark.parametrize("transfer", ["fast", "plain"])
def test_a_shard_that_grows_between_two_looks_is_still_being_written(fleet, transfer):
    path = fleet.remote["a"] / "cluster0_gpu1.pkl"

    def see(event):
        if isinstance(event, ShardInspected) and event.name == path.name:
            with path.open("ab") as file:
                file.write(b"more")

    clusters = [fleet.cluster(name, transfer=transfer) for name in "ab"]
    found = survey(clusters, Terms(articles=160), observer=see, stop=fleet.stop)
    assert verdicts(found)[path.name] == "growing"
    assert f"{path.name} is still being written" in found.error.message


def test_a_shard_that_goes_away_meanwhile_is_told(fleet):
    path = fleet.remote["a"] / "cluster0_gpu1.pkl"

    def see(event):
        if isinstance(event, ShardInspected) and event.name == path.name:
            path.unlink()

    clusters = [fleet.cluster(name) for name in "ab"]
    found = survey(clusters, Terms(articles=160), observer=see, stop=fleet.stop)
    assert "was removed while we looked" in found.error.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 8}, "different dim: 6 in 3 shards, but 8 in cluster1_gpu1.pkl (b)"),
        ({"dtype": "<f2"}, "different dtype: float32 in 3 shards, but float16 in cluster1_gpu1.pkl (b)"),
        ({"model": "other"}, "different model: all-tests-v1 in 3 shards, but other in cluster1_gpu1.pkl (b)"),
    ],
)
def test_a_shard_of_another_kind_is_the_odd_one(fleet, change, message):
    put(fleet.remote["b"], 1, 1, **change)
    found = bad(fleet)
    assert verdicts(found)["cluster1_gpu1.pkl"] == "odd"
    assert message in found.error.message


def test_another_dtype_is_no_trouble_where_the_merge_converts(fleet):
    put(fleet.remote["b"], 1, 1, dtype="<f2")
    assert look(fleet, any_dtype=True).ok


def test_rows_that_disagree_with_the_range_are_told(fleet):
    put(fleet.remote["b"], 1, 1, end_index=170)
    assert "it says it covers rows 120 - 170, which are 50, but it holds 40" in bad(fleet).error.message


def test_a_few_rows_more_than_articles_are_no_trouble_many_are(fleet):
    assert look(fleet, articles=150).ok
    error = look(fleet, articles=149).error
    assert isinstance(error, LocalDataError)
    assert error.message == "11 rows more than there are articles (149)"
    assert "at most 10 are left out" in error.hint


def test_a_shard_that_is_here_and_on_its_cluster_no_more_is_in_the_way_of_those_with_its_rows(fleet, tmp_path):
    path = put(tmp_path / "here", 0, 7, start=20)
    with path.open("rb") as file:
        here = replace(read_header(file, path.stat().st_size, path.name), cluster="a")
    error = look(fleet, ours=(here,)).error
    assert isinstance(error, LocalDataError)
    assert "cluster0_gpu7.pkl is here, and not on a any more: rows of it are also in cluster0_gpu0.pkl" in error.message
    fleet.servers["a"].stop()
    assert "cluster0_gpu7" not in str(look(fleet, ours=(here,)).problems)


def test_an_older_copy_of_a_shard_that_cannot_be_read_there_is_in_nobodys_way(fleet, tmp_path):
    path = put(tmp_path / "here", 0, 1, start=20)
    with path.open("rb") as file:
        here = replace(read_header(file, path.stat().st_size, path.name), cluster="a")
    (fleet.remote["a"] / path.name).write_bytes(b"no pickle")
    assert "is here" not in str(look(fleet, ours=(here,)).problems)


@pytest.mark.parametrize(("name", "start"), [("cluster0_gpu0.pkl", 0), ("cluster0_gpu7.pkl", 4 * ROWS)])
def test_a_shard_that_is_here_is_in_nobodys_way_if_it_is_fetched_anew_or_has_other_rows(fleet, tmp_path, name, start):
    path = put(tmp_path / "here", 0, int(name[12]), start=start)
    with path.open("rb") as file:
        here = read_header(file, path.stat().st_size, path.name)
    assert look(fleet, ours=(here,)).ok


def test_a_checkpoint_is_no_shard(fleet):
    (fleet.remote["a"] / "cluster0_gpu3_checkpoint_5000.pkl").write_bytes(b"x")
    found = look(fleet)
    assert found.ok
    assert [file.name for file in found.clusters[0].checkpoints] == ["cluster0_gpu3_checkpoint_5000.pkl"]


def test_all_problems_are_told_at_once(fleet):
    put(fleet.remote["b"], 1, 1, dim=8)
    (fleet.remote["a"] / "cluster0_gpu0.pkl").unlink()
    put(fleet.remote["a"], 0, 1, rows=41)
    message = bad(fleet).error.message
    assert all(word in message for word in ("gap", "overlap", "different dim"))


def test_a_cluster_that_cannot_be_asked_comes_first_and_the_other_is_asked_still(fleet):
    (fleet.remote["b"] / "cluster1_gpu1.pkl").unlink()
    fleet.write("a", port=free_port(), username="me", password="pw")
    found = look(fleet)
    assert isinstance(found.error, ConnectError)
    assert found.error.exit_code == 3
    assert [event.cluster for event in fleet.seen(ClusterFailed)] == ["a"]
    assert len(found.clusters[1].findings) == 1


def test_rows_that_a_cluster_without_shards_should_hold_are_missing(fleet):
    for path in fleet.remote["b"].iterdir():
        path.unlink()
    found = bad(fleet)
    assert "no embedding files found" in found.error.message
    assert [event.cluster for event in fleet.seen(ClusterFailed)] == ["b"]
    assert found.problems[0] == "b holds no shard"
    assert "rows 80 - 160 are missing" in found.problems[1]


def test_a_refused_login_beats_what_lies_on_the_other(fleet):
    fleet.write("b", port=fleet.servers["b"].port, username="me", password="wrong")
    fleet.write("a", port=fleet.servers["a"].port, username="me", password="pw", remote_dir="nowhere")
    assert isinstance(look(fleet).error, LoginError)


def test_terms_are_found_while_the_clusters_are_asked(fleet):
    asked = threading.Event()

    def see(event):
        if isinstance(event, ShardsFound):
            asked.set()

    def find():
        assert asked.wait(10)
        return Terms(articles=4 * ROWS)

    assert survey([fleet.cluster(name) for name in "ab"], find, observer=see, stop=fleet.stop).ok


def no_articles():
    raise LocalDataError("articles file missing")


def test_terms_that_cannot_be_found_beat_a_cluster_that_cannot_be_asked(fleet):
    fleet.write("a", port=free_port(), username="me", password="pw")
    with pytest.raises(LocalDataError):
        survey([fleet.cluster("a", retries=0)], no_articles, stop=fleet.stop)


def test_terms_that_cannot_be_found_end_the_wait_for_a_cluster(fleet):
    with Relay(fleet.servers["a"].port) as relay:
        fleet.write("a", port=relay.port, username="me", password="pw", remote_dir="emb")
        relay.freeze()
        began = time.monotonic()
        with pytest.raises(LocalDataError):
            survey([fleet.cluster("a", connect_timeout=20)], no_articles, stop=fleet.stop)
        assert time.monotonic() - began < 2


def test_a_stop_does_not_wait_for_the_terms(fleet):
    found = threading.Event()

    def find():
        fleet.stop.set()
        found.wait(10)
        return Terms()

    began = time.monotonic()
    with pytest.raises(Interrupted):
        survey([], find, stop=fleet.stop)
    assert time.monotonic() - began < 1
    found.set()


def test_a_line_that_drops_during_the_look_is_opened_again(fleet, monkeypatch):
    monkeypatch.setattr("embmerge.remote.retry.FIRST_PAUSE", 0.01)
    with Relay(fleet.servers["a"].port) as relay:
        fleet.write("a", port=relay.port, username="me", password="pw", remote_dir="emb")
        cluster = fleet.cluster("a", retries=5)
        cluster.connect()
        relay.cut_after(700)
        found = survey([cluster], Terms(articles=80), observer=fleet.see, stop=fleet.stop)
    assert relay.connections == 2
    assert found.ok


def test_a_line_that_freezes_is_lost_after_the_stall_timeout(fleet):
    with Relay(fleet.servers["a"].port) as relay:
        fleet.write("a", port=relay.port, username="me", password="pw", remote_dir="emb")
        cluster = fleet.cluster("a", stall_timeout=0.3)
        cluster.connect()
        relay.freeze()
        found = survey([cluster], Terms(), observer=fleet.see, stop=threading.Event())
        assert isinstance(found.error, ConnectionLost)
        relay.thaw()


class Failing(Home):
    """Its disk fails when a shard is looked at by name."""

    def stat(self, path):
        if path.endswith(b".pkl"):
            raise asyncssh.SFTPFailure("stale file handle")
        return super().stat(path)


@pytest.mark.parametrize("transfer", ["fast", "plain"])
def test_a_shard_that_cannot_be_looked_at_again_is_not_said_to_be_removed(tmp_path, transfer):
    with Lab(tmp_path, home=Failing) as lab:
        lab.shards(1)
        cluster = lab.cluster(lab.settings(transfer=transfer))
        found = survey([cluster], Terms(), stop=lab.stop)
        cluster.close()
    assert found.problems[0] == "cluster0_gpu0.pkl cannot be looked at again: stale file handle"
    assert found.error.exit_code == 4


@pytest.mark.parametrize("transfer", ["fast", "plain"])
def test_less_than_64_kib_a_shard_cross_the_network(fleet, transfer):
    for gpu in range(2):
        put(fleet.remote["a"], 0, gpu, start=gpu * 400, rows=400, dim=768)
    with Relay(fleet.servers["a"].port) as relay:
        fleet.write("a", port=relay.port, username="me", password="pw", remote_dir="emb")
        cluster = fleet.cluster("a", transfer=transfer)
        assert survey([cluster], Terms(articles=800), stop=fleet.stop).ok
        assert relay.passed < 2 * 64 * 1024


def test_what_a_script_gets_is_one_document_and_the_exit_code(fleet):
    (fleet.remote["a"] / "cluster0_gpu1.pkl").unlink()
    ran = subprocess.run(
        [sys.executable, "-m", "invoke", "verify-remote", "--json", "--credentials", fleet.credentials],
        cwd=TASKS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 4
    document = json.loads(ran.stdout)
    assert "rows 40 - 80 are missing" in json.dumps(document)
    assert "Traceback" not in ran.stderr

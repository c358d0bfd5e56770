"""What `sync` decides and does, against an embedded server."""

import hashlib
import itertools
import json
import os
import threading
from pathlib import Path

import asyncssh
import pytest

from embmerge import atomic
from embmerge.console.results import render
from embmerge.demo.server import Home
from embmerge.errors import ConnectError, DiskError, Interrupted, LocalDataError, RemoteChanged, RemoteDataError
from embmerge.events import (
    ClusterDone,
    ClusterFailed,
    Queued,
    Retrying,
    ShardFetched,
    ShardSkipped,
    ShardStarted,
    SyncStarted,
    Warned,
)
from embmerge.remote import gate, manifest, transfer, verification, work
from embmerge.remote.gate import Gate
from embmerge.remote.landing import Landing
from embmerge.remote.pace import Pace
from embmerge.remote.partial import Partial
from tests.syncing import MB, Lab, partials, write_shard

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def lab(tmp_path):
    with Lab(tmp_path) as lab:
        yield lab


both_ways = pytest.mark.parametrize("transfer", ["fast", "plain"])


@both_ways
def test_shards_arrive_whole_and_under_their_own_names(lab, transfer):
    lab.shards(3, rows=700)
    result = lab.sync(transfer=transfer)
    assert result.error is None
    assert lab.same() == {"cluster0_gpu0.pkl", "cluster0_gpu1.pkl", "cluster0_gpu2.pkl"}
    assert not (lab.local / ".partial").exists()


@both_ways
def test_many_small_shards_arrive(lab, transfer):
    lab.shards(80, rows=1, dim=8)
    assert lab.sync(transfer=transfer).error is None
    assert len(lab.same()) == 80


def test_a_large_shard_comes_over_all_connections_of_a_far_line(tmp_path):
    with Lab(tmp_path, relay={"delay": 0.01}) as lab:
        lab.shards(1, rows=33_000)  # 32 MB
        assert lab.sync(connections=4).error is None
        assert lab.same()
        assert lab.relay.connections == 4


def test_one_connection_is_enough_for_a_near_line_that_keeps_python_busy(lab, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    monkeypatch.setattr(gate, "_BUSY", 0.0)
    lab.shards(1, rows=33_000)
    assert lab.sync(connections=4).error is None
    assert lab.relay.connections == 1


def test_a_near_line_that_is_slow_gets_all_connections_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    monkeypatch.setattr(transfer, "_BYTES_A_LANE", MB)
    with Lab(tmp_path, relay={"rate": 4 * MB}) as lab:
        lab.shards(1, rows=5000)
        assert lab.sync(connections=4).error is None
        assert lab.relay.connections == 4


def test_one_connection_is_enough_for_a_near_line_that_a_limit_keeps_slow(lab, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    monkeypatch.setattr(transfer, "_BYTES_A_LANE", MB)
    lab.shards(1, rows=5000)
    assert lab.sync(connections=4, limit_rate=4 * MB).error is None
    assert lab.relay.connections == 1


def test_two_near_clusters_are_fetched_one_after_the_other_while_they_keep_python_busy(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    monkeypatch.setattr(gate, "_BUSY", 0.0)
    lab.shards(2, rows=4000)
    with Lab(tmp_path, name="b") as other:
        for gpu in (2, 3):
            write_shard(other.remote / f"cluster1_gpu{gpu}.pkl", rows=4000, seed=gpu)
        assert lab.sync(others=[other]).error is None
    assert len(lab.seen(Queued)) == 1
    clusters = [event.cluster for event in lab.events if isinstance(event, (ShardStarted, ShardFetched))]
    assert [cluster for cluster, _ in itertools.groupby(clusters)] in (["a", "b"], ["b", "a"])


def test_two_near_clusters_on_slow_lines_are_fetched_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    slow = {"rate": 4 * MB}
    with Lab(tmp_path, relay=slow) as lab, Lab(tmp_path, name="b", relay=slow) as other:
        lab.shards(1, rows=4000)
        write_shard(other.remote / "cluster1_gpu0.pkl", rows=4000, seed=1)
        assert lab.sync(others=[other]).error is None
    kinds = [type(event) for event in lab.events if isinstance(event, (ShardStarted, ShardFetched))]
    assert kinds == [ShardStarted, ShardStarted, ShardFetched, ShardFetched]


def test_a_near_cluster_whose_line_drops_goes_on_beside_the_one_that_took_its_turn(lab, monkeypatch):
    shared = Gate(Pace(None), used=itertools.count(step=1000.0).__next__)  # Python is always busy
    monkeypatch.setattr(transfer, "NEAR", 10.0)
    monkeypatch.setattr(gate, "_PROBE", 0.01)
    monkeypatch.setattr("embmerge.remote.sync.Gate", lambda _pace: shared)
    lab.shards(1, rows=17_000)  # worth two connections
    at_work, done = threading.Event(), threading.Event()

    def take_its_turn():
        with shared.opened(done.is_set, queued=lab.relay.cut):
            at_work.set()
            done.wait(10)
            at_work.clear()

    another = threading.Thread(target=take_its_turn, daemon=True)
    lab.relay.call_after(MB, another.start)
    assert lab.sync().error is None
    assert at_work.is_set()
    done.set()
    another.join(10)
    assert lab.same()


def test_an_unchanged_shard_is_skipped(lab):
    lab.shards(2)
    lab.sync()
    lab.events.clear()
    result = lab.sync()
    assert [step.action for step in result.clusters[0].steps] == ["skip", "skip"]
    assert len(lab.seen(ShardSkipped)) == 2
    assert not lab.seen(ShardStarted)


def test_a_changed_shard_is_fetched_again(lab):
    (path,) = lab.shards(1)
    lab.sync()
    write_shard(path, rows=80, seed=9)
    result = lab.sync()
    assert [step.action for step in result.clusters[0].steps] == ["refetch"]
    assert lab.same()


def test_a_shard_has_the_mtime_of_the_remote_one(lab):
    (path,) = lab.shards(1)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    lab.sync()
    assert (lab.local / path.name).stat().st_mtime == 1_700_000_000


def test_events_tell_the_story_in_order(lab):
    lab.shards(1)
    lab.sync()
    kinds = [type(event) for event in lab.events]
    story = [SyncStarted, ShardStarted, ShardFetched, ClusterDone]
    assert [kind for kind in kinds if kind in story] == story


def test_the_manifest_says_where_each_shard_came_from(lab):
    (path,) = lab.shards(1)
    lab.sync()
    entry = json.loads((lab.local / "manifest.json").read_text())["shards"][path.name]
    assert (entry["cluster"], entry["path"], entry["range"]) == ("a", "/out/cluster0_gpu0.pkl", [0, 64])
    assert entry["size"] == path.stat().st_size


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{bad")])
def test_a_manifest_that_was_lost_is_made_anew(lab, damage):
    lab.shards(2)
    lab.sync()
    before = manifest.read(lab.local).shards
    damage(lab.local / "manifest.json")
    lab.sync()
    now = manifest.read(lab.local).shards
    assert {name: entry.sha256 for name, entry in now.items()} == {name: e.sha256 for name, e in before.items()}
    assert {entry.cluster for entry in now.values()} == {"a"}


def test_a_manifest_that_knows_all_shards_is_not_written_again(lab):
    lab.shards(1)
    lab.sync()
    before = (lab.local / "manifest.json").stat().st_mtime_ns
    lab.sync()
    assert (lab.local / "manifest.json").stat().st_mtime_ns == before


def test_a_shard_that_has_moved_to_another_cluster_is_the_others_now(lab, tmp_path):
    with Lab(tmp_path, name="b") as other:
        path = lab.shards(2)[1]
        lab.sync(others=[other])
        path.rename(other.remote / path.name)
        lab.sync(others=[other])
        entry = manifest.read(lab.local).shards[path.name]
    assert entry.cluster == "b"
    assert entry.sha256 == hashlib.sha256((lab.local / path.name).read_bytes()).hexdigest()
    assert lab.seen(Warned) == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_shard_that_is_not_on_its_cluster_any_more_is_told(lab, dry_run):
    gone = lab.shards(2)[1]
    lab.sync()
    gone.unlink()
    lab.sync(dry_run=dry_run)
    assert [event.text[:50] for event in lab.seen(Warned)] == [f"{gone.name} is here, and not on a any more: "[:50]]
    assert (lab.local / gone.name).exists()


def test_the_manifest_does_not_wait_for_a_line_that_is_frozen(lab, monkeypatch):
    lab.shards(1)
    write_shard(lab.remote / "cluster0_gpu9.pkl", start=64, rows=20_000)
    written = threading.Event()
    monkeypatch.setattr(manifest, "record", lambda _folder, **what: written.set() if what.get("shards") else None)
    lab.relay.rate = 16 * MB
    lab.relay.call_after(14 * MB, lab.relay.freeze)

    def sync():
        with pytest.raises(Interrupted):
            lab.sync(connections=1, stall_timeout=30)

    syncing = threading.Thread(target=sync)
    syncing.start()
    assert written.wait(10)
    lab.stop.set()
    syncing.join()


def test_the_manifest_has_the_sha256_of_the_bytes(lab):
    (path,) = lab.shards(1, rows=5000)
    lab.sync(connections=4)
    entry = json.loads((lab.local / "manifest.json").read_text())["shards"][path.name]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_dry_run_downloads_nothing_and_says_what_it_would(lab):
    lab.shards(2)
    result = lab.sync(dry_run=True)
    assert not lab.local.exists()
    *_, last_step, sums = render(result, None)
    assert "cluster0_gpu1.pkl: fetch" in last_step
    assert sums.startswith("Would fetch 2: ")


def test_a_dry_run_knows_the_last_rate(lab):
    lab.shards(1, rows=4000)
    lab.sync()
    (lab.local / "cluster0_gpu0.pkl").unlink()
    assert "at the last known rate" in render(lab.sync(dry_run=True), None)[-1]


def test_a_dry_run_knows_the_rate_of_an_interrupted_sync(lab):
    lab.shards(1, rows=16_000)
    lab.relay.rate = 20 * MB
    lab.relay.call_after(6 * MB, lab.stop.set)
    with pytest.raises(Interrupted):
        lab.sync()
    lab.stop.clear()
    assert "at the last known rate" in render(lab.sync(dry_run=True), None)[-1]


def test_two_clusters_with_the_same_name_are_refused_before_anything_is_downloaded(lab, tmp_path):
    lab.shards(1)
    with Lab(tmp_path, name="b") as other:
        other.shards(1)
        with pytest.raises(RemoteDataError, match=r"cluster0_gpu0\.pkl is offered by both a and b"):
            lab.sync(others=[other])
    assert not lab.local.exists()


def test_one_failing_cluster_does_not_stop_the_other(lab, tmp_path):
    lab.shards(1)
    with Lab(tmp_path, name="b") as other:
        result = lab.sync(others=[other])
    assert lab.same() == {"cluster0_gpu0.pkl"}
    assert isinstance(result.error, RemoteDataError)
    assert [event.cluster for event in lab.seen(ClusterFailed)] == ["b"]
    assert [event.cluster for event in lab.seen(ClusterDone)] == ["a"]


def test_a_folder_in_the_place_of_a_shard_is_an_error(lab):
    lab.shards(1)
    (lab.local / "cluster0_gpu0.pkl").mkdir(parents=True)
    with pytest.raises(LocalDataError, match="is a folder"):
        lab.sync()


def test_free_disk_is_checked_before_the_first_byte(lab):
    path = lab.remote / "cluster0_gpu0.pkl"
    with path.open("wb") as file:
        file.truncate(8 << 40)
    with pytest.raises(DiskError, match="free"):
        lab.sync()
    assert not lab.seen(ShardStarted)


def of_another_container(lab, path):
    """Half of a shard, begun by a run of which nothing can be known here."""
    facts = {"cluster": "a", "name": path.name, "path": f"/out/{path.name}"}
    facts |= {"nbytes": path.stat().st_size, "mtime": int(path.stat().st_mtime)}
    half = facts["nbytes"] // 2
    folder = lab.local / ".partial" / f"{path.name}.0123456789ab-77-1234-0"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(path.read_bytes()[:half])
    (folder / "journal").write_text(f'{json.dumps(facts)}\n[0, {half}]\n{{"synced": [[0, {half}]]}}\n')
    return half


def test_what_another_container_has_begun_is_copied_and_gone_on_with(lab):
    (path,) = lab.shards(1, rows=2000)
    half = of_another_container(lab, path)
    result = lab.sync()
    assert result.clusters[0].received == path.stat().st_size - half
    assert lab.same()


def test_free_disk_is_checked_for_what_is_copied_too(lab, monkeypatch):
    (path,) = lab.shards(1, rows=2000)
    of_another_container(lab, path)
    asked = []
    monkeypatch.setattr(atomic, "need", lambda _folder, nbytes: asked.append(nbytes))
    lab.sync()
    assert asked[0] >= path.stat().st_size + MB  # which is left over


def test_a_stop_is_heard_while_a_partial_is_copied(lab, monkeypatch):
    (path,) = lab.shards(1, rows=9000)
    of_another_container(lab, path)
    pieces = []

    def pread(file, length, at):
        pieces.append(at)
        lab.stop.set()
        return really(file, length, at)

    really = os.pread
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(Interrupted):
        lab.sync()
    assert len(pieces) == 1


def test_a_dry_run_removes_nothing(lab):
    lab.shards(1)
    odd = lab.local / ".partial" / "x.left-00"
    odd.mkdir(parents=True)
    lab.sync(dry_run=True)
    assert odd.exists()
    lab.sync()
    assert not odd.exists()


def test_a_session_that_dies_again_and_again_is_tried_again_after_pauses(tmp_path):
    class Dying(Home):
        def __init__(self, chan):
            super().__init__(chan)
            chan.get_connection().abort()

    with Lab(tmp_path, home=Dying) as lab:
        lab.sync(retries=2)
    pauses = [event.pause for event in lab.seen(Retrying)]
    assert len(pauses) == 2
    assert all(pauses)


def test_a_file_that_is_no_shard_is_not_taken(lab):
    (lab.remote / "cluster0_gpu0.pkl").write_bytes(b"not a pickle at all" * 1000)
    result = lab.sync()
    assert isinstance(result.error, RemoteDataError)
    assert lab.same() == set()
    assert not partials(lab.local)


def test_a_header_that_verify_remote_did_not_see_is_refused(lab):
    (path,) = lab.shards(1)
    settings = lab.settings()
    cluster = lab.cluster(settings)
    cluster.connect()
    headers = {file.name: header for file, header in cluster.headers(cluster.listing().shards)}
    cluster.close()
    write_shard(path, start=64)
    result = lab.sync(headers=headers)
    assert "another header" in result.error.message
    assert lab.same() == set()


def test_checksum_fetches_what_differs_whatever_size_and_mtime_say(lab):
    (path, _) = lab.shards(2)
    lab.sync()
    local = lab.local / path.name
    facts = local.stat()
    local.write_bytes(b"\0" * facts.st_size)
    os.utime(local, (facts.st_mtime, facts.st_mtime))
    assert [step.action for step in lab.sync().clusters[0].steps] == ["skip", "skip"]
    assert [step.action for step in lab.sync(checksum=True).clusters[0].steps] == ["refetch", "skip"]
    assert len(lab.same()) == 2


def test_checksum_gives_an_identical_shard_the_mtime_by_which_the_next_sync_knows_it(lab):
    (path,) = lab.shards(1)
    lab.sync()
    os.utime(lab.local / path.name, (1_600_000_000, 1_600_000_000))
    lab.sync(checksum=True)
    assert [step.action for step in lab.sync().clusters[0].steps] == ["skip"]


def test_checksum_writes_the_mtime_of_an_identical_shard_into_the_manifest(lab):
    (path,) = lab.shards(1)
    lab.sync()
    os.utime(path, (1_700_000_000, 1_700_000_000))
    lab.sync(checksum=True)
    assert json.loads((lab.local / "manifest.json").read_text())["shards"][path.name]["mtime"] == 1_700_000_000


def test_checksum_changes_no_mtime_in_a_dry_run(lab):
    (path,) = lab.shards(1)
    lab.sync()
    os.utime(lab.local / path.name, (1_600_000_000, 1_600_000_000))
    lab.sync(checksum=True, dry_run=True)
    assert (lab.local / path.name).stat().st_mtime == 1_600_000_000


def test_checksum_without_a_shell_is_a_connect_error(tmp_path):
    lab = Lab(tmp_path)
    lab.server._shell = None
    with lab:
        lab.shards(1)
        result = lab.sync(checksum=True, stall_timeout=1)
    assert isinstance(result.error, ConnectError)
    assert result.error.exit_code == 3
    assert "no shell with sha256sum" in result.error.message


@pytest.mark.parametrize("when", [1, 2])
def test_a_line_that_drops_while_checksums_are_asked_for_is_opened_again(tmp_path, when):
    lab, calls = Lab(tmp_path), itertools.count(1)
    really = lab.server._shell

    async def shell(process):
        if next(calls) == when:
            process.get_extra_info("connection").abort()
        else:
            await really(process)

    lab.server._shell = shell
    with lab:
        lab.shards(2)
        assert lab.sync(checksum=True).error is None
        assert lab.seen(Retrying)


@pytest.mark.parametrize(("count", "rows"), [(40, 100), (1, 9000)])
def test_of_a_limit_no_more_is_taken_than_is_fetched(lab, monkeypatch, count, rows):
    taken = []
    reserve = Pace.reserve
    monkeypatch.setattr(Pace, "reserve", lambda pace, nbytes: (taken.append(nbytes), reserve(pace, nbytes))[1])
    paths = lab.shards(count, rows=rows)
    assert lab.sync(connections=1, limit_rate=100 * MB).error is None
    assert sum(taken) == sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("connections", [1, 4])
def test_never_more_than_a_megabyte_is_here_and_not_noted(lab, monkeypatch, connections):
    here, most, counting = [0], [0], threading.Lock()
    sink, add = Landing.sink, Partial.add

    def count(nbytes):
        with counting:
            here[0] += nbytes
            most[0] = max(most[0], here[0])

    def counted_sink(landing, download):
        take = sink(landing, download)
        return lambda offset, parts: (count(sum(map(len, parts))), take(offset, parts))

    def counted_add(partial, start, end):
        add(partial, start, end)
        count(start - end)

    monkeypatch.setattr(transfer, "NEAR", 0.0)  # or one connection would do all
    monkeypatch.setattr(Landing, "sink", counted_sink)
    monkeypatch.setattr(Partial, "add", counted_add)
    lab.shards(4, rows=9000)
    assert lab.sync(connections=connections).error is None
    assert here == [0]
    assert most[0] <= MB


def test_one_limit_is_for_all_clusters_together(lab, tmp_path, monkeypatch):
    paces, reserve = set(), Pace.reserve
    monkeypatch.setattr(Pace, "reserve", lambda pace, nbytes: (paces.add(pace), reserve(pace, nbytes))[1])
    lab.shards(1)
    with Lab(tmp_path, name="b") as other:
        write_shard(other.remote / "cluster1_gpu0.pkl", start=64)
        assert lab.sync(others=[other], limit_rate=100 * MB).error is None
    assert len(paces) == 1


def test_a_limited_rate_is_kept(lab):
    lab.shards(1, rows=1000)  # 1 MB
    result = lab.sync(limit_rate=2 * MB)
    assert lab.same()
    assert result.seconds > 0.4


def test_stop_ends_within_two_seconds_and_keeps_what_is_here(lab):
    lab.shards(2, rows=8000)
    lab.relay.call_after(6 * MB, lab.stop.set)
    stopped = threading.Event()
    lab.relay.rate = 8 * MB
    with pytest.raises(Interrupted, match=r"MB of unfinished ones kept") as caught:
        lab.sync()
    stopped.set()
    assert caught.value.exit_code == 130
    lab.stop.clear()
    lab.relay.rate = None
    before = lab.relay.passed
    assert lab.sync().error is None
    assert len(lab.same()) == 2
    assert lab.relay.passed - before < 12 * MB


def test_a_second_sync_at_the_same_time_harms_nothing(lab):
    lab.shards(3, rows=4000)
    results = []
    threads = [threading.Thread(target=lambda: results.append(lab.sync())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.error for result in results] == [None, None]
    assert len(lab.same()) == 3
    assert not partials(lab.local)


def test_no_aes_gcm_is_said_once(tmp_path):
    with Lab(tmp_path, options={"encryption_algs": ["aes128-ctr"]}) as lab:
        lab.shards(2, rows=9000)
        assert lab.sync(connections=3).error is None
        assert lab.same()
        assert [event.text for event in lab.seen(Warned) if "AES-GCM" in event.text] == [
            "the server offers no AES-GCM; aes128-ctr is slower"
        ]


class Liar(Home):
    """A server that changes a byte on the way."""

    def read(self, file_obj, offset, size):
        data = super().read(file_obj, offset, size)
        at = 40_000 - offset
        return data[:at] + b"\xff" + data[at + 1 :] if 0 <= at < len(data) else data


@both_ways
def test_what_came_is_compared_with_the_checksum_there(tmp_path, transfer):
    with Lab(tmp_path, home=Liar) as lab:
        lab.shards(1, rows=200)
        error = lab.sync(checksum=True, transfer=transfer).error
        assert isinstance(error, RemoteChanged)
        assert "another sha256" in error.message
        assert lab.same() == set()


def test_the_manifest_has_the_sha256_of_what_was_resumed_too(lab):
    (path,) = lab.shards(1, rows=6000)

    def cut():
        lab.relay.cut()
        lab.relay.refuse()

    lab.relay.rate = 16 * MB
    lab.relay.call_after(3 * MB, cut)
    lab.sync(retries=0)
    assert partials(lab.local)
    lab.relay.accept()
    assert lab.sync().error is None
    assert manifest.read(lab.local).shards[path.name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_disk_is_waited_for_now_and_then(lab, monkeypatch):
    waits = []
    monkeypatch.setattr(work, "_SYNC_EVERY", 0.0)
    monkeypatch.setattr(Partial, "sync", lambda _partial: waits.append(None))
    lab.shards(1, rows=6000)
    assert lab.sync().error is None
    assert waits


def test_a_disk_that_fails_at_the_last_step_ends_the_sync(lab, monkeypatch):
    def full(_partial, _target):
        raise DiskError("the disk is full")

    monkeypatch.setattr(Partial, "promote", full)
    lab.shards(2)
    with pytest.raises(DiskError):
        lab.sync()


@both_ways
def test_what_could_not_be_written_is_not_noted(lab, monkeypatch, transfer):
    def full(*_written):
        raise DiskError("the disk is full")

    noted = []
    monkeypatch.setattr(Partial, "write", full)
    monkeypatch.setattr(Partial, "add", lambda _partial, *place: noted.append(place))
    lab.shards(1)
    with pytest.raises(DiskError):
        lab.sync(transfer=transfer)
    assert noted == []


def test_what_is_here_when_the_disk_fails_is_for_the_next_run(lab, monkeypatch):
    lab.shards(1)

    def full(_partial, _target):
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "promote", full)
        with pytest.raises(DiskError):
            lab.sync()
    ((step,),) = (each.steps for each in lab.sync(dry_run=True).clusters)
    assert (step.action, step.missing) == ("resume", 0)
    assert lab.sync().error is None
    assert lab.same()


def test_a_sync_ends_when_the_manifest_is_written(lab, monkeypatch):
    record = manifest.record

    def slowly(folder, **what):
        threading.Event().wait(0.1)
        record(folder, **what)

    monkeypatch.setattr(manifest, "record", slowly)
    (path,) = lab.shards(1)
    lab.sync()
    assert path.name in manifest.read(lab.local).shards


def test_checksums_of_shards_that_are_not_here_yet_are_asked_for(lab):
    lab.shards(2)
    assert lab.sync(checksum=True).error is None
    assert len(lab.same()) == 2


def test_checksums_of_many_shards_are_asked_for_in_several_commands(lab):
    lab.shards(40, rows=1, dim=8)
    assert lab.sync().error is None
    assert [step.action for step in lab.sync(checksum=True).clusters[0].steps] == ["skip"] * 40


def answering(lab, out, err, code):
    """Have the cluster's shell answer so to all but the probe, or to that too if `out` is empty."""
    really = lab.server._shell

    async def shell(process):
        if out and "null" in process.command:
            await really(process)
            return
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(code)

    lab.server._shell = shell


def test_a_shell_without_sha256sum_cannot_compare(tmp_path):
    lab = Lab(tmp_path)
    answering(lab, b"", b"sh: sha256sum: not found", 127)
    with lab:
        lab.shards(1)
        error = lab.sync(checksum=True).error
    assert error.exit_code == 3
    assert "no shell with sha256sum" in error.message


def test_a_shard_that_sha256sum_cannot_read_is_told(tmp_path):
    lab = Lab(tmp_path)
    answering(lab, b"0" * 64 + b"  /out/cluster0_gpu0.pkl\n", b"permission denied", 1)
    with lab:
        lab.shards(2)
        error = lab.sync(checksum=True).error
    assert isinstance(error, RemoteDataError)
    assert "permission denied" in error.message


@pytest.mark.parametrize(
    ("out", "code"),
    [(b"all is well\n", 0), (b"0" * 64 + b"  x\n" + b"1" * 64 + b"  y\n", 1)],
    ids=["no sum", "all sums"],
)
def test_an_answer_of_sha256sum_that_cannot_be_trusted_is_told(tmp_path, out, code):
    lab = Lab(tmp_path)
    answering(lab, out, b"what a day", code)
    with lab:
        lab.shards(2)
        error = lab.sync(checksum=True).error
    assert isinstance(error, RemoteDataError)
    assert "what a day" in error.message


def test_a_sha256sum_that_does_not_end_is_not_waited_for(tmp_path):
    lab = Lab(tmp_path)
    really = lab.server._shell

    async def shell(process):
        if "null" in process.command:
            await really(process)
        else:
            await process.wait_closed()

    lab.server._shell = shell
    with lab:
        lab.shards(1)
        error = lab.sync(checksum=True, stall_timeout=0.3).error
    assert isinstance(error, ConnectError)
    assert "sha256sum gave no answer" in error.message


def test_checksums_are_compared_in_a_directory_of_an_odd_name(tmp_path):
    lab = Lab(tmp_path, sshd={})
    lab.remote = lab.remote / "it's my \\ $HOME"  # for which sha256sum has a notation of its own
    lab.remote_dir = str(lab.remote)
    with lab:
        lab.shards(1)
        lab.sync()
        assert [step.action for step in lab.sync(checksum=True).clusters[0].steps] == ["skip"]


def test_an_identical_shard_of_somebody_else_keeps_its_mtime(lab, monkeypatch):
    (path,) = lab.shards(1)
    lab.sync()
    os.utime(lab.local / path.name, (1_600_000_000, 1_600_000_000))

    def denied(*_args, **_how):
        raise PermissionError

    monkeypatch.setattr(os, "utime", denied)
    result = lab.sync(checksum=True)
    assert result.error is None
    assert [step.action for step in result.clusters[0].steps] == ["skip"]


def test_the_manifest_is_not_written_for_each_of_many_small_shards(lab, monkeypatch):
    written, record = [], manifest.record
    monkeypatch.setattr(verification, "_WRITE_EVERY", 1000.0)
    monkeypatch.setattr(manifest, "record", lambda folder, **what: (written.append(what), record(folder, **what)))
    lab.shards(20, rows=1, dim=8)
    assert lab.sync().error is None
    assert [len(what["shards"]) for what in written if what.get("shards")] == [20]


def test_a_fraction_of_a_second_is_no_change(lab):
    (path,) = lab.shards(1)
    lab.sync()
    seconds = int(path.stat().st_mtime) + 0.7
    os.utime(lab.local / path.name, (seconds, seconds))
    assert [step.action for step in lab.sync().clusters[0].steps] == ["skip"]


def test_a_server_that_takes_few_requests_at_a_time_is_waited_for(tmp_path):
    with Lab(tmp_path, options={"window": 512}, relay={"delay": 0.11}) as lab:
        lab.shards(16, rows=4, dim=4)
        assert lab.sync(connections=1).error is None
        assert not lab.seen(Retrying)
        assert len(lab.same()) == 16


def test_a_server_that_says_no_size_any_more_is_believed_less(tmp_path):
    class Silent(Home):
        def stat(self, path):
            facts = asyncssh.SFTPAttrs.from_local(super().stat(path))
            facts.size = None
            return facts

    with Lab(tmp_path, home=Silent) as lab:
        lab.shards(1)
        assert isinstance(lab.sync(transfer="plain").error, RemoteChanged)


def test_all_clusters_together_have_few_files_open(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "embmerge.remote.sync.Work", lambda *what, **how: made.append(how["at_once"]) or work.Work(*what, **how)
    )
    with Lab(tmp_path) as lab, Lab(tmp_path, name="b") as other:
        lab.shards(1)
        write_shard(other.remote / "cluster1_gpu0.pkl")
        assert lab.sync(others=[other]).error is None
    assert made == [work.AT_ONCE // 2] * 2


def test_a_cluster_is_done_when_it_is_and_not_when_all_are(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "NEAR", 0.0)  # at the same time
    with Lab(tmp_path) as lab, Lab(tmp_path, name="b", relay={"rate": 8 * MB}) as other:
        lab.shards(1)
        write_shard(other.remote / "cluster1_gpu0.pkl", rows=4000)
        assert lab.sync(others=[other]).error is None
    ends = [(type(event), event.cluster) for event in lab.events if isinstance(event, (ShardFetched, ClusterDone))]
    assert ends.index((ClusterDone, "a")) < ends.index((ShardFetched, "b"))


def test_what_was_stopped_before_a_byte_came_keeps_none(lab):
    lab.shards(1)
    lab.stop.set()
    with pytest.raises(Interrupted) as caught:
        lab.sync()
    assert "0 B" not in caught.value.message

"""Waiting for workers, against a real SSH server whose files change between two looks."""

import itertools
import json
import pickle
import threading

import numpy as np
import pytest

from embmerge import events as e
from embmerge.demo.server import Accounts, Server
from embmerge.errors import Interrupted
from embmerge.remote.cluster import Cluster
from embmerge.remote.credentials import load_credentials
from embmerge.remote.terms import Terms
from embmerge.remote.waiting import FIRST_PAUSE, GROWTH, survey_when_done
from embmerge.settings import Settings

ROWS = 50  # a shard


def write(folder, gpu, rows=ROWS, *, end=None, name=None):
    start = gpu * ROWS
    shard = {
        "embeddings": np.ones((rows, 4), np.float32),
        "start_index": start,
        "end_index": end or start + rows,
        "cluster_id": 0,
        "gpu_id": gpu,
    }
    (folder / (name or f"cluster0_gpu{gpu}.pkl")).write_bytes(pickle.dumps(shard))


class Waited:
    """Two workers' home on a server; each pause runs the next of `steps` instead of waiting."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster = folder, cluster
        self.events, self.pauses, self.now = [], [], 0.0

    def __call__(self, *steps, minutes=60, articles=2 * ROWS, others=()):
        todo = list(steps)

        def pause(seconds):
            self.pauses.append(seconds)
            self.now += seconds
            if todo:
                todo.pop(0)()
            return False

        return survey_when_done(
            [self.cluster],
            Terms(articles=articles, others=others),
            minutes,
            observer=self.events.append,
            stop=threading.Event(),
            clock=lambda: self.now,
            pause=pause,
        )

    @property
    def workers(self):
        waiting = [event for event in self.events if isinstance(event, e.Waiting)]
        return [(event.worker, event.rows_done, event.rows_expected) for event in waiting]


@pytest.fixture
def waited(tmp_path, own_home):
    folder = tmp_path / "home" / "emb"
    folder.mkdir(parents=True)
    with Server(tmp_path / "home", lambda: Accounts({"user": "pw"})) as server:
        given = {"address": "127.0.0.1", "port": server.port, "username": "user", "password": "pw", "remote_dir": "emb"}
        path = tmp_path / "t.credentials"
        path.write_text(json.dumps(given))
        path.chmod(0o600)
        settings = Settings(credentials=tmp_path)
        cluster = Cluster(load_credentials("t", tmp_path), settings, stop=threading.Event())
        yield Waited(folder, cluster)
        cluster.close()


def test_who_is_complete_is_not_waited_for(waited):
    write(waited.folder, 0)
    write(waited.folder, 1)
    assert waited().ok
    assert waited.pauses == []


def test_a_worker_is_waited_for_and_its_progress_shown(waited):
    write(waited.folder, 0)
    write(waited.folder, 1, 10, end=100, name="cluster0_gpu1_checkpoint_10.pkl")
    found = waited(
        lambda: write(waited.folder, 1, 30, end=100, name="cluster0_gpu1_checkpoint_30.pkl"),
        lambda: write(waited.folder, 1),
    )
    assert found.ok
    assert waited.workers == [("cluster0_gpu1", 10, ROWS), ("cluster0_gpu1", 30, ROWS)]


def test_the_end_of_a_range_that_a_checkpoint_does_not_say_is_the_gaps(waited):
    write(waited.folder, 0)
    write(waited.folder, 1, 10, name="cluster0_gpu1_checkpoint_10.pkl")
    assert waited(lambda: write(waited.folder, 1)).ok
    assert waited.workers == [("cluster0_gpu1", 10, ROWS)]


def test_of_a_checkpoint_that_is_being_written_its_name_tells(waited):
    write(waited.folder, 0)
    (waited.folder / "cluster0_gpu1_checkpoint_20.pkl").write_bytes(b"\x80\x04half")
    assert waited(lambda: write(waited.folder, 1)).ok
    assert waited.workers == [("cluster0_gpu1", 20, None)]


def test_a_leftover_checkpoint_is_not_waited_for(waited):
    write(waited.folder, 0)
    write(waited.folder, 1)
    write(waited.folder, 1, 10, name="cluster7_gpu1_checkpoint_10.pkl")
    assert waited().ok
    assert waited.pauses == []


def test_a_shard_that_is_cut_short_may_be_whole_soon(waited):
    write(waited.folder, 0)
    write(waited.folder, 1)
    whole = (waited.folder / "cluster0_gpu1.pkl").read_bytes()
    (waited.folder / "cluster0_gpu1.pkl").write_bytes(whole[:-200])
    assert waited(lambda: (waited.folder / "cluster0_gpu1.pkl").write_bytes(whole)).ok
    assert waited.workers == [("cluster0_gpu1", None, None)]


def test_a_gap_without_a_checkpoint_is_waited_for_too(waited):
    write(waited.folder, 0)
    assert waited(lambda: write(waited.folder, 1)).ok
    assert waited.workers == [("rows 50 - 100", None, 50)]


def test_nothing_at_all_is_waited_for_and_is_no_failure_meanwhile(waited):
    assert waited(lambda: (write(waited.folder, 0), write(waited.folder, 1))).ok
    assert waited.workers == [("no shard yet", None, None)]
    assert not any(isinstance(event, e.ClusterFailed) for event in waited.events)


def test_a_worker_whose_rows_nobody_asks_for_is_waited_for(waited):
    write(waited.folder, 0)
    write(waited.folder, 1, 10, end=100, name="cluster0_gpu1_checkpoint_10.pkl")
    assert waited(lambda: write(waited.folder, 1), articles=1000, others=("elsewhere",)).ok
    assert len(waited.pauses) == 1


def test_what_time_does_not_heal_is_told_at_once(waited):
    write(waited.folder, 0)
    write(waited.folder, 0, name="cluster0_gpu5.pkl")
    write(waited.folder, 1, 10, name="cluster0_gpu1_checkpoint_10.pkl")
    assert "duplicate" in waited().error.message
    assert waited.pauses == []


def test_a_shard_that_nobody_can_read_is_told_at_once(waited):
    write(waited.folder, 0)
    (waited.folder / "cluster0_gpu1.pkl").write_bytes(b"no pickle at all" * 100)
    assert "cluster0_gpu1.pkl" in waited().error.message
    assert waited.pauses == []


def test_a_missing_directory_is_told_at_once(waited):
    waited.folder.rmdir()
    assert "remote directory not found" in waited().error.message
    assert waited.pauses == []
    assert isinstance(waited.events[-1], e.ClusterFailed)


def test_looks_grow_rarer_until_the_time_is_over(waited):
    write(waited.folder, 0)
    assert not waited(minutes=1).ok
    assert waited.pauses == [FIRST_PAUSE, FIRST_PAUSE * GROWTH, FIRST_PAUSE * GROWTH**2, pytest.approx(12.5)]


def test_a_wait_that_was_too_short_says_so(waited):
    write(waited.folder, 0)
    waited(minutes=1)
    assert [event.text for event in waited.events if isinstance(event, e.Warned)] == [
        "after 1 min it is still not complete: this is how it stands"
    ]


def test_a_wait_that_was_long_enough_warns_of_nothing(waited):
    write(waited.folder, 0)
    waited(lambda: write(waited.folder, 1))
    assert not any(isinstance(event, e.Warned) for event in waited.events)


def test_a_stop_ends_the_wait(waited):
    stop = threading.Event()

    def ask_to_stop(event):
        if isinstance(event, e.Waiting):
            stop.set()

    with pytest.raises(Interrupted):
        survey_when_done([waited.cluster], Terms(articles=9), 60, observer=ask_to_stop, stop=stop)


def test_a_line_that_drops_between_two_looks_is_opened_again(waited):
    write(waited.folder, 0)

    def drop():
        waited.cluster.connection.transport.sock.close()
        write(waited.folder, 1)

    assert waited(drop).ok


def test_a_line_that_drops_while_workers_are_looked_for_is_opened_again(waited, monkeypatch):
    write(waited.folder, 0)
    looks = itertools.count(1)
    really = Cluster.listing

    def listing(cluster):
        if next(looks) == 2:  # the first is the survey's
            cluster.connection.transport.close()
        return really(cluster)

    monkeypatch.setattr(Cluster, "listing", listing)
    assert waited(lambda: write(waited.folder, 1)).ok
    assert waited.pauses

"""The manifest: a record that is always whole, and that nothing depends on."""

import json
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from embmerge.remote import manifest
from embmerge.remote.manifest import Entry, Manifest
from embmerge.shard import Origin

ENTRY = Entry("a", "/out/x.pkl", 5, 6, "ab" * 32, (0, 10), "2026-01-01T12:00:00+00:00")


def test_what_was_recorded_is_read_again(tmp_path):
    (tmp_path / "x.pkl").touch()
    manifest.record(tmp_path, shards={"x.pkl": ENTRY}, rates={"a": 5.0})
    assert manifest.read(tmp_path) == Manifest({"x.pkl": ENTRY}, {"a": 5.0})


def test_what_is_recorded_later_is_added(tmp_path):
    for name in ("x.pkl", "y.pkl"):
        (tmp_path / name).touch()
        manifest.record(tmp_path, shards={name: ENTRY})
    assert set(manifest.read(tmp_path).shards) == {"x.pkl", "y.pkl"}


def test_the_rate_of_one_cluster_costs_no_other(tmp_path):
    for number, name in enumerate("ab", 1):
        manifest.record(tmp_path, rates={name: float(number)})
    assert manifest.read(tmp_path).rates == {"a": 1.0, "b": 2.0}


def test_a_shard_that_is_gone_goes_from_the_manifest(tmp_path):
    manifest.record(tmp_path, shards={"x.pkl": ENTRY})
    manifest.record(tmp_path, rates={"a": 1.0})
    assert manifest.read(tmp_path).shards == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shards": 5}', '{"shards": {"x": {"cluster": 1}}}', "null"])
def test_a_manifest_that_cannot_be_understood_is_empty(tmp_path, text):
    (tmp_path / manifest.NAME).write_text(text)
    assert manifest.read(tmp_path).shards == {}


def test_no_manifest_is_an_empty_one(tmp_path):
    assert manifest.read(tmp_path) == Manifest()


@pytest.mark.parametrize("rate", [None, "fast", -1, 10**400, [1]])
def test_a_rate_that_is_none_costs_no_entry(tmp_path, rate):
    (tmp_path / "x.pkl").touch()
    manifest.record(tmp_path, shards={"x.pkl": ENTRY}, rates={"a": 5.0})
    document = json.loads((tmp_path / manifest.NAME).read_text())
    document["rates"]["b"] = rate
    (tmp_path / manifest.NAME).write_text(json.dumps(document))
    assert manifest.read(tmp_path) == Manifest({"x.pkl": ENTRY}, {"a": 5.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"cluster": "\x1b[2Jevil\nline"},
        {"cluster": ["a"]},
        {"size": "5"},
        {"range": [0, 1e999]},
        {"range": [0]},
        {"sha256": "ab"},
        {"path": 5},
    ],
)
def test_an_entry_that_is_none_costs_no_other(tmp_path, wrong):
    for name in ("x.pkl", "y.pkl"):
        (tmp_path / name).touch()
    manifest.record(tmp_path, shards={"x.pkl": ENTRY, "y.pkl": ENTRY})
    document = json.loads((tmp_path / manifest.NAME).read_text())
    document["shards"]["y.pkl"] |= wrong
    (tmp_path / manifest.NAME).write_text(json.dumps(document).replace("Infinity", "1e999"))
    assert manifest.read(tmp_path).shards == {"x.pkl": ENTRY}


@pytest.mark.parametrize("name", ["x" * 300, "x\0"])
def test_a_name_that_no_file_has_goes_from_the_manifest(tmp_path, name):
    manifest.record(tmp_path, shards={name: ENTRY})
    manifest.record(tmp_path, rates={"a": 1.0})
    assert manifest.read(tmp_path).shards == {}


def test_an_entry_that_is_nested_deeply_is_none(tmp_path):
    (tmp_path / manifest.NAME).write_text('{"shards": {"x.pkl": ' + "[" * 5000 + "]" * 5000 + "}}")
    manifest.record(tmp_path, rates={"a": 1.0})
    assert manifest.read(tmp_path) == Manifest({}, {"a": 1.0})


def test_a_pipe_in_the_place_of_the_manifest_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / manifest.NAME)
    assert manifest.read(tmp_path) == Manifest()


def test_a_manifest_of_nonsense_takes_little_memory(tmp_path):
    (tmp_path / manifest.NAME).write_text('{"more": [' + "[]," * (4 << 20) + "[]]}")
    tracemalloc.start()
    manifest.read(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20


def test_several_threads_lose_no_entry(tmp_path):
    names = [f"{number}.pkl" for number in range(20)]
    for name in names:
        (tmp_path / name).touch()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: manifest.record(tmp_path, shards={name: ENTRY}), names))
    assert set(manifest.read(tmp_path).shards) == set(names)


def test_whoever_reads_the_old_manifest_goes_on_reading_it(tmp_path):
    (tmp_path / manifest.NAME).write_bytes(b"{}")
    with (tmp_path / manifest.NAME).open("rb") as held:
        manifest.record(tmp_path, rates={"a": 1.0})
        assert held.read() == b"{}"


def test_a_shard_has_the_sha256_it_came_with_if_it_looks_as_it_did_then(tmp_path):
    for name, nbytes, mtime in (("same", 5, 6), ("longer", 6, 6), ("later", 5, 7)):
        (tmp_path / name).write_bytes(bytes(nbytes))
        os.utime(tmp_path / name, (mtime, mtime))
    manifest.record(tmp_path, shards=dict.fromkeys(("same", "longer", "later", "gone"), ENTRY))
    known, unknown = Origin("a", ENTRY.sha256), Origin("a")
    assert manifest.origins(tmp_path) == {"same": known, "longer": unknown, "later": unknown, "gone": unknown}

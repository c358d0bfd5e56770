"""The merged file under other numpys, and theirs under ours, in small environments that are made once.

They lie in the folder that EMBMERGE_TEST_CACHE names, or in ~/.cache/embmerge-tests. Where they cannot be made the
tests skip and say so; with CI set they fail.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embmerge.merge import merge
from embmerge.shard import read_header
from embmerge.shardrows import addressable, read_rows
from tests.shards import make_dataset

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("EMBMERGE_TEST_CACHE") or Path.home() / ".cache" / "embmerge-tests")
LAST_PYTHON = {"1.24.4": (3, 11), "1.26.4": (3, 12), "2.0.2": (3, 12)}  # that each has wheels for
INSTALLED = "installed"  # the one that these tests run with, which in CI is the newest

LOAD = """
import hashlib, json, pickle, sys, warnings
import numpy
warnings.simplefilter("error")
with open(sys.argv[1], "rb") as file:
    merged = pickle.load(file)
rows = merged["embeddings"]
rows[0, 0] = rows[0, 0]
print(json.dumps({
    "numpy": numpy.__version__, "shape": rows.shape, "dtype": rows.dtype.str, "kind": type(rows).__name__,
    "sum": hashlib.sha256(rows.tobytes()).hexdigest(), "articles": len(merged["articles"]),
    "last": merged["articles"][-1]["title"], "mean_norm": merged["quality_metrics"]["mean_norm"],
}))
"""
WRITE = """
import pickle, sys
from pathlib import Path
import numpy
folder = Path(sys.argv[1])
table = numpy.random.RandomState(0).standard_normal((300, 90))
mapped = numpy.memmap(folder / "map", "<f4", "w+", shape=table.shape)
mapped[:] = table
kinds = {
    "c": table.astype("<f4"), "fortran": numpy.asfortranarray(table.astype("<f4")), "half": table.astype("<f2"),
    "double": table, "big": table.astype(">f4"), "sliced": table[::2, 3:7], "small": table[:3, :2].astype("<f4"),
    "mapped": mapped,
}
for name, rows in kinds.items():
    rows_bytes = numpy.ascontiguousarray(rows).astype(rows.dtype.newbyteorder("<")).tobytes()
    for protocol in (2, 3, 4, 5):
        shard = {
            "embeddings": rows, "start_index": numpy.int64(5), "end_index": numpy.int64(5) + len(rows),
            "cluster_id": 1, "gpu_id": numpy.int32(3), "rate": numpy.float32(1.5), "mean": rows.mean(axis=0),
        }
        (folder / f"{name}-{protocol}.pkl").write_bytes(pickle.dumps(shard, protocol=protocol))
    (folder / f"{name}.raw").write_bytes(rows_bytes)
"""
MERGE = """
import sys
from pathlib import Path
from embmerge.merge import merge
folder = Path(sys.argv[1])
merge(sorted((folder / "embeddings").iterdir()), folder / "a.pkl", Path(sys.argv[2]))
"""


def environment(version):
    """The folder with numpy `version`, made if it is not there yet; skips where that cannot be."""
    if sys.version_info[:2] > LAST_PYTHON[version]:
        pytest.skip(f"numpy {version} has no wheel for this Python")
    place = CACHE / f"numpy-{version}-{sys.implementation.cache_tag}"
    if not place.exists():
        making = place.with_name(f"{place.name}.{os.getpid()}")
        wanted = ["--no-deps", "--only-binary=:all:", "--target", making, f"numpy=={version}"]
        made = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], capture_output=True, check=False)
        if made.returncode:
            shutil.rmtree(making, ignore_errors=True)
            why = f"numpy {version} cannot be installed here: {made.stderr.decode(errors='replace').strip()[-200:]}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
        with contextlib.suppress(OSError):  # another process of the same run was quicker
            making.rename(place)
        shutil.rmtree(making, ignore_errors=True)
    return place


@pytest.fixture(params=[*LAST_PYTHON, INSTALLED])
def under(request):
    """Runs code in a process whose numpy is of that version; returns what it prints."""
    folder = Path(np.__file__).parent.parent if request.param == INSTALLED else environment(request.param)

    def run(code, *arguments):
        done = subprocess.run(
            [sys.executable, "-S", "-W", "error", "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.version = np.__version__ if request.param == INSTALLED else request.param
    return run


@pytest.mark.timeout(400)  # pip may be slow, once
def test_the_merged_file_loads_without_a_warning(tmp_path, under):
    for dtype in ("<f2", "<f4", "<f8"):
        shards, articles, rows = make_dataset(tmp_path / dtype, 200, 24, 4, dtype=dtype)
        output = merge(shards, articles, tmp_path / f"{dtype}.pkl").output
        found = json.loads(under(LOAD, output))
        assert found["numpy"] == under.version
        assert (found["shape"], found["dtype"], found["kind"]) == ([200, 24], dtype, "ndarray")
        assert found["sum"] == hashlib.sha256(rows.tobytes()).hexdigest()
        assert (found["articles"], found["last"]) == (200, "199")


def test_shards_that_it_wrote_are_read_bit_for_bit(tmp_path, under):
    under(WRITE, tmp_path)
    paths = sorted(tmp_path.glob("*.pkl"))
    assert len(paths) == 32
    for path in paths:
        with path.open("rb") as file:
            header = read_header(file, path.stat().st_size, path.name)
            with addressable(file, header) as (plain, placed):
                rows = read_rows(plain, placed, 0, header.rows)
        raw = (tmp_path / f"{path.stem.partition('-')[0]}.raw").read_bytes()
        assert rows.astype(rows.dtype.newbyteorder("<")).tobytes() == raw, path.name
        assert (header.start, header.end, header.gpu_id, header.rate) == (5, 5 + header.rows, 3, 1.5)


def test_a_merge_under_it_makes_the_same_bytes(tmp_path, under, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    shards, articles, _ = make_dataset(tmp_path, 200, 24, 4)
    ours = merge(shards, articles, tmp_path / "ours.pkl").output
    under(MERGE, tmp_path, tmp_path / "theirs.pkl")
    assert (tmp_path / "theirs.pkl").read_bytes() == ours.read_bytes()

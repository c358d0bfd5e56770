"""`python -m bench.merge`: `invoke merge` against the way most people merge, and against the disk.

The peers are `naive` (pickle.load each shard, np.concatenate, pickle.dump) and `copy` (cp of the shards, then fsync).
All run in turns, each in processes of its own, in a new order each round, since whoever comes after whom finds other
memory. What one has written is removed before the next begins, so that nobody is timed while the disk frees an old
file. Medians are printed, and those of each round's ratios, which alone mean something elsewhere.
"""

import argparse
import os
import pickle
import platform
import random
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from bench.programs import ROOT, Run, environment, measured, ratio
from embmerge.atomic import sync
from embmerge.demo.dataset import MODEL, Size

TEXT = 3000  # characters of an article
ROWS_A_SHARD = 15_625


def make(folder: Path, rows: int, dim: int) -> None:
    """Shards of 15,625 rows and an articles file, unless they are there."""
    done = folder / "done"
    if done.exists():
        return
    print(f"making {rows:,} rows of {dim} and as many articles in {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "embeddings").mkdir(parents=True)
    size = Size(rows, dim, clusters=2, gpus=max(1, round(rows / ROWS_A_SHARD / 2)))
    random = np.random.default_rng(0)
    for cluster, gpu, start, end in size.shards():
        shard = {
            "embeddings": random.standard_normal((end - start, dim), dtype=np.float32),
            "start_index": start,
            "end_index": end,
            "cluster_id": cluster,
            "gpu_id": gpu,
            "model": MODEL,
        }
        with (folder / "embeddings" / f"cluster{cluster}_gpu{gpu}.pkl").open("wb") as file:
            pickle.dump(shard, file, protocol=4)
    words = random.bytes(TEXT).hex()
    articles = [
        {
            "id": str(row),
            "title": f"Article number {row}",
            "url": f"https://encyclopedia.example/wiki/Article_number_{row}",
            "text": f"{row} {words[row % TEXT :][: TEXT - 8]}",
        }
        for row in range(rows)
    ]
    with (folder / "wikipedia.pkl").open("wb") as file:
        pickle.dump(articles, file, protocol=4)
    os.sync()
    done.touch()


def naive(folder: Path) -> None:
    """The way it is done today."""
    shards = []
    for path in sorted((folder / "embeddings").glob("cluster*_gpu*.pkl")):
        with path.open("rb") as file:
            shards.append(pickle.load(file))  # noqa: S301  our own file; that is the point
    shards.sort(key=lambda shard: int(shard["start_index"]))
    with (folder / "wikipedia.pkl").open("rb") as file:
        articles = pickle.load(file)  # noqa: S301
    embeddings = np.concatenate([shard["embeddings"] for shard in shards])[: len(articles)]
    norms = np.linalg.norm(embeddings, axis=1)
    merged = {
        "embeddings": embeddings,
        "articles": [{key: article[key] for key in ("title", "id", "url")} for article in articles],
        "quality_metrics": {"mean_norm": float(norms.mean()), "has_nan": bool(np.isnan(embeddings).any())},
    }
    with (folder / "naive.pkl").open("wb") as file:
        pickle.dump(merged, file)


def copy(folder: Path) -> None:
    """What the disk takes for as many bytes."""
    target = folder / "copy"
    target.mkdir(exist_ok=True)
    shards = sorted((folder / "embeddings").glob("cluster*_gpu*.pkl"))
    subprocess.run(["cp", *map(str, shards), str(target)], check=True)
    for path in target.iterdir():
        sync(path)


def main() -> None:
    """Parse, measure in turn, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.merge", description=__doc__)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "embmerge-bench")
    parser.add_argument("--peer", choices=("make", "naive", "copy"), help=argparse.SUPPRESS)
    parser.add_argument("--without-naive", action="store_true", help="where its memory does not fit")
    given = parser.parse_args()
    folder = given.cache / f"{given.rows}x{given.dim}"
    if given.peer:
        peers = {"naive": partial(naive, folder), "copy": partial(copy, folder)}
        peers["make"] = partial(make, folder, given.rows, given.dim)
        peers[given.peer]()
        return
    peer = [sys.executable, "-m", "bench.merge", "--rows", str(given.rows), "--dim", str(given.dim)]
    peer += ["--cache", str(given.cache.resolve()), "--peer"]
    subprocess.run([*peer, "make"], cwd=ROOT, check=True)  # elsewhere: a child's peak begins with its parent's size
    commands = {
        "invoke merge": ([sys.executable, "-m", "invoke", "--search-root", str(ROOT), "merge", "--quiet"], folder),
        "naive": ([*peer, "naive"], ROOT),
        "cp + fsync": ([*peer, "copy"], ROOT),
    }
    if given.without_naive:
        del commands["naive"]
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(given.runs):
        for name in random.sample(list(commands), len(commands)):
            command, where = commands[name]
            clear(folder)
            runs[name].append(measured(command, env=environment(), cwd=where))
            print(f"run {number + 1}: {name} {runs[name][-1].wall:.1f} s", flush=True)
    clear(folder)
    report(runs, folder)


def clear(folder: Path) -> None:
    """Remove what was written."""
    for output in ("naive.pkl", "merged/embeddings.pkl"):
        (folder / output).unlink(missing_ok=True)
    shutil.rmtree(folder / "copy", ignore_errors=True)


def report(runs: dict[str, list[Run]], folder: Path) -> None:
    """Print medians, and what `invoke merge` takes of each peer."""
    python, disk = platform.python_version(), shutil.disk_usage(folder)
    print(f"\nPython {python}, numpy {np.__version__}, {os.cpu_count()} cores, disk of {disk.total >> 30} GB")
    middle = {
        name: Run(*(statistics.median(getattr(run, part) for run in those) for part in ("wall", "cpu", "peak")))
        for name, those in runs.items()
    }
    ours = runs["invoke merge"]
    print(f"{'':<14}{'wall s':>8}{'cpu s':>8}{'peak MB':>9}   invoke merge takes")
    for name, run in middle.items():
        of = f"{ratio(ours, runs[name]):.2f} x wall, {ratio(ours, runs[name], 'peak'):.2f} x memory"
        print(f"{name:<14}{run.wall:>8.2f}{run.cpu:>8.2f}{run.peak:>9.0f}   {of if runs[name] is not ours else ''}")


if __name__ == "__main__":
    main()

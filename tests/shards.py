"""Real shards and articles for tests, as workers leave them: spelled by any protocol and either numpy."""

import io
import pickle
from itertools import pairwise
from typing import ClassVar

import numpy as np


class OldNumpyPickler(pickle._Pickler):
    """Spells numpy's globals as numpy 1 does, whichever numpy is installed."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_global(self, obj, name=None):
        module, name = getattr(obj, "__module__", None) or "", name or obj.__qualname__
        if not module.startswith("numpy._core"):
            return super().save_global(obj, name)
        module = module.replace("numpy._core", "numpy.core")
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        return self.memoize(obj)

    dispatch[type(lambda: None)] = save_global


def rows_of(count=40, dim=6, dtype="<f4", seed=0):
    """Random rows, the same for the same arguments."""
    return np.random.default_rng((seed, count, dim)).standard_normal((count, dim)).astype(dtype)


def shard_of(rows, start=0, cluster=1, gpu=0, **fields):
    """The dict that a worker pickles; `fields` replace its own or are added."""
    return {
        "embeddings": rows,
        "start_index": start,
        "end_index": start + len(rows),
        "cluster_id": cluster,
        "gpu_id": gpu,
        "timestamp": "2026-01-15T01:02:03",
        "processing_time": 12.5,
        "rate": 310.0,
        "model": "all-tests-v1",
        **fields,
    }


def dumped(value, protocol=4, *, old_numpy=False):
    """`value` as a pickle."""
    if not old_numpy:
        return pickle.dumps(value, protocol=protocol)
    buffer = io.BytesIO()
    OldNumpyPickler(buffer, protocol=protocol).dump(value)
    return buffer.getvalue()


def make_shard(folder, rows, start=0, cluster=1, gpu=0, protocol=4, *, old_numpy=False, **fields):
    """One `cluster{c}_gpu{g}.pkl` in `folder`; returns its path."""
    path = folder / f"cluster{cluster}_gpu{gpu}.pkl"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumped(shard_of(rows, start, cluster, gpu, **fields), protocol, old_numpy=old_numpy))
    return path


def make_shards(folder, rows, count=4, protocol=4, **fields):
    """`rows` cut into `count` shards of two clusters; returns their paths in row order."""
    edges = np.linspace(0, len(rows), count + 1).astype(int).tolist()
    half = (count + 1) // 2
    return [
        make_shard(folder, rows[start:end], start, number // half + 1, number % half, protocol, **fields)
        for number, (start, end) in enumerate(pairwise(edges))
    ]


def articles_of(count):
    """Articles with texts, titles in several scripts, and ids of both types."""
    titles = ("Zürich", "東京", 'A "quoted" title', "two\nlines", "")
    return [
        {
            "id": row if row % 3 == 0 else str(row),
            "title": f"{titles[row % len(titles)]}{row}",
            "url": f"https://encyclopedia.example/wiki/{row}",
            "text": f"Text of {row}. " * (row % 40),
        }
        for row in range(count)
    ]


def make_articles(path, count, protocol=4):
    """An articles file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(articles_of(count), protocol=protocol))
    return path


def make_dataset(folder, rows=100, dim=6, count=4, *, extra=0, dtype="<f4", protocol=4):
    """Shards and articles in `folder`; returns (shard paths, articles path, all rows)."""
    table = rows_of(rows + extra, dim, dtype)
    return make_shards(folder / "embeddings", table, count, protocol), make_articles(folder / "a.pkl", rows), table

"""Small datasets for the tests of merged files, and a way to write one."""

from itertools import pairwise

import numpy as np

from embmerge.mergedfile import open_writer


def rows_of(count=500, dim=24, dtype="<f4"):
    """Random rows, the same for the same arguments."""
    return np.random.default_rng(count).standard_normal((count, dim)).astype(dtype)


def articles_of(count=500, site="encyclopedia.example"):
    """Articles with titles in several scripts and ids of both types."""
    titles = ("Zürich", "東京", 'A "quoted" \\ title', "two\nlines", "\u202eright to left", "")
    return [
        {
            "title": f"{titles[row % len(titles)]}{row}",
            "id": row if row % 2 else str(row),
            "url": f"https://{site}/wiki/{row}" if row % 7 else None,
        }
        for row in range(count)
    ]


def damage(path, row, value, *, rows):
    """Write `value` over one value of a `row` in the file `path`, which holds `rows`."""
    whole = bytearray(path.read_bytes())
    at = whole.index(rows.tobytes()) + row * rows.strides[0]
    whole[at : at + rows.itemsize] = rows.dtype.type(value).tobytes()
    path.write_bytes(whole)


def metadata_of(rows, shards=2):
    """What merge says about `rows`."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1) if len(rows) else np.zeros(1)
    figures = {"min_norm": norms.min(), "max_norm": norms.max(), "mean_norm": norms.mean(), "std_norm": norms.std()}
    edges = np.linspace(0, len(rows), shards + 1).astype(int).tolist()
    return {
        "total_articles": len(rows),
        "embedding_dim": rows.shape[1],
        "shape": rows.shape,
        "model": "all-tests-v1",
        "timestamp": "2026-01-15T01:02:03",
        "quality_metrics": {
            "shape": rows.shape,
            "dtype": rows.dtype.name,
            **{name: float(value) for name, value in figures.items()},
            "has_nan": False,
            "has_inf": False,
        },
        "chunk_info": [
            {
                "cluster_id": 1,
                "gpu_id": gpu,
                "start_index": start,
                "end_index": end,
                "filepath": f"embeddings/cluster1_gpu{gpu}.pkl",
                "cluster": "tensor01",
                "sha256": "0" * 64,
            }
            for gpu, (start, end) in enumerate(pairwise(edges))
        ],
    }


def write_set(path, rows, articles=None, metadata=None, block=90):
    """Write everything to `path` as merge does: rows in blocks, then the rest, then the name."""
    articles = articles_of(len(rows)) if articles is None else articles
    with open_writer(path, len(rows) + 10, rows.shape[1], rows.dtype) as out:
        for start in range(0, len(rows), block):
            out.write(rows[start : start + block])
        out.finish(iter(articles), metadata_of(rows) if metadata is None else metadata)
    return path

"""Synthetic shards and articles for the demo, as GPU workers would leave them.

Rows lie around one centre a subject, so that the nearest neighbours of an article in the report make sense.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EXTRA_ROWS = 10  # the quiz questions that workers embed after the last article
MODEL = "demo/all-subjects-v1"
SUBJECTS = (
    "Bridge", "Canyon", "Castle", "Cathedral", "Comet", "Desert", "Engine", "Festival", "Forest", "Galaxy",
    "Glacier", "Harbour", "Island", "Lake", "Library", "Lighthouse", "Museum", "Opera", "Orchid", "Palace",
    "Painter", "Peninsula", "Poet", "Railway", "River", "Sculptor", "Strait", "Theatre", "Tower", "Volcano",
)  # fmt: skip
PLACES = (
    "Alder", "Amber", "Arden", "Birch", "Blackwater", "Calder", "Cedar", "Copper", "Dunmore", "Eastern", "Elm",
    "Falcon", "Granite", "Hollow", "Iron", "Juniper", "Kestrel", "Linden", "Marble", "Northern", "Oak", "Pearl",
    "Quarry", "Raven", "Silver", "Southern", "Thorn", "Upper", "Violet", "Western", "Willow", "Yarrow",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much to make: `rows` articles of `dim` float32 each, over `clusters` × `gpus` shards."""

    rows: int
    dim: int
    clusters: int = 2
    gpus: int = 4

    def shards(self) -> Iterator[tuple[int, int, int, int]]:
        """(cluster from 1, gpu from 0, start, end) of every shard; the last one also holds the extra rows."""
        count = self.clusters * self.gpus
        edges = np.linspace(0, self.rows + EXTRA_ROWS, count + 1).astype(int).tolist()
        for number in range(count):
            yield number // self.gpus + 1, number % self.gpus, edges[number], edges[number + 1]


def write_articles(path: Path, rows: int) -> None:
    """A pickled list of `rows` dicts with id, title, url and text."""
    articles = []
    for row in range(rows):
        place, subject = PLACES[row // len(SUBJECTS) % len(PLACES)], SUBJECTS[row % len(SUBJECTS)]
        title = f"{place} {subject}" if row < len(SUBJECTS) * len(PLACES) else f"{place} {subject} ({row})"
        url = f"https://encyclopedia.example/wiki/{title.replace(' ', '_')}"
        text = f"{title} is a {subject.lower()} known for its {place.lower()} past. " * 8
        articles.append({"id": str(1000 + row), "title": title, "url": url, "text": text})
    with path.open("wb") as file:
        pickle.dump(articles, file, protocol=4)


def write_shard(folder: Path, size: Size, cluster: int, gpu: int, start: int, end: int) -> Path:
    """One worker's `cluster{c}_gpu{g}.pkl` of rows `[start, end)`; the same arguments give the same rows."""
    centres = np.random.default_rng(0).standard_normal((len(SUBJECTS), size.dim), dtype=np.float32)
    noise = np.random.default_rng((cluster, gpu)).standard_normal((end - start, size.dim), dtype=np.float32)
    rows = centres[np.arange(start, end) % len(SUBJECTS)] + 0.7 * noise
    path = folder / f"cluster{cluster}_gpu{gpu}.pkl"
    shard = {
        "embeddings": rows,
        "start_index": start,
        "end_index": end,
        "cluster_id": cluster,
        "gpu_id": gpu,
        "timestamp": f"2026-01-15T0{cluster}:{gpu:02d}:00",
        "processing_time": (end - start) / 310.0,
        "rate": 310.0,
        "model": MODEL,
    }
    with path.open("wb") as file:
        pickle.dump(shard, file, protocol=4)
    return path

"""Give any bytes to every reader: each may only read them or refuse them by name."""

import contextlib
import io
import pickle
import tempfile
from pathlib import Path

from embmerge.articles import read_articles
from embmerge.errors import LocalDataError
from embmerge.merge import merge
from embmerge.mergedfile import open_merged
from embmerge.shard import read_header
from embmerge.shardrows import addressable, read_rows
from tests.shards import articles_of, dumped, make_dataset, rows_of, shard_of

SHARD, ARTICLES, MERGED = "cluster1_gpu0.pkl", "wikipedia.pkl", "merged.pkl"


def seeds():
    """Honest files of every kind, small enough to be mutated well."""
    shard = shard_of(rows_of(3, 2), note="x" * 9, extra=[1, 2.5, None, {"a": (1, 2)}])
    found = [dumped(shard, protocol, old_numpy=old) for protocol in (2, 3, 4, 5) for old in (False, True)]
    found += [pickle.dumps(articles_of(4), protocol) for protocol in (2, 4)]
    with tempfile.TemporaryDirectory() as folder:
        shards, articles, _ = make_dataset(Path(folder), 4, 2, 2)
        found.append(merge(shards, articles, Path(folder) / MERGED).output.read_bytes())
    return found


def feed(content, folder):
    """Have every reader read `content`, from files in `folder`; returns the refusals."""
    refusals = [_refusal(read, content, folder) for read in (_shard, _articles, _merged)]
    return [message for message in refusals if message]


def _refusal(read, content, folder):
    try:
        read(content, folder)
    except LocalDataError as error:
        message = error.message
    else:
        return ""
    assert message.isprintable()
    assert any(name in message for name in (SHARD, ARTICLES, MERGED))
    return message


def _shard(content, folder):
    file = io.BytesIO(content)
    header = read_header(file, len(content), SHARD)
    assert header.rows == header.end - header.start
    with addressable(file, header) as (plain, placed):
        rows = read_rows(plain, placed, 0, header.rows)
    assert rows.shape == (header.rows, header.dim)
    assert rows.nbytes <= 2 * len(content)


def _articles(content, folder):
    path = folder / ARTICLES
    path.write_bytes(content)
    for article in read_articles(path):
        assert type(article["title"]) is str


def _merged(content, folder):
    path = folder / MERGED
    path.write_bytes(content)
    with contextlib.closing(open_merged(path)) as merged:
        merged.rows(0, merged.shape[0])
        assert sum(1 for _ in merged.articles()) == merged.shape[0]

import pickle

import numpy as np

from embmerge.demo.dataset import EXTRA_ROWS, Size, write_articles, write_shard


def test_the_shards_cover_all_articles_and_the_extra_rows_once():
    spans = [(start, end) for *_, start, end in Size(rows=1000, dim=4).shards()]
    assert [row for start, end in spans for row in range(start, end)] == list(range(1000 + EXTRA_ROWS))


def test_a_shard_is_made_alike_every_time(tmp_path):
    size = Size(rows=100, dim=4)
    (tmp_path / "again").mkdir()
    first = pickle.loads(write_shard(tmp_path, size, 1, 2, 10, 30).read_bytes())
    second = pickle.loads(write_shard(tmp_path / "again", size, 1, 2, 10, 30).read_bytes())
    assert np.array_equal(first["embeddings"], second["embeddings"])


def test_every_article_has_a_title_of_its_own(tmp_path):
    write_articles(tmp_path / "articles.pkl", 3000)
    articles = pickle.loads((tmp_path / "articles.pkl").read_bytes())
    assert len({article["title"] for article in articles}) == 3000

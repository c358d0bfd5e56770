"""What a merge would ask of the shards on the clusters."""

import pytest

from embmerge.errors import LocalDataError
from embmerge.remote import manifest
from embmerge.remote.terms import counting, terms
from tests.shards import make_dataset


@pytest.fixture
def wanted(desk, tmp_path):
    """The terms of a job in a folder with 60 articles and the shards of 100 rows."""
    _, articles, _ = make_dataset(tmp_path / "job", rows=60, extra=40)

    def wanted(*, others=(), merging=False, **settings):
        here = {"articles": articles, "embeddings": tmp_path / "job" / "embeddings"}
        return terms(desk.settings(**here | settings), others, merging=merging)

    return wanted


def test_articles_that_are_here_are_counted(wanted):
    assert wanted().articles == 60


def test_to_look_takes_no_articles(wanted, tmp_path):
    assert wanted(articles=tmp_path / "none.pkl").articles is None


def test_to_look_without_articles_goes_by_the_number_that_is_expected(wanted, tmp_path):
    assert wanted(articles=tmp_path / "none.pkl", expected_articles=70).articles == 70


@pytest.mark.parametrize("look", [terms, counting])
def test_articles_that_were_named_must_be_here_even_to_look(desk, tmp_path, look):
    with pytest.raises(LocalDataError, match=r"none\.pkl"):
        look(desk.settings(articles=tmp_path / "none.pkl"), (), merging=False, named=True)


def test_to_merge_takes_articles(wanted, tmp_path):
    with pytest.raises(LocalDataError, match=r"none\.pkl"):
        wanted(articles=tmp_path / "none.pkl", merging=True)


@pytest.mark.parametrize("articles", ["none.pkl", "job/embeddings/cluster0_gpu0.pkl"])
def test_a_file_that_holds_no_articles_is_known_before_they_are_counted(desk, wanted, tmp_path, articles):
    with pytest.raises(LocalDataError, match="articles file"):
        counting(desk.settings(articles=tmp_path / articles), (), merging=True)


def test_articles_are_counted_once_however_often_they_are_asked_for(desk, wanted, tmp_path):
    find = counting(desk.settings(articles=next((tmp_path / "job").glob("*.pkl"))), (), merging=True)
    assert find() is find()


@pytest.mark.parametrize("merging", [True, False])
def test_another_number_of_articles_than_expected_is_an_error_before_the_download(wanted, merging):
    with pytest.raises(LocalDataError, match="holds 60 articles, but 61 are expected") as caught:
        wanted(expected_articles=61, merging=merging)
    assert "expected_articles" in caught.value.hint


def test_a_merge_of_some_clusters_counts_what_is_here_of_the_others(wanted):
    assert sum(header.rows for header in wanted(others=("b",), merging=True).local) == 100


def test_a_merge_of_all_clusters_goes_by_what_lies_there(wanted):
    assert wanted(merging=True).local == ()


def test_a_shard_that_is_damaged_here_hides_no_other(wanted, tmp_path):
    shards = sorted((tmp_path / "job" / "embeddings").glob("*.pkl"))
    shards[0].write_bytes(b"no shard")
    assert len(wanted(others=("b",), merging=True).local) == len(shards) - 1


def test_a_shard_that_came_from_a_cluster_that_is_asked_fills_no_gap(wanted, tmp_path):
    folder = tmp_path / "job" / "embeddings"
    one, other = sorted(folder.glob("*.pkl"))[:2]
    entries = {
        path.name: manifest.Entry(cluster, f"/out/{path.name}", 1, 1, "0" * 64, (0, 1), "")
        for path, cluster in ((one, "a"), (other, "b"))
    }
    manifest.record(folder, shards=entries)
    local = wanted(others=("b",), merging=True).local
    assert one.name not in {header.name for header in local}
    assert next(header.cluster for header in local if header.name == other.name) == "b"


def test_a_look_at_some_clusters_leaves_rows_for_the_others(wanted):
    assert (wanted(others=("b",)).others, wanted(others=("b",)).local) == (("b",), ())


def test_a_first_merge_of_some_clusters_finds_nothing_here(wanted, tmp_path):
    assert wanted(others=("b",), merging=True, embeddings=tmp_path / "none").local == ()


def test_a_merge_that_converts_takes_any_dtype(wanted):
    assert wanted(dtype="float16").any_dtype
    assert not wanted().any_dtype


def test_what_is_here_of_clusters_that_are_asked_is_looked_at_before_a_merge(wanted):
    assert sum(header.rows for header in wanted(merging=True).ours) == 100
    assert wanted(merging=False).ours == ()

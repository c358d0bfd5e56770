"""The plan of a sync, made from facts by hand."""

from pathlib import Path

import pytest

from embmerge.errors import RemoteDataError
from embmerge.remote.files import RemoteFile
from embmerge.remote.kept import Kept
from embmerge.remote.plan import left_over, plan, refuse_clashes, stale


def remote(name="x.pkl", nbytes=100, mtime=5, cluster="a"):
    return RemoteFile(cluster, name, f"/out/{name}", nbytes, mtime)


def kept(file, end=40, folder="k"):
    return Kept(Path(folder), file, ((0, end),), gone=True, silent=0.0)


def actions(*steps):
    return [(step.action, step.missing) for step in steps]


def test_what_is_not_here_is_fetched():
    assert actions(*plan([remote()], {}, [])) == [("fetch", 100)]


def test_what_is_here_unchanged_is_skipped():
    assert actions(*plan([remote()], {"x.pkl": (100, 5)}, [])) == [("skip", 0)]


@pytest.mark.parametrize("facts", [(99, 5), (100, 6)])
def test_another_size_or_mtime_is_fetched_again(facts):
    assert actions(*plan([remote()], {"x.pkl": facts}, [])) == [("refetch", 100)]


def test_what_was_begun_is_resumed():
    assert actions(*plan([remote()], {}, [kept(remote())])) == [("resume", 60)]


def test_what_was_begun_without_a_byte_is_fetched_and_nothing_is_kept_of_it():
    nothing = Kept(Path("k"), remote(), (), gone=True, silent=0.0)
    assert actions(*plan([remote()], {}, [nothing])) == [("fetch", 100)]
    assert stale([nothing], [remote()], ["a"]) == [nothing]


@pytest.mark.parametrize("other", [remote(nbytes=101), remote(mtime=6), remote(cluster="b")])
def test_what_was_begun_of_another_version_is_not(other):
    assert actions(*plan([remote()], {}, [kept(other)])) == [("fetch", 100)]


def test_by_checksum_neither_size_nor_mtime_count():
    assert actions(*plan([remote()], {"x.pkl": (100, 5)}, [], same=frozenset())) == [("refetch", 100)]
    assert actions(*plan([remote()], {"x.pkl": (100, 9)}, [], same=frozenset(["x.pkl"]))) == [("skip", 0)]


def test_of_two_that_were_begun_the_best_is_resumed_and_the_other_is_stale():
    best, other = kept(remote(), 60, "best"), kept(remote(), 20, "other")
    assert actions(*plan([remote()], {}, [best, other])) == [("resume", 40)]
    assert stale([best, other], [remote()], ["a"]) == [other]


def test_a_shard_that_its_cluster_lists_no_more_is_left_over():
    assert left_over({"x.pkl": "a", "y.pkl": "a"}, {"a": ["x.pkl"]}) == [("y.pkl", "a")]


def test_a_shard_that_has_moved_to_another_cluster_is_not_left_over():
    assert left_over({"x.pkl": "a"}, {"a": [], "b": ["x.pkl"]}) == []


def test_a_shard_of_a_cluster_that_was_not_asked_is_not_left_over():
    assert left_over({"x.pkl": "b"}, {"a": []}) == []


def test_what_was_begun_of_another_cluster_is_not_stale():
    assert stale([kept(remote(cluster="b"))], [remote()], ["a"]) == []


def test_what_was_begun_of_a_file_that_is_gone_is_stale():
    one = kept(remote("gone.pkl"))
    assert stale([one], [remote()], ["a"]) == [one]


def test_the_same_name_on_two_clusters_names_both():
    with pytest.raises(RemoteDataError, match="both a and b"):
        refuse_clashes([remote(), remote("y.pkl", cluster="b"), remote(cluster="b")])

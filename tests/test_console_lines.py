"""The plain lines: what issue and README promise, word for word."""

import io
from pathlib import Path

import pytest

from embmerge import events as e
from embmerge.console.console import Console
from embmerge.console.screen import PlainScreen, shown, speaks_utf8

MB = 1024**2
SHARD = ("tensor01", "cluster1_gpu0.pkl", 1, 8, 48 * MB)


def printed(*events, clusters=("tensor01",), **how):
    out = io.StringIO()
    console = Console(PlainScreen(out, out), **how)
    console.expect(clusters)
    for event in events:
        console(event)
    return out.getvalue().splitlines()


def test_a_sync_reads_as_promised():
    assert printed(
        e.SyncStarted("tensor01", Path("embeddings")),
        e.Connecting("tensor01", "tensor01.example.com", "/home/user/mapper_embeddings/embeddings"),
        e.Connected("tensor01", "/home/user/mapper_embeddings/embeddings"),
        e.ShardsFound("tensor01", 8, 8 * 48 * MB),
        e.ShardStarted(*SHARD, resumed=0),
        e.ShardFetched(*SHARD, seconds=48 / 112.3),
    ) == [
        "SYNCING FROM TENSOR01",
        "Output directory: embeddings",
        "Remote directory: /home/user/mapper_embeddings/embeddings",
        "Connecting to tensor01.example.com...",
        "✓ Connected",
        "Found 8 embedding files",
        "  [1/8] cluster1_gpu0.pkl... ✓ (48.00 MB, 112.3 MB/s)",
    ]


def test_a_merge_reads_as_promised():
    assert printed(
        e.MergeStarted(16),
        e.ShardLoaded("cluster1_gpu0.pkl", 1, 16, 15625, 768),
        e.RangesVerified(((1, 0, 0, 15625),), 250_010),
        e.ArticlesRead(250_000, 10, (250_000, 768)),
        e.RowsWritten(100, 250_000),
        e.QualityMeasured(1.23451, 0.34209),
        e.Saving(Path("merged/embeddings.pkl")),
        e.Saved(Path("merged/embeddings.pkl"), 250_000, int(788.42 * MB)),
    ) == [
        "MERGING EMBEDDINGS",
        "Loading 16 checkpoint files...",
        "  [1/16] cluster1_gpu0.pkl... ✓ (15625 items, dim=768)",
        "VERIFYING INDEX RANGES",
        "  ✓ Cluster 1, GPU 0: 0 - 15625 (15625 items)",
        "  ✓ All chunks are continuous",
        "  ✓ Total items: 250,010",
        "CONCATENATING EMBEDDINGS",
        "  ✓ Extracted first 250,000 embeddings (excluded 10 questions)",
        "  Shape: (250000, 768)",
        "QUALITY CHECKS",
        "  Mean norm: 1.2345",
        "  Std norm: 0.3421",
        "  ✓ No NaN or Inf values",
        "SAVING MERGED EMBEDDINGS",
        "✓ Saved 250,000 article embeddings",
        "File size: 788.42 MB",
    ]


def test_lines_of_several_clusters_say_whose_they_are():
    both = ("tensor1", "tensor02")
    assert printed(e.ShardsFound("tensor1", 1, 5), e.ShardsFound("tensor02", 8, 5), clusters=both) == [
        "tensor1  | Found 1 embedding file",
        "tensor02 | Found 8 embedding files",
    ]


def test_a_directory_below_the_home_is_told_when_its_absolute_path_is_known():
    story = e.Connecting("tensor01", "host:2222", "data/emb"), e.Connected("tensor01", "data/emb")
    seen = printed(e.SyncStarted("tensor01", Path("x")), *story, e.ShardsFound("tensor01", 8, 5, "/home/u/data/emb"))
    assert seen[2:] == [
        "Connecting to host:2222...",
        "✓ Connected",
        "Remote directory: /home/u/data/emb",
        "Found 8 embedding files",
    ]


def test_a_sync_that_follows_a_look_begins_with_the_absolute_path():
    look = e.Connecting("tensor01", "host:2222", "data/emb"), e.ShardsFound("tensor01", 8, 5, "/home/u/data/emb")
    seen = printed(*look, e.SyncStarted("tensor01", Path("x")), e.ShardsFound("tensor01", 8, 5, "/home/u/data/emb"))
    assert seen[-2:] == ["Remote directory: /home/u/data/emb", "Found 8 embedding files"]


def test_a_directory_that_was_not_told_before_is_told_when_connected():
    seen = printed(e.SyncStarted("tensor01", Path("x")), e.Connecting("tensor01", "h"), e.Connected("tensor01", "/d"))
    assert seen[-2:] == ["✓ Connected", "Remote directory: /d"]


def test_resumes_and_retries_are_told():
    seen = printed(
        e.ShardStarted(*SHARD, resumed=12 * MB),
        e.Retrying("tensor01", 2, 8, 1.5, "no byte for 30 s"),
        e.ShardFetched(*SHARD, seconds=36.0),
    )
    assert seen == [
        "  [1/8] cluster1_gpu0.pkl... resuming at 12.00 MB of 48.00 MB",
        "! no byte for 30 s; try 2 of 8 in 1.5 s",
        "  [1/8] cluster1_gpu0.pkl... ✓ (48.00 MB, 1.0 MB/s)",  # the 36 MB that came, not the 48
    ]


def test_what_waits_for_workers_says_how_far_they_are():
    seen = printed(e.Waiting("tensor01", "cluster0_gpu3", 5000, 15625, 60.0), e.Waiting("tensor01", "w", 5000, None, 5))
    assert seen == [
        "  cluster0_gpu3: 5,000 of 15,625 rows (32%); next look in 1 min 00 s",
        "  w: 5,000 rows so far; next look in 5.0 s",
    ]


def test_escapes_in_a_name_reach_no_terminal():
    seen = printed(e.ShardLoaded("\x1b[2Jcluster1_gpu0.pkl\n", 1, 1, 5, 2))
    assert seen == ["  [1/1] \\x1b[2Jcluster1_gpu0.pkl\\n... ✓ (5 items, dim=2)"]


EVIL = "/\x1b[2J\x9b1m\u202e\n"


@pytest.mark.parametrize(
    "event",
    [
        e.Connecting("tensor01", EVIL, EVIL),
        e.Connected("tensor01", EVIL),
        e.ShardsFound("tensor01", 8, 5, EVIL),
        e.Waiting("tensor01", EVIL, 5, 9, 60.0),
        e.ShardSkipped("tensor01", EVIL, 1, 8, 5),
        e.ShardStarted("tensor01", EVIL, 1, 8, 5, resumed=3),
        e.ShardFetched("tensor01", EVIL, 1, 8, 5, seconds=1.0),
        e.ShardFailed("tensor01", EVIL, 1, 8, 5, message="gone"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_escapes_from_a_server_reach_no_terminal(event):
    seen = printed(e.SyncStarted("tensor01", Path("x")), event, e.SyncStarted("tensor01", Path("x")))
    assert len(seen) > 4
    assert all(line.isprintable() for line in seen)


def test_details_are_for_the_verbose_only():
    detail = e.Detail("cipher aes128-gcm", "tensor01")
    assert printed(detail) == []
    assert printed(detail, verbose=True) == ["  - cipher aes128-gcm"]


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def test_without_utf8_a_tick_is_ok():
    assert shown("✓ Connected", stream("latin-1"), {}) == "ok Connected"


def test_what_a_stream_cannot_show_is_shown_as_its_escape():
    assert shown("naïve 漢", stream("latin-1"), {}) == "naïve \\u6f22"


def test_a_person_who_sets_lang_c_gets_no_utf8():
    assert not speaks_utf8(stream("utf-8"), {"LANG": "C", "LC_CTYPE": "C.UTF-8"})


def test_an_encoding_asked_for_by_name_is_believed():
    assert speaks_utf8(stream("utf-8"), {"LANG": "C", "PYTHONIOENCODING": "utf-8"})

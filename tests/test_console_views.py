"""What results look like: a survey's tables and verdict, an inspection's fields, doctor's last word."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from embmerge.console.results import render
from embmerge.errors import ConnectError, RemoteDataError
from embmerge.inspection import ArticlesInspection, FolderInspection, MergedInspection, ShardInspection
from embmerge.merge import MergeResult
from embmerge.picklevalues import Array, Dtype
from embmerge.quality import NormFigures
from embmerge.remote.files import RemoteFile
from embmerge.remote.ladder import DoctorResult, Rung
from embmerge.remote.survey import ClusterSurvey, Finding, judge
from embmerge.remote.syncresult import ClusterResult, SyncResult
from embmerge.remote.terms import Terms
from embmerge.shard import ShardHeader

MB = 1 << 20
ROWS = 15_625


def file(name):
    return RemoteFile("tensor01", name, f"/data/emb/{name}", 48 * MB, 1_780_000_000)


def finding(gpu, *, rows=ROWS, **changes):
    name = f"cluster1_gpu{gpu}.pkl"
    header = ShardHeader(
        name=name,
        nbytes=48 * MB,
        start=gpu * ROWS,
        end=gpu * ROWS + rows,
        rows=rows,
        dim=768,
        dtype=Dtype("f", 4, "<"),
        array=Array(),
        cluster_id=1,
        gpu_id=gpu,
        model="mpnet-base-v2",
        timestamp="2026-01-15T01:02:03.5",
        cluster="tensor01",
    )
    return Finding(file(name), replace(header, **changes))


def shown(*findings, width=None, articles=2 * ROWS - 10, others=(), **facts):
    each = ClusterSurvey("tensor01", "/data/emb", findings, **facts)
    return render(judge([each], Terms(articles=articles, others=others)), width)


def test_a_survey_is_a_table_the_coverage_and_a_verdict():
    assert shown(finding(0), finding(1)) == [
        "",
        "TENSOR01  /data/emb",
        "  file                   size    rows  range            dim  dtype    model          written at        ok?",
        "  cluster1_gpu0.pkl  48.00 MB  15,625  0 - 15,625       768  float32  mpnet-base-v2  2026-01-15 01:02  ✓",
        "  cluster1_gpu1.pkl  48.00 MB  15,625  15,625 - 31,250  768  float32  mpnet-base-v2  2026-01-15 01:02  ✓",
        "",
        "COVERAGE",
        "  ✓ rows 0 - 31,250: each held once, by 2 shards",
        "  · 31,240 articles; the last 10 rows are left out",
        "✓ A merge would succeed: 31,250 rows in 2 shards",
    ]


def test_rows_that_are_too_many_are_not_said_to_be_left_out():
    assert "  · 31,200 articles; the last 50 rows come after them" in shown(finding(0), finding(1), articles=31_200)


@pytest.mark.parametrize("width", [60, 80])
def test_a_healthy_survey_fits_into_the_window(width):
    assert max(map(len, shown(finding(0), finding(1), width=width))) <= width


def test_at_eighty_columns_nothing_is_lost():
    lines = shown(finding(0), finding(1), width=80)
    assert lines[2] == "  all: dim 768, dtype float32, model mpnet-base-v2"
    assert lines[3].split() == ["file", "size", "rows", "range", "written", "at", "ok?"]


def test_a_gap_names_its_neighbours_and_the_merge_would_fail():
    lines = shown(finding(0), finding(2), articles=3 * ROWS)
    assert "  · rows 0 - 46,875: 31,250 of them are held, by 2 shards" in lines
    assert any(
        line.startswith("  ✗ gap: rows 15,625 - 31,250 are missing (between cluster1_gpu0.pkl") for line in lines
    )
    assert lines[-1] == "✗ A merge would fail"


def test_each_kind_of_trouble_has_its_verdict():
    cut = Finding(file("cluster1_gpu1.pkl"), None, "truncated", "cluster1_gpu1.pkl is cut short")
    lines = shown(finding(0), cut, finding(2), finding(3, dim=512))
    assert lines[4].endswith("  ✗ truncated")
    assert lines[6].endswith("  ✗ odd: dim is 512")
    assert "  ✗ cluster1_gpu1.pkl is cut short" in lines


def test_a_shard_without_a_time_stamp_shows_the_files():
    assert "2026-05-28 20:26" in shown(finding(0, timestamp=None))[3]
    assert "2026-05-28 20:26" in shown(finding(0, timestamp="yesterday"))[3]


def test_a_servers_impossible_time_is_no_traceback():
    odd = replace(finding(0, timestamp=None), file=replace(file("cluster1_gpu0.pkl"), mtime=1 << 62))
    assert shown(odd)[3].split()[-2:] == ["?", "✓"]


def test_rows_of_clusters_that_were_not_asked_are_told():
    lines = shown(finding(1), articles=3 * ROWS, others=("tensor02",))
    assert "  · rows 0 - 15,625 are left for other clusters" in lines
    assert "  · rows 31,250 - 46,875 are left for other clusters" in lines
    assert lines[-1] == "✓ All is well with 15,625 rows in 1 shard; the rest is for the clusters that were not asked"


def test_rows_that_a_cluster_may_have_that_was_not_looked_into_are_not_said_to_be_elsewhere():
    seen = ClusterSurvey("tensor01", "/data/emb", (finding(1),))
    lost = ClusterSurvey("tensor02", error=ConnectError("tensor02: connection refused"))
    lines = render(judge([seen, lost], Terms(articles=2 * ROWS)), None)
    assert "  · rows 0 - 15,625 are left; tensor02 could not be looked into" in lines


def test_leftovers_are_told_from_work_in_progress():
    left = (file("cluster1_gpu0_checkpoint_5000.pkl"), file("cluster1_gpu7_checkpoint_9000.pkl"))
    lines = shown(finding(0), checkpoints=left, others=("x",))
    assert "  being written, it seems: cluster1_gpu7_checkpoint_9000.pkl (wait for it: --wait 30)" in lines
    assert "  also there: cluster1_gpu0_checkpoint_5000.pkl (checkpoints, no shards)" in lines


def test_what_could_not_be_looked_into_decides_nothing():
    lost = ClusterSurvey("tensor01", error=ConnectError("tensor01: connection refused"))
    lines = render(judge([lost], Terms(articles=ROWS)), None)
    assert "TENSOR01  not looked into" in lines  # why was said when it happened
    assert lines[-1] == "✗ Nobody can tell whether a merge would succeed: tensor01 could not be looked into"


def test_a_folder_without_shards_was_looked_into():
    empty = ClusterSurvey("tensor02", "/data/emb", others=("notes.txt",), error=RemoteDataError("tensor02: none"))
    lines = render(judge([ClusterSurvey("tensor01", "/data/emb", (finding(0),)), empty], Terms(articles=ROWS)), None)
    at = lines.index("TENSOR02  /data/emb")
    assert lines[at + 1 : at + 3] == ["  no shard is there", "  also there: notes.txt"]
    assert "  ✗ tensor02 holds no shard" in lines
    assert lines[-1] == "✗ A merge would fail"


def test_names_from_a_server_carry_no_escapes():
    evil = replace(finding(0), file=replace(file("cluster1_gpu0.pkl"), name="\x1b]0;x\x07.pkl"))
    lines = render(judge([ClusterSurvey("tensor01", "/\x1b[2J", (evil,), others=("\x9b1m",))], Terms()), 80)
    assert all(line.isprintable() for line in lines)


def test_names_of_files_that_are_no_shards_carry_no_escapes_either():
    evil = Finding(file("\x1b]0;x\x07\n.pkl"), None, "odd", "it is a list")
    assert all(line.isprintable() for line in shown(evil, checkpoints=(file("\x9b_checkpoint_5.pkl"),)))


SHARD = ShardInspection(
    path=Path("embeddings/cluster1_gpu0.pkl"),
    kind="shard",
    nbytes=48 * MB,
    shape=(ROWS, 768),
    dtype="float32",
    start=0,
    end=ROWS,
    cluster_id=1,
    gpu_id=0,
    model=None,
    timestamp="2026-01-15T01:02:03",
    processing_time=50.4,
    rate=310.0,
)


def test_a_shards_fields_stand_a_line_each():
    assert render(SHARD, 80) == [
        "SHARD embeddings/cluster1_gpu0.pkl",
        "  Size: 48.00 MB",
        "  Shape: (15625, 768)",
        "  Dtype: float32",
        "  Rows: 0 - 15,625",
        "  Worker: cluster 1, GPU 0",
        "  Timestamp: 2026-01-15T01:02:03",
        "  Took: 50.4 s, 310.0 rows/s",
    ]


def test_a_folder_says_whether_it_is_one_dataset():
    folder = FolderInspection(Path("embeddings"), "folder", 48 * MB, (SHARD,), ("gap: rows 1 - 2 are missing",))
    assert render(folder, 80)[-2:] == ["  ✗ gap: rows 1 - 2 are missing", "✗ They are not one dataset yet"]
    assert render(replace(folder, problems=()), 80)[-1] == "✓ Together they are one dataset"


def test_a_large_articles_file_is_not_counted_and_that_is_said():
    found = ArticlesInspection(Path("w.pkl"), "articles", 748 * MB, None, {"title": "Alder", "id": "1", "url": None})
    assert render(found, 80)[2:] == [
        "  Articles: not counted (a large file; merge counts them)",
        "  First article: Alder",
    ]


def merged_with(**facts):
    """A merged file of 2 × 2, with what its maker wrote."""
    return MergedInspection(path=Path("m.pkl"), kind="merged", nbytes=9, shape=(2, 2), dtype="float32", **facts)


def test_a_merged_file_of_foreign_making_is_shown_as_far_as_it_goes():
    found = merged_with(
        model="\x1b[31mred",
        timestamp=None,
        first_article=None,
        quality={"mean_norm": 1.0, "has_nan": False},
        sources=({"filepath": "/a/b/cluster0_gpu0.pkl", "start_index": 0}, {}),
    )
    lines = render(found, 80)
    assert "  Model: \\x1b[31mred" in lines
    assert "  has nan: no" in lines
    assert lines[-2].split()[:4] == ["cluster0_gpu0.pkl", "0", "-", "?"]


EVIL = "a/\x1b[2J\x9b1m\u202e\n"


@pytest.mark.parametrize("width", [None, 80, 200])
def test_nothing_of_a_merged_file_acts_on_the_terminal(width):
    found = merged_with(
        model=EVIL,
        timestamp=EVIL,
        first_article={"title": EVIL, "id": EVIL, "url": EVIL},
        quality={EVIL: EVIL, "mean_norm": EVIL},
        sources=({"filepath": EVIL, "cluster": EVIL, "timestamp": EVIL, "sha256": EVIL, "mean_norm": EVIL},) * 2,
    )
    assert all(line.isprintable() for line in render(found, width))


def test_nothing_of_an_articles_file_acts_on_the_terminal():
    found = ArticlesInspection(Path("w.pkl"), "articles", 9, 1, {"title": EVIL, "id": EVIL, "url": EVIL})
    assert all(line.isprintable() for line in render(found, 80))


@pytest.mark.parametrize(("ok", "mark"), [(True, "✓"), (False, "✗")])
def test_a_reports_last_line_is_its_verdict(ok, mark):
    @dataclass(frozen=True)
    class Report:
        path: Path = Path("m.pkl")
        output: Path = Path("m.report.html")
        findings: tuple[str, ...] = ()
        verdict: str = "Usable"
        ok: bool = True

    assert render(Report(ok=ok), 80) == ["REPORT ON m.pkl", "Page: m.report.html", f"{mark} Usable"]


def test_a_merges_verdict_says_where_and_what():
    norms = NormFigures(2, 1.0, 1.0, 1.0, 0.0, 0)
    done = MergeResult(Path("m/x.pkl"), 250_000, 768, "float32", 733 * MB, 10, 16, norms, 1.5)
    assert render(done, 80) == ["Merged 16 shards into m/x.pkl: 250,000 × 768 float32, 733.00 MB, 1.5 s"]


def test_doctors_last_word_names_where_it_breaks():
    rungs = (Rung("t", "TCP", ok=False, text="refused"), Rung("", "local disk", ok=True, text="9 GB free"))
    assert render(DoctorResult(rungs, ConnectError("refused")), 80) == ["✗ Here it breaks: t at TCP"]
    assert render(DoctorResult(rungs[1:]), 80) == ["✓ All 1 rungs hold"]


def test_a_sync_that_could_not_begin_does_not_say_that_no_shards_are_here():
    failed = ClusterResult("tensor01", error=ConnectError("tensor01: no way in"))
    assert render(SyncResult(Path("embeddings"), (failed,)), 80) == [
        "Shards in embeddings: nothing fetched",
        "✗ Not complete: tensor01 failed",
    ]

"""The tasks as a person types them: `invoke …` in a folder of its own, against two real SSH servers."""

import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from embmerge.demo import clusters
from embmerge.demo.dataset import Size
from embmerge.demo.server import Home
from embmerge.mergedfile import open_writer
from tasks import Session
from tests.mergedsets import articles_of, metadata_of
from tests.servers import free_port
from tests.shards import make_dataset
from tests.syncing import Lab, write_shard

ROOT = Path(__file__).resolve().parent.parent
SECRETS = ("password", "passphrase")


def invoke(folder, *words, root=ROOT, stdout=subprocess.PIPE, **environment):
    """Run it off a terminal; returns the finished process."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("INVOKE_")}
    own |= {"HOME": str(folder / "home"), "LANG": "C.UTF-8", **environment}
    command = [sys.executable, "-m", "invoke", "--search-root", str(root), *words]
    return subprocess.run(
        command, cwd=folder, env=own, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "place"
    with clusters(folder, Size(rows=400, dim=8), lambda _line: None):
        yield folder


@pytest.fixture(scope="module")
def done(place):
    return invoke(place, "full", "--output", "merged/all.pkl")


def merge_of(folder, rows):
    with open_writer(folder / "merged.pkl", len(rows), rows.shape[1], rows.dtype) as writer:
        writer.write(rows)
        writer.finish(articles_of(len(rows)), metadata_of(rows, 1))


def secrets_in(folder):
    files = (folder / ".credentials").glob("*.credentials")
    return [json.loads(file.read_text())["password"] for file in files]


def test_full_ends_well(done):
    assert done.returncode == 0, done.stderr


def test_full_makes_the_file_that_concatenate_would(place, done):
    merged = pickle.loads((place / "merged/all.pkl").read_bytes())
    shards = [pickle.loads(path.read_bytes()) for path in (place / "embeddings").glob("cluster*.pkl")]
    shards.sort(key=lambda shard: shard["start_index"])
    assert np.array_equal(merged["embeddings"], np.concatenate([shard["embeddings"] for shard in shards])[:400])


def test_the_merged_file_says_which_cluster_each_shard_came_from(place, done):
    merged = pickle.loads((place / "merged/all.pkl").read_bytes())
    assert [chunk["cluster"] for chunk in merged["chunk_info"]] == ["tensor01"] * 4 + ["tensor02"] * 4


def test_full_ends_with_the_next_command_and_the_persons_own_path(done):
    assert done.stdout.rstrip().endswith("invoke report --path merged/all.pkl")


def test_lines_of_clusters_say_whose_they_are(done):
    assert "tensor01 | SYNCING FROM TENSOR01" in done.stdout
    assert "tensor02 |   [1/4] cluster2_gpu0.pkl... ✓" in done.stdout


def test_one_cluster_alone_needs_no_name_before_its_lines(place):
    ran = invoke(place, "sync", "--cluster", "tensor01", "--embeddings", "alone")
    assert "\nSYNCING FROM TENSOR01\nOutput directory: alone\n" in f"\n{ran.stdout}"


def test_a_sync_tells_the_absolute_path_of_the_remote_directory(place):
    ran = invoke(place, "sync", "--cluster", "tensor01", "--dry-run")
    told = [line for line in ran.stdout.splitlines() if line.startswith("Remote directory: ")]
    assert told == ["Remote directory: /mapper_embeddings/embeddings"]


def test_a_second_sync_fetches_nothing(place, done):
    assert "unchanged" in invoke(place, "sync").stdout


def test_dry_run_downloads_nothing(place):
    assert invoke(place, "sync", "--dry-run", "--embeddings", "dry").returncode == 0
    assert not list(place.glob("dry/cluster*"))


def test_invokes_own_dry_means_dry_run(place):
    assert invoke(place, "--dry", "sync", "--embeddings", "dry2").returncode == 0
    assert not list(place.glob("dry2/cluster*"))


def test_full_that_is_tried_dry_downloads_and_merges_nothing(place):
    ran = invoke(place, "--dry", "full", "--embeddings", "dry3", "--output", "dry3/all.pkl")
    assert ran.returncode == 0
    assert not list(place.glob("dry3/*"))


def test_full_takes_no_shard_with_another_header_than_was_looked_at(tmp_path):
    other = write_shard(tmp_path / "other" / "cluster0_gpu0.pkl", start=1)
    opened = itertools.count()

    class Replaced(Home):
        def open(self, path, *how):
            return super().open(b"/other.pkl" if next(opened) else path, *how)

    with Lab(tmp_path, home=Replaced) as lab:
        (path,) = lab.shards(1)
        shutil.copy(other, lab.home / "other.pkl")
        for same in (path, lab.home / "other.pkl"):
            os.utime(same, (1_700_000_000, 1_700_000_000))
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(articles_of(64)))
        ran = invoke(tmp_path, "full", "--articles", "a.pkl")
    assert ran.returncode == 4
    assert "another header than verify-remote saw" in ran.stderr


def test_a_shard_that_was_damaged_after_its_download_is_not_merged(place, done, tmp_path):
    shutil.copytree(place / "embeddings", tmp_path / "embeddings")
    shard = tmp_path / "embeddings" / "cluster1_gpu0.pkl"
    data, facts = bytearray(shard.read_bytes()), shard.stat()
    data[-200] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    ran = invoke(place, "merge", "--embeddings", str(tmp_path / "embeddings"), "--output", str(tmp_path / "m.pkl"))
    assert (ran.returncode, "cluster1_gpu0.pkl" in ran.stderr) == (5, True)
    assert not (tmp_path / "m.pkl").exists()


def test_a_sync_with_checksum_fetches_what_differs(place):
    invoke(place, "sync", "--cluster", "tensor01", "--embeddings", "damaged")
    shard = place / "damaged/cluster1_gpu0.pkl"
    whole, facts = shard.read_bytes(), shard.stat()
    shard.write_bytes(bytes(len(whole)))
    os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert invoke(place, "sync", "--checksum", "--cluster", "tensor01", "--embeddings", "damaged").returncode == 0
    assert shard.read_bytes() == whole


@pytest.mark.parametrize(
    ("task", "more", "then"),
    [
        ("verify-remote", [], "invoke full"),
        ("sync", [], "invoke merge --embeddings nowhere"),
        ("sync", ["--cluster", "tensor01"], "invoke full --embeddings nowhere"),
        ("sync", ["--dry-run", "--cluster", "tensor01"], "invoke sync --embeddings nowhere --cluster tensor01"),
        ("doctor", ["--cluster", "tensor01"], "invoke sync --embeddings nowhere --cluster tensor01"),
    ],
)
def test_a_task_that_went_well_ends_with_the_next_command(place, tmp_path, task, more, then):
    words = [
        word.replace("nowhere", str(tmp_path)) for word in (["--embeddings", "nowhere"] if "nowhere" in then else [])
    ]
    ran = invoke(place, task, *words, *more)
    assert ran.stdout.rstrip().endswith(then.replace("nowhere", str(tmp_path)))


@pytest.mark.parametrize("task", [["merge"], ["report"], ["convert", "--output", "x.npy"], ["demo"]])
def test_a_task_that_cannot_be_tried_dry_does_nothing(place, done, task):
    ran = invoke(place, "--dry", *task)
    assert ran.returncode == 2
    assert "cannot be tried with --dry" in ran.stderr


def test_one_healthy_cluster_says_which_rows_it_does_not_hold(place):
    ran = invoke(place, "verify-remote", "--cluster", "tensor02")
    assert ran.returncode == 0
    assert "rows 0 - 205 are left for other clusters" in ran.stdout


@pytest.mark.parametrize("words", [["tensor02 tensor01"], ["tensor02", "--cluster", "tensor01"]])
def test_one_flag_may_name_several_clusters_and_so_may_several_flags(place, words):
    ran = invoke(place, "verify-remote", "--json", "--cluster", *words)
    assert [each["cluster"] for each in json.loads(ran.stdout)["survey"]["clusters"]] == ["tensor02", "tensor01"]


@pytest.mark.parametrize("task", ["verify-remote", "sync", "full", "inspect", "doctor", "merge"])
def test_json_is_one_document_on_stdout_and_the_log_is_on_stderr(place, done, task):
    more = ["--path", "merged/all.pkl"] if task == "inspect" else []
    ran = invoke(place, task, "--json", *more)
    assert json.loads(ran.stdout)["ok"] is True


def test_json_of_an_error_says_what_and_what_next(place):
    ran = invoke(place, "merge", "--articles", "nowhere.pkl", "--json")
    error = json.loads(ran.stdout)["error"]
    assert ran.returncode == 5
    assert error["exit_code"] == 5
    assert "nowhere.pkl" in error["message"]
    assert error["hint"]


def test_quiet_leaves_the_last_line(place, done):
    ran = invoke(place, "merge", "--quiet")
    assert len(ran.stdout.splitlines()) == 1
    assert "Merged 8 shards" in ran.stdout


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["sync", "--connections", "many"], 2, "--connections"),
        (["sync", "--cluster", "nowhere"], 2, "nowhere"),
        (["merge", "--articles", "nowhere.pkl"], 5, "articles file missing: nowhere.pkl"),
        (["merge", "--embeddings", "nowhere"], 5, "nowhere"),
        (["merge", "--output", "merged.txt"], 2, ".txt"),
        (["inspect", "--path", "nowhere.pkl"], 5, "nowhere.pkl"),
        (["inspect", "--path", "~nobody-of-that-name/x.pkl"], 5, "~nobody-of-that-name/x.pkl"),
        (["report", "--path", "nowhere.pkl"], 5, "nowhere.pkl"),
        (["convert", "--path", "nowhere.pkl"], 2, "--output"),
        (["verify-remote", "--wait", "soon"], 2, "--wait"),
        (["demo", "--rows", "none"], 2, "--rows"),
        (["inspect", "--path=~nobody-of-that-name/x.pkl"], 5, "~nobody-of-that-name/x.pkl does not exist"),
    ],
)
def test_a_mistake_gets_one_line_one_hint_and_its_exit_code(place, done, words, code, what):
    ran = invoke(place, *words)
    assert ran.returncode == code
    first, *rest = ran.stderr.strip().splitlines()
    assert what in first
    assert len(rest) <= 1
    assert "Traceback" not in ran.stderr


@pytest.fixture
def half_broken(place, tmp_path):
    """A function: make a credentials folder in which tensor01 has a mistake."""

    def make(**mistake):
        folder = tmp_path / ".credentials"
        shutil.copytree(place / ".credentials", folder)
        path = folder / "tensor01.credentials"
        path.write_text(json.dumps(json.loads(path.read_text()) | mistake))
        return str(folder)

    return make


@pytest.mark.parametrize("task", ["verify-remote", "sync"])
@pytest.mark.parametrize("why", ["authentication failed", "connection refused"])
def test_why_a_cluster_failed_is_said_once(place, half_broken, task, why):
    mistake = {"password": "wrong"} if why == "authentication failed" else {"port": free_port()}
    ran = invoke(place, task, "--credentials", half_broken(**mistake), INVOKE_EMBMERGE_RETRIES="0")
    assert ran.returncode == 3
    assert (ran.stdout + ran.stderr).count(why) == 1


def test_a_doctor_that_finds_something_ends_with_its_code(place, half_broken):
    ran = invoke(place, "doctor", "--credentials", half_broken(password="wrong"))
    assert ran.returncode == 3


def test_a_sync_that_is_not_complete_ends_with_whose_shards_are_missing(place, half_broken):
    ran = invoke(place, "sync", "--credentials", half_broken(password="wrong"))
    assert ran.stdout.endswith("\n✗ Not complete: tensor01 failed\n")


def test_the_environment_overrides_invoke_yaml(place):
    ran = invoke(place, "merge", INVOKE_EMBMERGE_EXPECTED_ARTICLES="399")
    assert ran.returncode == 5
    assert "399 are expected" in ran.stderr


@pytest.mark.parametrize("text", ["embmerge:\n  retries: '1'\n", ""])
def test_the_environment_needs_no_line_in_invoke_yaml(corner, text):
    (corner / "invoke.yaml").write_text(text)
    ran = invoke(corner, "merge", root=corner, INVOKE_EMBMERGE_EXPECTED_ARTICLES="many")
    assert ran.returncode == 2
    assert "INVOKE_EMBMERGE_EXPECTED_ARTICLES" in ran.stderr


def test_a_misspelled_variable_is_an_error(place):
    ran = invoke(place, "merge", INVOKE_EMBMERGE_ARTICELS="x.pkl")
    assert ran.returncode == 2
    assert "there is no such setting" in ran.stderr


def test_a_flag_overrides_the_environment(place, done):
    ran = invoke(place, "inspect", "--path", "merged/all.pkl", INVOKE_EMBMERGE_OUTPUT="nowhere.pkl")
    assert ran.returncode == 0


def test_a_mistyped_number_in_the_environment_is_no_traceback(place):
    ran = invoke(place, "sync", INVOKE_EMBMERGE_CONNECTIONS="four")
    assert ran.returncode == 2
    assert "INVOKE_EMBMERGE_CONNECTIONS" in ran.stderr


@pytest.mark.parametrize("word", ["yes", "1"])
def test_a_traceback_is_shown_on_request(place, word):
    ran = invoke(place, "merge", "--articles", "nowhere.pkl", INVOKE_EMBMERGE_TRACEBACK=word)
    assert "Traceback" in ran.stderr


def test_a_missing_articles_file_is_known_before_the_download(place):
    ran = invoke(place, "full", "--articles", "nowhere.pkl", "--embeddings", "early")
    assert ran.returncode == 5
    assert not list(place.glob("early/cluster*"))


@pytest.mark.parametrize("output", ["merged.txt", "wikipedia.pkl"])
def test_an_output_that_cannot_be_is_known_before_the_download(place, output):
    ran = invoke(place, "full", "--output", output, "--embeddings", "early")
    assert ran.returncode == 2
    assert not list(place.glob("early/cluster*"))


@pytest.mark.parametrize("words", [["-d", "sync", "--dry-run"], ["doctor", "--verbose"], ["sync", "--json"]])
def test_no_secret_appears_in_any_output(place, words):
    ran = invoke(place, *words, INVOKE_EMBMERGE_TRACEBACK="1")
    assert not any(secret in ran.stdout + ran.stderr for secret in secrets_in(place))


def test_every_task_has_a_summary_of_one_line_and_help_for_every_flag():
    listed = invoke(ROOT, "--list", "--list-format", "json")
    tasks = json.loads(listed.stdout)["tasks"]
    assert {task["name"] for task in tasks} == {
        "verify-remote", "sync", "merge", "full", "doctor", "inspect", "report", "convert", "demo",
    }  # fmt: skip
    assert all(task["help"] for task in tasks)


@pytest.mark.parametrize("task", ["verify-remote", "sync", "merge", "full", "doctor", "inspect", "report", "demo"])
def test_help_names_every_flag_once(task):
    shown = invoke(ROOT, task, "--help").stdout
    flags = [line for line in shown.splitlines() if line.startswith("  --")]
    assert all(len(line.split()) > 2 for line in flags)


def test_inspect_and_report_tell_of_the_merged_file(place, done):
    assert "Shape: (400, 8)" in invoke(place, "inspect", "--path", "merged/all.pkl").stdout
    assert "Usable" in invoke(place, "report", "--path", "merged/all.pkl").stdout
    assert (place / "merged/all.report.html").exists()


def test_a_report_that_speaks_against_a_file_ends_with_an_error(corner):
    merge_of(corner, np.zeros((40, 4), "f4"))
    ran = invoke(corner, "report", "--path", "merged.pkl", "--json")
    assert ran.returncode == 5
    document = json.loads(ran.stdout)
    assert not document["ok"]
    assert not document["report"]["ok"]


def test_a_report_needs_no_home_for_matplotlib_and_says_nothing_of_it(place, done):
    (place / "file").touch()
    ran = invoke(place, "report", "--path", "merged/all.pkl", MPLCONFIGDIR=str(place / "file"))
    assert (ran.returncode, ran.stderr) == (0, "")


def test_convert_writes_another_format(place, done):
    assert invoke(place, "convert", "--path", "merged/all.pkl", "--output", "merged/all.npy").returncode == 0
    assert np.load(place / "merged/all.npy", mmap_mode="r").shape == (400, 8)


def test_what_is_converted_and_reported_on_is_what_was_merged_last(place, done):
    last = {"INVOKE_EMBMERGE_OUTPUT": "merged/all.pkl"}
    assert invoke(place, "convert", "--output", "last/all.npy", **last).returncode == 0
    assert invoke(place, "report", "--output", "last/page.html", "--article", "nowhere", **last).returncode == 5
    assert invoke(place, "report", "--output", "last/page.html", **last).returncode == 0
    assert {path.name for path in place.glob("last/*")} >= {"all.npy", "page.html"}


@pytest.fixture
def corner(tmp_path):
    """A folder of its own, with the tasks and whatever settings a test writes."""
    shutil.copy(ROOT / "tasks.py", tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["embmerge: 5", "embmerge: [a]", "embmerge: text"])
def test_settings_that_are_none_are_an_error_and_no_traceback(corner, text):
    (corner / "invoke.yaml").write_text(text)
    ran = invoke(corner, "inspect", root=corner)
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (2, "Error: embmerge: in invoke.yaml holds no settings")


@pytest.mark.parametrize("text", ["embmerge:\n\toutput: x.pkl\n", "embmerge:\n  output: [x.pkl\n"])
def test_settings_that_are_no_yaml_are_an_error_with_its_place_and_no_traceback(corner, text):
    (corner / "invoke.yaml").write_text(text)
    ran = invoke(corner, "inspect", root=corner)
    first, *rest = ran.stderr.splitlines()
    assert (ran.returncode, len(rest)) == (2, 1)
    assert f'in "{corner / "invoke.yaml"}", line 2' in first


def test_settings_that_are_all_commented_out_are_the_defaults(corner):
    (corner / "invoke.yaml").write_text("embmerge:\n  # output: x.pkl\n")
    assert "merged/embeddings.pkl does not exist" in invoke(corner, "inspect", root=corner).stderr


@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"]])
def test_output_that_cannot_be_written_is_a_disk_error(place, done, flags):
    with Path("/dev/full").open("w") as full:
        ran = invoke(place, "inspect", "--path", "merged/all.pkl", *flags, stdout=full)
    assert (ran.returncode, ran.stderr.count("Error: cannot write the output: No space left on device")) == (6, 1)


def test_output_that_is_closed_is_none(place, done):
    command = f"{sys.executable} -m invoke --search-root {ROOT} inspect --path merged/all.pkl >&-"
    ran = subprocess.run(["sh", "-c", command], cwd=place, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_folder_that_cannot_be_made_is_a_disk_error(corner):
    (corner / "file").touch()
    ran = invoke(corner, "demo", "--folder", "file/demo")
    assert ran.returncode == 6
    assert "file/demo" in ran.stderr


def test_the_folder_of_a_demo_may_begin_with_the_home_folder(corner):
    full = corner / "home" / "full"
    full.mkdir(parents=True)
    (full / "theirs").touch()
    assert f"{full} holds something else than a demo" in invoke(corner, "demo", "--folder=~/full").stderr


@pytest.fixture
def local(corner):
    """Shards and articles that are here already, with three rows too many."""
    make_dataset(corner, 60, 6, 2, extra=3)
    return corner


def test_a_merge_converts_to_the_dtype_that_was_asked_for(local):
    ran = invoke(local, "merge", "--articles", "a.pkl", "--output", "m.pkl", "--dtype", "float64", root=local)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert pickle.loads((local / "m.pkl").read_bytes())["embeddings"].dtype == np.float64


def test_a_merge_leaves_out_no_more_rows_than_are_set(local):
    (local / "invoke.yaml").write_text("embmerge:\n  max_extra_rows: 2\n")
    ran = invoke(local, "merge", "--articles", "a.pkl", "--output", "m.pkl", root=local)
    assert (ran.returncode, "3 more than there are articles" in ran.stderr) == (5, True)
    assert not list(local.glob("*m.pkl*"))


def test_a_merge_ends_with_commands_that_a_shell_understands(local):
    ran = invoke(local, "merge", "--articles", "a.pkl", "--output", "my file.pkl", root=local)
    assert "invoke inspect --path 'my file.pkl'" in ran.stdout
    assert "invoke report --path 'my file.pkl'" in ran.stdout


def test_a_path_may_begin_in_the_persons_home_where_no_shell_has_seen_to_it(corner):
    (corner / "home").mkdir()
    merge_of(corner / "home", np.ones((4, 4), "f4"))
    assert "Shape: (4, 4)" in invoke(corner, "inspect", "--path=~/merged.pkl", root=corner).stdout


def test_why_a_task_failed_counts_more_than_that_it_could_not_be_told(corner):
    with Path("/dev/full").open("w") as full:
        ran = invoke(corner, "inspect", "--path", "nowhere.pkl", "--json", root=corner, stdout=full)
    assert ran.returncode == 5


def test_the_next_command_has_what_was_typed_as_a_shell_takes_it():
    typed = {"cluster": ["tensor01", "ask me"], "credentials": None, "limit_rate": "20M", "output": "x.pkl"}
    session = Session(None, None, threading.Event(), typed)
    said = "--cluster tensor01 --cluster 'ask me' --limit-rate 20M"
    assert session.then("output", "cluster", "credentials", "limit_rate") == f"invoke sync {said}"


def test_after_a_look_at_all_clusters_comes_the_whole_job_with_what_was_typed():
    session = Session(None, None, threading.Event(), {"output": "x.pkl", "articles": "a.pkl", "cluster": []})
    assert session.then("output", "cluster") == "invoke full --output x.pkl --articles a.pkl"


@pytest.mark.parametrize(("forbidden", "kept"), [("", 1), ("1", 0)])
def test_what_python_has_compiled_of_the_package_is_kept_unless_that_is_forbidden(corner, forbidden, kept):
    compiled = {"PYTHONPYCACHEPREFIX": str(corner / "compiled"), "PYTHONDONTWRITEBYTECODE": forbidden}
    invoke(corner, "inspect", root=corner, **compiled)
    assert len(list((corner / "compiled").rglob("inspection.*.pyc"))) == kept


STOPPED = """
import os, signal, sys
from invoke import Config, Context, Exit
from tasks import session

number = int(sys.argv[1])
before = signal.getsignal(number)
try:
    with session(Context(Config()), {"json": False, "quiet": False, "verbose": False}) as s:
        os.kill(os.getpid(), number)
        s.stop.wait(10)
except Exit as end:
    print(end.code, s.stop.is_set(), signal.getsignal(number) is before)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_task_in_one_line_and_with_its_own_code(number, code):
    ran = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number))], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout == f"{code} True True\n"
    assert ran.stderr == "Stopped; nothing is half-written\n  run the same command again to go on\n"

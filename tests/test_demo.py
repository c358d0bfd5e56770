"""`invoke demo`, as a newcomer types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def demo(folder, *words):
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), "demo", "--folder", str(folder), *words]
    environment = {**os.environ, "LANG": "C.UTF-8", "HOME": str(folder.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "run", "--rows", "300", "--dim", "8")


def test_the_demo_ends_with_where_the_file_is_and_how_to_look_at_it(shown):
    assert shown.returncode == 0, shown.stderr
    assert "merged/embeddings.pkl. Look at it:" in shown.stdout
    assert shown.stdout.rstrip().endswith("report")


def test_the_demo_runs_the_real_full(shown):
    assert "SYNCING FROM TENSOR01" in shown.stdout
    assert "MERGING EMBEDDINGS" in shown.stdout


def test_the_demo_leaves_a_folder_that_is_not_its_own_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert demo(tmp_path / "mine").returncode == 2
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_demo_may_be_run_again(tmp_path):
    for _ in range(2):
        assert demo(tmp_path / "run", "--rows", "50", "--dim", "4").returncode == 0


def test_keep_running_prints_lines_to_try_and_ends_with_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), "demo", "--keep-running"]
    command += ["--rows", "50", "--dim", "4", "--folder", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        line = ""
        while not line.rstrip().endswith("inspect"):
            line = process.stdout.readline()
            assert line, "it ended by itself"
        process.send_signal(2)
        assert process.wait(timeout=20) == 130

"""What may be imported from where; the contracts between our own rooms stand in pyproject.toml."""

import subprocess
import sys

LOCAL_HALF = ("articles", "coverage", "merge", "mergedfile", "picklewalk", "quality", "shard")
NUMPY_ALONE = """
import importlib, importlib.abc, sys

class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top not in {"numpy", "embmerge"} and top not in sys.stdlib_module_names:
            raise ImportError(f"{name} is neither numpy nor the standard library")

sys.meta_path.insert(0, Only())
for room in sys.argv[1:]:
    importlib.import_module(f"embmerge.{room}")
"""


def test_the_local_half_imports_with_numpy_alone():
    run = subprocess.run([sys.executable, "-c", NUMPY_ALONE, *LOCAL_HALF], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_task_list_needs_neither_numpy_nor_ssh():
    code = "import sys, tasks; print([m for m in ('numpy', 'paramiko', 'msgspec', 'rich') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_bringing_shards_home_needs_no_numpy():
    code = "import sys, embmerge.console, embmerge.remote.fleet, embmerge.remote.sync; print('numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

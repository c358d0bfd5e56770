"""What a piece of work asks of the disk, in order: what is synced, as it is at that moment, and what is renamed."""

import os
from pathlib import Path


class DiskTrace:
    """Notes every fsync (path, content) and every rename (from, to) from now on; `monkeypatch` ends it."""

    def __init__(self, monkeypatch):
        self.steps = []
        fsync = os.fsync

        def synced(file):
            path = Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}").readlink()
            self.steps.append(("sync", path, None if path.is_dir() else path.read_bytes()))
            fsync(file)

        monkeypatch.setattr(os, "fsync", synced)
        for name in ("replace", "rename"):
            monkeypatch.setattr(Path, name, self._renaming(getattr(Path, name)))

    def _renaming(self, rename):
        def renamed(path, target):
            self.steps.append(("rename", path, Path(target)))
            return rename(path, target)

        return renamed

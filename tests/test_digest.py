"""A sha256 that follows what is here: nothing before its turn, nothing twice."""

import hashlib
import os
import threading

from embmerge.remote.digest import Digest
from embmerge.remote.files import RemoteFile
from embmerge.remote.partial import begin


def here(tmp_path, *places):
    """A partial file of 1000 bytes with each text at its place."""
    part = begin(tmp_path, RemoteFile("a", "cluster0_gpu0.pkl", "/x", 1000, 5))
    for start, text in places:
        part.write(start, [memoryview(text)])
        part.add(start, start + len(text))
    return part


def test_bytes_behind_a_gap_are_not_hashed(tmp_path):
    digest = Digest()
    digest.follow(here(tmp_path, (0, b"a" * 100), (500, b"b" * 500)), threading.Event())
    assert digest.nbytes == 100
    assert digest.hexdigest() == hashlib.sha256(b"a" * 100).hexdigest()


def test_who_brings_bytes_while_others_are_hashed_neither_waits_nor_has_them_hashed(tmp_path, monkeypatch):
    digest, part = Digest(), here(tmp_path, (0, b"a" * 1000))
    preadv, waited = os.preadv, []

    def read(file, buffers, start):
        bringing = threading.Thread(target=digest.add, args=(start, [memoryview(b"b" * 10)]), daemon=True)
        bringing.start()
        bringing.join(5)
        waited.append(bringing.is_alive())
        return preadv(file, buffers, start)

    monkeypatch.setattr(os, "preadv", read)
    digest.follow(part, threading.Event())
    assert waited == [False]
    assert digest.hexdigest() == hashlib.sha256(b"a" * 1000).hexdigest()

"""Fuzz every reader of untrusted files with atheris, guided by coverage. It runs until something breaks.

    pip install atheris                                      # Linux or macOS, a Python that it has a wheel for
    python -m tests.fuzz.fuzz_readers -max_total_time=600    # from the project's folder; libFuzzer's flags
    python -m tests.fuzz.fuzz_readers crash-…                # once more what broke it

Anything but a refusal (`LocalDataError` with one printable line) is a finding: put it into `tests/hostile.py`.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["embmerge", "pickletools"]):
    from tests.fuzz.readers import feed, seeds


def main():
    """Write the honest files as a corpus, then hand over to libFuzzer."""
    with tempfile.TemporaryDirectory() as place:
        corpus, folder = Path(place) / "corpus", Path(place) / "files"
        corpus.mkdir()
        folder.mkdir()
        for number, content in enumerate(seeds()):
            (corpus / str(number)).write_bytes(content)
        named = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        arguments = [*sys.argv, *([] if named else [str(corpus)]), "-rss_limit_mb=512", "-timeout=10"]
        atheris.Setup(arguments, lambda content: feed(content, folder) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

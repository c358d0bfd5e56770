"""Titles, ids and urls from the articles file, past the texts.

The file is a pickled list of dicts; 250,000 articles of 3 KB are 750 MB, of which some 20 MB are wanted. Nothing is
unpickled: articles that look like the first one are found a block at a time (`articletemplate`), the rest is walked by
a loop made for this one shape (`articlewalk`), and texts are passed over.

Measured on such a file (Python 3.11, two cores), processor time as ratios to this way; the last four were measured
against the second:

    what looks like the first article by numpy, 4 MB at once (this)        1
    what looks like the first article by a regular expression each         1.7    and Python's lock is held all the time
    the opcode loop alone                                                  4
    C Unpickler whose find_class refuses every name                        1.7    holds all texts
    pickle._Unpickler, in Python, forgetting texts                         5      reads them first
    pickletools.genops over the file                                       7      without making articles of it

In blocks of 256 KB this way takes 2.5 times as long, in blocks of 1 MB 1.3 times: each costs some hundred calls.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embmerge.articlewalk import NotArticles, walk_articles
from embmerge.errors import LocalDataError
from embmerge.plaintext import printable
from embmerge.records import Records, decode


@dataclass(frozen=True)
class Articles(Sequence[dict[str, Any]]):
    """All articles in order; an item is `{'title': str, 'id': str | int | None, 'url': str | None}`.

    `records` holds each as the opcodes of its dict (`embmerge.records`), some 150 bytes.
    """

    records: Records = field(default_factory=lambda: Records.of([]), repr=False)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.records)

    def __getitem__(self, row: Any) -> Any:
        """The article of `row`, or a list of them for a slice."""
        wanted = range(len(self))[row]
        if isinstance(wanted, range):
            return [decode(self.records[each]) for each in wanted]
        return decode(self.records[wanted])


def read_articles(path: Path, *, stop: threading.Event | None = None) -> Articles:
    """All articles in the file `path`; only some of them once `stop` is set.

    Raises `LocalDataError` if there is no such file, or if it is not a pickled list of dicts with a title each.
    """
    batches: list[Records] = []
    for batch in _batches(path):
        batches.append(batch)
        if stop and stop.is_set():
            break
    return Articles(Records.joined(batches))


def count_articles(path: Path) -> int:
    """How many articles the file `path` holds; raises as `read_articles` does."""
    return sum(len(batch) for batch in _batches(path))


def first_article(path: Path) -> dict[str, Any] | None:
    """The first article in the file `path`, None if it holds none; raises as `read_articles` does."""
    for batch in _batches(path):
        return decode(batch[0])
    return None


def begins_with_list(path: Path) -> bool:
    """Whether a pickle begins with a list, as articles do: after PROTO and FRAME, EMPTY_LIST, or MARK and LIST."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[:1] == b"\x80":
        start = start[2:]
    if start[:1] == b"\x95":
        start = start[9:]
    return start.startswith((b"]", b"(l"))


def _batches(path: Path) -> Iterator[Records]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise LocalDataError(
                f"cannot read the articles file {path}: it is no regular file", hint="name another with --articles"
            )
        with path.open("rb", buffering=0) as file:
            yield from walk_articles(file)
    except FileNotFoundError:
        raise LocalDataError(
            f"articles file missing: {path}", hint="name it with --articles, or set `articles` in invoke.yaml"
        ) from None
    except OSError as error:
        raise LocalDataError(
            f"cannot read the articles file {path}: {error.strerror}", hint="see whether it may be read: ls -l"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, NotArticles) else "it is damaged or cut short"
        raise LocalDataError(
            f"{printable(path.name)} is not an articles file: {why}",
            hint="it must be a pickled list of dicts with 'title', 'id' and 'url'; if it was copied, copy it again",
        ) from None

"""`verify-remote`: look into every remote shard without downloading it, and say whether a merge would succeed."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote
from typing import Literal

from embmerge.coverage import Coverage, Disagreement, Gap, advice, check_coverage
from embmerge.errors import EmbmergeError, LocalDataError, RemoteDataError, TruncatedShard
from embmerge.events import ClusterDone, ClusterFailed, Observer, ShardInspected, ShardsFound, ignore
from embmerge.plaintext import printable
from embmerge.remote.cluster import Cluster
from embmerge.remote.files import RemoteFile, no_shards
from embmerge.remote.terms import Terms
from embmerge.remote.together import together
from embmerge.shard import ShardHeader

Verdict = Literal["ok", "growing", "truncated", "unreadable", "odd"]
_TERMS = ""  # no cluster's name


@dataclass(frozen=True)
class Finding:
    """One remote shard: what its header says (None if it has none), and what is wrong with it.

    growing: its size or time changed between two looks. truncated: its pickle ends too early. odd: its model, dim or
    dtype is not that of most shards.
    """

    file: RemoteFile
    header: ShardHeader | None
    verdict: Verdict = "ok"
    problem: str = ""


@dataclass(frozen=True)
class ClusterSurvey:
    """What lies on one cluster. `error` says why no shard was seen; `remote_dir` is empty then unless we were there."""

    cluster: str
    remote_dir: str = ""
    findings: tuple[Finding, ...] = ()
    checkpoints: tuple[RemoteFile, ...] = ()
    others: tuple[str, ...] = ()
    error: EmbmergeError | None = None

    @property
    def unseen(self) -> bool:
        """Whether nobody can tell what lies there."""
        return not self.remote_dir


@dataclass(frozen=True)
class Survey:
    """What lies on the clusters that were asked, and what they hold together.

    `articles` is how many there are, None if nobody knows. `error` is what a task ends with, None if a merge of what
    was asked would succeed.
    """

    clusters: tuple[ClusterSurvey, ...]
    coverage: Coverage
    articles: int | None
    problems: tuple[str, ...] = ()
    error: EmbmergeError | None = None

    @property
    def ok(self) -> bool:
        """Whether a merge of what was asked would succeed."""
        return self.error is None

    @property
    def headers(self) -> dict[str, ShardHeader]:
        """All headers, by shard name."""
        found = (finding.header for cluster in self.clusters for finding in cluster.findings)
        return {header.name: header for header in found if header}


def survey(
    clusters: Sequence[Cluster],
    terms: Terms | Callable[[], Terms],
    *,
    observer: Observer = ignore,
    stop: threading.Event,
) -> Survey:
    """Look into all `clusters` at the same time, and judge what they hold by `terms`.

    Terms that are a function are found meanwhile; its error is raised, and `stop` set for the looks to end. What is
    wrong on a cluster, or with its connection, is in the result. Raises `Interrupted` when `stop` is set.
    """
    work: dict[str, Callable[[], ClusterSurvey | Terms]] = {_TERMS: terms if callable(terms) else lambda: terms}
    for cluster in clusters:
        work[cluster.name] = partial(cluster.working, partial(_look_in_one_session, cluster, observer))
    outcomes = together(work, stop=stop, halt=threading.Event(), deciding=_TERMS)
    found = outcomes.pop(_TERMS)
    assert isinstance(found, Terms)  # or its error was raised
    surveys = []
    for name, outcome in outcomes.items():
        if isinstance(outcome, EmbmergeError):
            observer(ClusterFailed(name, outcome.message, outcome.hint))
            surveys.append(ClusterSurvey(name, error=outcome))
        elif isinstance(outcome, ClusterSurvey):
            surveys.append(outcome)
    order = [cluster.name for cluster in clusters]
    return judge(sorted(surveys, key=lambda each: order.index(each.cluster)), found)


def _look_in_one_session(cluster: Cluster, observer: Observer) -> ClusterSurvey:
    with cluster.one_session():
        return _look(cluster, observer)


def _look(cluster: Cluster, observer: Observer) -> ClusterSurvey:
    listing = cluster.listing()
    files = listing.shards
    observer(ShardsFound(cluster.name, len(files), sum(file.nbytes for file in files), listing.remote_dir))
    if not files:
        error = no_shards(cluster.name, listing)
        observer(ClusterFailed(cluster.name, error.message, error.hint))
        return ClusterSurvey(cluster.name, listing.remote_dir, (), listing.checkpoints, listing.others, error)
    findings = []
    for index, (file, found) in enumerate(cluster.headers(files), 1):
        if isinstance(found, ShardHeader):
            findings.append(Finding(file, found))
        else:
            verdict: Verdict = "truncated" if isinstance(found, TruncatedShard) else "unreadable"
            findings.append(Finding(file, None, verdict, found.message))
        observer(ShardInspected(cluster.name, file.name, index, len(files)))
    looked = zip(findings, cluster.look_again(files), strict=True)
    settled = tuple(_settled(finding, now) for finding, now in looked)
    observer(ClusterDone(cluster.name))
    return ClusterSurvey(cluster.name, listing.remote_dir, settled, listing.checkpoints, listing.others)


def _settled(finding: Finding, now: RemoteFile | OSError) -> Finding:
    """What a second look at the file makes of it."""
    name = printable(finding.file.name)
    if now == finding.file:
        return finding
    if isinstance(now, FileNotFoundError):
        return replace(finding, header=None, verdict="unreadable", problem=f"{name} was removed while we looked")
    if isinstance(now, OSError):
        why = f"{name} cannot be looked at again: {printable(str(now.strerror or now))}"
        return finding if finding.problem else replace(finding, header=None, verdict="unreadable", problem=why)
    change = (
        f"{finding.file.nbytes:,} bytes, then {now.nbytes:,}" if now.nbytes != finding.file.nbytes else "written again"
    )
    return replace(finding, header=None, verdict="growing", problem=f"{name} is still being written: {change}")


def judge(surveys: Sequence[ClusterSurvey], terms: Terms) -> Survey:
    """What `surveys` amount to; a pure function."""
    remote = [finding.header for each in surveys for finding in each.findings if finding.header]
    names = {header.name for header in remote}
    headers = [*remote, *(header for header in terms.local if header.name not in names)]
    unasked = bool(terms.others) or any(each.unseen for each in surveys)
    coverage = check_coverage(headers, articles=terms.articles, others=unasked, any_dtype=terms.any_dtype)
    odd = {
        header.name: f"{problem.field} is {printable(value, 60)}"
        for problem in coverage.problems
        if isinstance(problem, Disagreement)
        for value, those in problem.values[1:]
        for header in those
    }
    surveys = [
        replace(each, findings=tuple(_odd(finding, odd.get(finding.file.name)) for finding in each.findings))
        for each in surveys
    ]
    problems = [finding.problem for each in surveys for finding in each.findings if not finding.header]
    problems += [f"{each.cluster} holds no shard" for each in surveys if each.error and not each.unseen]
    problems += _clashes(surveys)
    problems += [str(problem) for problem in coverage.problems]
    ours = _in_the_way(surveys, headers, terms.ours)
    if terms.articles is not None and coverage.end > terms.articles + terms.max_extra_rows:
        extra = coverage.end - terms.articles
        ours.append(
            LocalDataError(
                f"{extra:,} rows more than there are articles ({terms.articles:,})",
                hint=f"at most {terms.max_extra_rows:,} are left out: set `max_extra_rows`, or name another --articles",
            )
        )
    error = _error(surveys, coverage, problems) or next(iter(ours), None)
    problems += [each.message for each in ours]
    return Survey(tuple(surveys), coverage, terms.articles, tuple(problems), error)


def _odd(finding: Finding, why: str | None) -> Finding:
    return replace(finding, verdict="odd", problem=why) if why and finding.header else finding


def _clashes(surveys: Sequence[ClusterSurvey]) -> list[str]:
    """File names that two clusters offer."""
    first: dict[str, str] = {}
    clashes = []
    for each in surveys:
        for finding in each.findings:
            other = first.setdefault(finding.file.name, each.cluster)
            if other != each.cluster:
                clashes.append(f"{finding.file.name} is offered by both {other} and {each.cluster}")
    return clashes


def _in_the_way(
    surveys: Sequence[ClusterSurvey], headers: Sequence[ShardHeader], ours: Sequence[ShardHeader]
) -> list[LocalDataError]:
    """Shards that are here, on their cluster no more, and hold rows that others have now: a merge would take both."""
    unseen = {each.cluster for each in surveys if each.unseen}
    there = {finding.file.name for each in surveys for finding in each.findings}
    found = []
    for here in ours:
        if here.name in there or here.cluster in unseen:
            continue
        other = next((each for each in headers if each.start < here.end and here.start < each.end), None)
        if other:
            whose = f", and not on {here.cluster} any more" if here.cluster else ""
            what = f"{printable(here.name)} is here{whose}: rows of it are also in {printable(other.name)}"
            found.append(LocalDataError(what, hint="move it out of the folder of the shards, then run it again"))
    return found


def _error(surveys: Sequence[ClusterSurvey], coverage: Coverage, problems: Sequence[str]) -> EmbmergeError | None:
    failed = sorted((each.error for each in surveys if each.error), key=lambda error: error.exit_code)
    if failed:
        return failed[0]
    if not problems:
        return None
    return RemoteDataError("; ".join(problems), hint=_hint(surveys, coverage))


def _hint(surveys: Sequence[ClusterSurvey], coverage: Coverage) -> str:
    """The command that waits for what time heals, or shows the trouble where it is."""
    if any(finding.verdict in {"growing", "truncated"} for each in surveys for finding in each.findings):
        return "if workers are still writing, wait for them: invoke verify-remote --wait 30; else copy it there again"
    gaps = [problem for problem in coverage.problems if isinstance(problem, Gap)]
    neighbours = {shard.cluster for gap in gaps for shard in (gap.before, gap.after) if shard}
    where = [each for each in surveys if each.cluster in neighbours] or [each for each in surveys if each.remote_dir]
    if not where:
        return "run invoke doctor"
    shown = " or ".join(f"on {each.cluster}: ls -l {quote(printable(each.remote_dir))}" for each in where[:2])
    look = f"see which shards are there, {shown}"
    return advice(coverage.problems, look) or look

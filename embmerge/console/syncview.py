"""What `sync` did, or with `--dry-run` would do."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from embmerge.plaintext import duration, printable, size

if TYPE_CHECKING:
    from embmerge.remote.plan import Step
    from embmerge.remote.syncresult import SyncResult


def sync_lines(result: "SyncResult", width: int | None) -> list[str]:  # noqa: ARG001  the common shape of all views
    """Each step of a dry run, else the sums; last, who failed."""
    failed = ", ".join(each.cluster for each in result.clusters if each.error)
    verdict = [f"✗ Not complete: {failed} failed"] if failed else []
    return [*(_planned(result) if result.dry_run else _done(result)), *verdict]


def _planned(result: "SyncResult") -> Iterator[str]:
    for each in result.clusters:
        if each.steps:
            yield f"WOULD SYNC FROM {each.cluster.upper()}"
        for number, step in enumerate(each.steps, 1):
            name = printable(step.file.name)
            yield f"  [{number}/{len(each.steps)}] {name}: {step.action} ({_amount(step)})"
    steps = [step for each in result.clusters for step in each.steps]
    counts = {action: sum(step.action == action for step in steps) for action in ("fetch", "refetch", "resume", "skip")}
    told = ", ".join(f"{action} {count}" for action, count in counts.items() if count) or "do nothing"
    nbytes, seconds = sum(each.missing for each in result.clusters), result.seconds_expected
    time = f" in about {duration(seconds)} at the last known rate" if nbytes and seconds is not None else ""
    yield f"Would {told}: {size(nbytes)} to download{time}"


def _amount(step: "Step") -> str:
    if step.action == "resume":
        return f"{size(step.missing)} of {size(step.file.nbytes)} are missing"
    return size(step.file.nbytes)


def _done(result: "SyncResult") -> Iterator[str]:
    fetched = sum(len(each.fetched) for each in result.clusters)
    skipped = sum(step.action == "skip" for each in result.clusters for step in each.steps)
    failed = sum(len(each.failures) for each in result.clusters)
    received = sum(each.received for each in result.clusters)
    rate = f", {size(received / result.seconds)}/s" if received and result.seconds else ""
    parts = [f"{fetched} fetched ({size(received)} in {duration(result.seconds)}{rate})" if fetched else ""]
    parts += [f"{skipped} unchanged" if skipped else "", f"{failed} failed" if failed else ""]
    told = ", ".join(part for part in parts if part) or "nothing fetched"
    yield f"Shards in {printable(str(result.directory))}: {told}"

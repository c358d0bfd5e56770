"""The report as one HTML page that needs nothing else: no network, no script, light or dark, wide or narrow.

Every text from a file goes through `_text`. A Content-Security-Policy forbids all that is not in the page.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embmerge.plaintext import printable, size
from embmerge.report import figures
from embmerge.report.findings import counted

if TYPE_CHECKING:
    from embmerge.report import Report

_STYLE = """
:root{color-scheme:light dark;--ink:#1d1f23;--soft:#5f6570;--line:#d9dce1;--page:#fff;--card:#f6f7f9;--good:#00734f;
--warn:#8a5a00;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa0aa;--line:#3a3f47;--page:#16181c;--card:#1f2228;
--good:#4fd1a5;--warn:#f2b84b;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:60rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--page);overflow-wrap:anywhere}
h1{font-size:1.4rem;margin:.5rem 0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.verdict{padding:1rem;border-radius:.5rem;background:var(--card);border-left:.4rem solid var(--good);font-size:1.15rem}
.verdict.warning{border-color:var(--warn)}.verdict.error{border-color:var(--bad)}
ul.findings{padding:0;list-style:none}ul.findings li{padding:.4rem 0;border-bottom:1px solid var(--line)}
.error b{color:var(--bad)}.warning b{color:var(--warn)}.note b{color:var(--soft)}
.soft{color:var(--soft)}img{width:100%;max-width:44rem;height:auto;display:block}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.6rem}figure{margin:0}
figcaption{font-size:.8rem;color:var(--soft)}.runs{display:flex;font-size:.8rem;color:var(--soft)}
.runs span{min-width:0;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;border-left:2px solid var(--soft);
padding-left:.3rem;margin-top:.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:break-word}
th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}code{font-size:.8rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.6rem}
.facts div{background:var(--card);padding:.6rem;border-radius:.4rem}.facts b{display:block;font-size:1.1rem}
svg.bar{width:100%;height:2.2rem;display:block;border-radius:.3rem}
details{margin:.4rem 0}summary{cursor:pointer}.chip{display:inline-block;width:.8rem;height:.8rem;border-radius:.2rem}
"""
_WORDS = {"error": "Speaks against it", "warning": "Look at this", "note": "Good to know"}


def page(report: "Report") -> str:
    """The whole document."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    title = f"Report on {_text(report.path.name)}"
    body = "".join(
        (
            f"<h1>{title}</h1>",
            _verdict(report),
            _facts(report),
            _coverage(report),
            _norms(report),
            _rows(report),
            _space(report),
            _neighbours(report),
            _provenance(report),
        )
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _verdict(report: "Report") -> str:
    worst = next((kind for kind in ("error", "warning") if any(f.severity == kind for f in report.findings)), "ok")
    items = "".join(
        f'<li class="{finding.severity}"><b>{_WORDS[finding.severity]}.</b> {_text(finding.text, 600)}</li>'
        for finding in report.findings
    )
    listed = f'<ul class="findings">{items}</ul>' if items else ""
    return f'<p class="verdict {worst}" id="verdict">{_text(report.verdict)}</p>{listed}'


def _facts(report: "Report") -> str:
    s, metadata = report.statistics, report.metadata
    facts = (
        ("articles", f"{s.shape[0]:,}"),
        ("dimensions", f"{s.shape[1]:,}"),
        ("type", s.dtype),
        ("model", _text(metadata.get("model") or "not said", 60)),
        ("merged at", _text(str(metadata.get("timestamp") or "not said")[:16].replace("T", " "), 40)),
        ("mean norm", f"{s.mean_norm:.4f}"),
    )
    return '<div class="facts">' + "".join(f"<div>{name}<b>{value}</b></div>" for name, value in facts) + "</div>"


def _coverage(report: "Report") -> str:
    s = report.statistics
    total = s.shape[0]
    parts, rows = [], []
    for number, (chunk, shard) in enumerate(zip(report.metadata["chunk_info"], s.shards, strict=True)):
        colour, name = figures.PALETTE[number % len(figures.PALETTE)], _name(chunk)
        cluster = _cluster(chunk)
        left, width = 1000 * shard.start / total, 1000 * (shard.end - shard.start) / total
        parts.append(
            f'<rect x="{left:.2f}" y="0" width="{width:.2f}" height="20" fill="{colour}" stroke="#fff" '
            f'stroke-width="1"><title>{cluster}: {name}, rows {shard.start:,} to {shard.end:,}</title></rect>'
        )
        rows.append(
            (f'<span class="chip" style="background:{colour}"></span>', cluster, name, f"{shard.start:,}",
             f"{shard.end:,}", f"{shard.end - shard.start:,}")
        )  # fmt: skip
    box = 'class="bar" viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label="coverage"'
    bar = f"<svg {box}>{''.join(parts)}</svg>"
    table = _table(("", "cluster", "shard", "first row", "end", "rows"), rows, right={3, 4, 5})
    listed = f"<details open><summary>Shards</summary>{table}</details>"
    return f"<h2>Coverage: rows 0 to {total:,}</h2>{bar}{_runs(report)}{listed}"


def _runs(report: "Report") -> str:
    """The clusters' names under the bar, each as wide as its rows that follow one another."""
    chunks = zip(map(_cluster, report.metadata["chunk_info"]), report.statistics.shards, strict=True)
    spans = []
    for cluster, run in groupby(chunks, key=itemgetter(0)):
        rows = sum(shard.end - shard.start for _, shard in run)
        spans.append(f'<span style="flex:{rows} 1 0">{cluster}</span>')
    return f'<div class="runs">{"".join(spans)}</div>'


def _norms(report: "Report") -> str:
    s = report.statistics
    said = f"from {s.min_norm:.4f} to {s.max_norm:.4f}, mean {s.mean_norm:.4f}, standard deviation {s.std_norm:.4f}" + (
        "; these are unit vectors" if s.unit_norm else ""
    )
    small = "".join(
        f'<figure><figcaption>{_name(chunk)}</figcaption><img alt="Norms of {_name(chunk)}" src="{drawn}"></figure>'
        for chunk, drawn in zip(report.metadata["chunk_info"][: figures.SMALL], figures.shard_norms(s), strict=True)
    )
    which = f" (the first {figures.SMALL} of {len(s.shards):,})" if len(s.shards) > figures.SMALL else ""
    outliers = _table(
        ("row", "title", "norm"),
        [(f"{row:,}", _text(report.titles[row]), f"{norm:.4f}") for row, norm in s.outliers],
        right={0, 2},
    )
    return (
        f'<h2>Norms</h2><p class="soft">{said}</p><img alt="Histogram of all norms" src="{figures.norms(s)}">'
        f"<h2>Norms by shard, on the same axis{which}</h2>"
        f'<div class="small">{small}</div>'
        + (f"<h2>Outliers: {counted(s.outlier_count)}</h2>{outliers}" if s.outliers else "")
    )


def _rows(report: "Report") -> str:
    s = report.statistics

    def listed(rows: Iterable[int]) -> list[tuple[str, ...]]:
        return [(f"{row:,}", _text(report.titles[row])) for row in rows]

    parts = [
        _details(f"NaN or Inf: {counted(s.nan_count)}", ("row", "title"), listed(s.nan_rows)),
        _details(f"All zeros: {counted(s.zero_count)}", ("row", "title"), listed(s.zero_rows)),
        _details(
            f"Exact duplicates: {counted(s.duplicate_count)}",
            ("row", "title", "is the same as", "title"),
            [(f"{b:,}", _text(report.titles[b]), f"{a:,}", _text(report.titles[a])) for a, b in s.duplicates],
        ),
        f"<p>Near-duplicate shards: {len(s.alike_shards)}</p>",
    ]
    return f"<h2>Bad rows</h2>{''.join(parts)}"


def _space(report: "Report") -> str:
    s = report.statistics
    space = s.space
    return (
        f"<h2>Shape of the space</h2><p>On a sample of {len(space.rows):,} rows: random pairs have a mean cosine of "
        f"<b>{round(space.mean_cosine, 3) + 0.0:.3f}</b> (near 1: all vectors are huddled together); "
        "the effective dimension is "
        f"<b>{space.effective_dimension:.1f}</b> of {s.shape[1]:,}.</p>"
        "<h3>Spectrum</h3>"
        f'<img alt="Spectrum" src="{figures.spectrum(s)}">'
        "<h3>The sample in two dimensions, in the shards' colours</h3>"
        f'<img alt="Two principal components, coloured by shard" src="{figures.scatter(s)}">'
    )


def _neighbours(report: "Report") -> str:
    parts = []
    for each in report.neighbours:
        rows = [(f"{cosine:.4f}", _text(title), f"{row:,}") for row, title, cosine in each.nearest]
        parts.append(
            f"<h3 class='article'>{_text(each.title)} <span class='soft'>row {each.row:,}</span></h3>"
            + _table(("cosine", "nearest articles", "row"), rows, right={2})
        )
    return f"<h2>Do they make sense?</h2>{''.join(parts)}"


def _provenance(report: "Report") -> str:
    rows = []
    for chunk in report.metadata["chunk_info"]:
        nbytes = chunk.get("nbytes")
        rows.append(
            (
                _cluster(chunk),
                _text(chunk.get("filepath", "")),
                size(nbytes) if isinstance(nbytes, int) else "",
                _text(_when(chunk.get("mtime")), 40),
                _text(chunk.get("timestamp") or "", 40),
                f"{chunk['rate']:.1f}" if isinstance(chunk.get("rate"), float) else "",
                f"<code>{_text(chunk.get('sha256') or '', 64)}</code>",
            )
        )
    header = ("cluster", "file", "size", "written", "worker's timestamp", "rows/s", "sha256")
    made = ", ".join(f"{_text(name)} {_text(number)}" for name, number in report.versions.items())
    return f"<h2>Provenance</h2>{_table(header, rows, right={2, 5})}<p class='soft'>Report made by {made}</p>"


def _when(mtime: object) -> str:
    if not isinstance(mtime, int) or not 0 <= mtime < 1 << 40:
        return ""
    return datetime.fromtimestamp(min(mtime, 253_402_300_799), timezone.utc).isoformat(sep=" ", timespec="seconds")


def _details(summary: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"<p>{summary}</p>"
    return f"<details open><summary>{summary}</summary>{_table(header, rows)}</details>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: set[int] | None = None) -> str:
    """A table of cells that are HTML already; columns in `right` are numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="n">{value}</{tag}>' if column in (right or ()) else f"<{tag}>{value}</{tag}>"
            for column, value in enumerate(values)
        )

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", header)}</tr></thead><tbody>{lines}</tbody></table></div>'


def _name(chunk: Mapping[str, Any]) -> str:
    return _text(Path(str(chunk.get("filepath", ""))).name, 60)


def _cluster(chunk: Mapping[str, Any]) -> str:
    name = chunk.get("cluster")
    return _text(name if isinstance(name, str) else f"cluster {printable(chunk.get('cluster_id'), 20)}", 40)


def _text(value: object, limit: int = 200) -> str:
    return escape(printable(value, limit))

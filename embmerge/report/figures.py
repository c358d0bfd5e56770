"""The report's figures, drawn by matplotlib as SVG or PNG and returned as data URIs that a page can hold.

Grey text and lines on nothing: they read on a light page and on a dark one.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from embmerge.errors import UsageError
from embmerge.report.statistics import ShardFigures, Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind people can tell apart; it repeats, with the position in the bar to help.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b59f00", "#7f7f7f")
_GREY = "#808080"
_COLUMNS = 4  # of small histograms


def norms(statistics: Statistics) -> str:
    """The histogram of all rows' norms."""
    figure, axes = _figure(7, 2.6)
    _bars(axes, statistics.edges, statistics.histogram, PALETTE[0])
    axes.set_xlabel("norm")
    axes.set_ylabel("rows")
    return _svg(figure)


def shard_norms(statistics: Statistics, names: Sequence[str]) -> str:
    """One small histogram a shard, all on the same axis."""
    count = len(statistics.shards)
    lines = -(-count // _COLUMNS)
    figure, grid = _figure(7, 1.15 * lines + 0.4, rows=lines, columns=min(_COLUMNS, count), sharex=True)
    for number, axes in enumerate(list(getattr(grid, "flat", [grid]))):
        if number >= count:
            axes.set_visible(False)
            continue
        shard: ShardFigures = statistics.shards[number]
        _bars(axes, statistics.edges, shard.histogram, PALETTE[number % len(PALETTE)])
        axes.set_title(names[number], fontsize=7, color=_GREY, parse_math=False)
        axes.set_yticks([])
    return _svg(figure)


def spectrum(statistics: Statistics) -> str:
    """The shares of the variance by principal component."""
    figure, axes = _figure(7, 2.4)
    shares = [share for share in statistics.space.spectrum if share > 0][:200]
    axes.plot(range(1, len(shares) + 1), shares, color=PALETTE[0])
    if shares and min(shares) < max(shares):
        axes.set_yscale("log")
    axes.set_xlabel("principal component")
    axes.set_ylabel("share of variance")
    return _svg(figure)


def scatter(statistics: Statistics) -> str:
    """The sample in its two principal components, coloured by shard."""
    figure, axes = _figure(7, 4.2)
    space = statistics.space
    colours = [_GREY] * len(space.rows)
    for number, shard in enumerate(statistics.shards):
        for place, row in enumerate(space.rows):
            if shard.start <= row < shard.end:
                colours[place] = PALETTE[number % len(PALETTE)]
    axes.scatter(*zip(*space.points, strict=True), s=4, c=colours, alpha=0.6, linewidths=0)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    return _png(figure)


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, Any]":
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an extra
    except ModuleNotFoundError:
        raise UsageError("the report needs matplotlib", hint="pip install 'embmerge[report]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for each in list(getattr(axes, "flat", [axes])):
        each.set_facecolor("none")
        each.tick_params(colors=_GREY, labelsize=7)
        each.xaxis.label.set_color(_GREY)
        each.yaxis.label.set_color(_GREY)
        for side, spine in each.spines.items():
            spine.set_color(_GREY)
            spine.set_visible(side in {"left", "bottom"})
    return figure, axes


def _bars(axes: Any, edges: Sequence[float], counts: Sequence[int], colour: str) -> None:
    axes.stairs(counts, edges, fill=True, color=colour)


def _svg(figure: "Figure") -> str:
    import matplotlib as mpl  # noqa: PLC0415  an extra

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "embmerge", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _png(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, transparent=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

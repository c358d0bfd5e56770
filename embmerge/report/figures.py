"""The report's figures, drawn by matplotlib as SVG or PNG and returned as data URIs that a page can hold.

Grey text and lines on nothing: they read on a light page and on a dark one.
"""

import base64
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embmerge.errors import UsageError
from embmerge.report.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind people can tell apart; it repeats, with the position in the bar to help.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b59f00", "#7f7f7f")
_GREY = "#808080"
SMALL = 100  # shards that have a histogram of their own: matplotlib draws some ten in a second
_WIDTH = 5.0  # inches: its letters can be read on a phone, where a figure is two thirds as wide


def norms(statistics: Statistics) -> str:
    """The histogram of all rows' norms."""
    figure, axes = _figure(_WIDTH, 2.6)
    _bars(axes, statistics.edges, statistics.histogram, PALETTE[0])
    axes.set_xlabel("norm")
    axes.set_ylabel("rows")
    return _svg(figure)


def shard_norms(statistics: Statistics) -> list[str]:
    """A small histogram of each of the first `SMALL` shards, all on the same axis."""
    drawn = []
    for number, shard in enumerate(statistics.shards[:SMALL]):
        figure, axes = _figure(2.2, 1.2)
        _bars(axes, statistics.edges, shard.histogram, PALETTE[number % len(PALETTE)])
        axes.set_xlim(statistics.edges[0], statistics.edges[-1])
        axes.locator_params(axis="x", nbins=4)
        axes.set_yticks([])
        drawn.append(_svg(figure))
    return drawn


def spectrum(statistics: Statistics) -> str:
    """The shares of the variance by principal component."""
    figure, axes = _figure(_WIDTH, 2.4)
    shares = [share for share in statistics.space.spectrum if share > 0][:200]
    axes.plot(range(1, len(shares) + 1), shares, color=PALETTE[0])
    if shares and min(shares) < max(shares):
        axes.set_yscale("log")
    axes.set_xlabel("principal component")
    axes.set_ylabel("share of variance")
    return _svg(figure)


def scatter(statistics: Statistics) -> str:
    """The sample in its two principal components, coloured by shard."""
    figure, axes = _figure(_WIDTH, 4.2)
    space = statistics.space
    points, rows = np.array(space.points), np.array(space.rows)
    colours = np.full(len(rows), _GREY)
    for number, shard in enumerate(statistics.shards):
        colours[(rows >= shard.start) & (rows < shard.end)] = PALETTE[number % len(PALETTE)]
    order = np.random.default_rng(0).permutation(len(rows))  # or the last shard would cover the others
    axes.scatter(*points[order].T, s=5, c=colours[order], alpha=0.6, linewidths=0)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    return _png(figure)


def _figure(width: float, height: float) -> "tuple[Figure, Any]":
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that it cannot write to
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an extra
    except ModuleNotFoundError:
        raise UsageError("the report needs matplotlib", hint="pip install 'embmerge[report]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=_GREY, labelsize=9)
    axes.xaxis.label.set_color(_GREY)
    axes.yaxis.label.set_color(_GREY)
    for side, spine in axes.spines.items():
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

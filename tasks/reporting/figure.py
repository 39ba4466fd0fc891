"""The paper's Figure 1 from the tables: accuracy and silhouette against the layer, in a panel a curve."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from storage.errors import UserError
from storage.files import write_file
from storage.layout import Layout
from tasks.reporting.layer_curves import LayerCurves, SilhouetteCurve, Tables, answer_curves, layer_curves

# Okabe and Ito's palette, which readers with any colour vision can tell apart; dashes tell it in grey as well.
_ACCURACY = "#0072B2"
_SILHOUETTES = (("#D55E00", "-"), ("#009E73", (0, (5, 1.6))), ("#CC79A7", (0, (1, 1.2))), ("#E69F00", "-."))
_INK, _FAINT = "#222222", "#8a8a8a"
_KINDS = {"peak": "^", "trough": "v", "knee": "D"}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": "#444444",
    # Ids inside an SVG are hashed with a random salt, and its text would be drawn as paths that nobody can select.
    "svg.hashsalt": "layerscout",
    "svg.fonttype": "none",
}
_styling = threading.Lock()


def figure(tables: Tables) -> Figure:
    """Probe accuracy (left axis, 95 % band) and silhouettes (right axis, ± a standard error) against the layer.

    One panel per run × pooling × norm state in `tables`, the answer of each run first. Marked are the chosen layer
    (vertical line), the best and the last layer (on the accuracy) and the silhouettes' inflection points.

    Raises:
        ValueError: the tables hold no scored run.
    """
    panels = layer_curves(tables)
    if not panels:
        raise ValueError("the tables hold no scored run, so there is nothing to draw")
    columns = 1 if len(panels) == 1 else 2
    lines = -(-len(panels) // columns)
    several = len({panel.run["run_id"] for panel in panels}) > 1
    with _styled():
        drawn = Figure(
            figsize=(7.2 if columns == 1 else 11.0, 0.65 + 3.6 * lines), dpi=200, layout="constrained"
        )
        FigureCanvasAgg(drawn)
        grid = list(drawn.subplots(lines, columns, squeeze=False).flat)
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel, title=_title(panel, several, len(panels)))
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if not several:
            run = panels[0].run
            title = _literal(f"{run['model_id']} on {run['dataset_id']}")
            drawn.suptitle(title, fontsize=11.5, fontweight="bold")
        handles = _legend(panels)
        drawn.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 4 if columns == 1 else 8),
            frameon=False,
            fontsize=8.5,
            handlelength=2.2,
            columnspacing=1.4,
        )
    return drawn


def save_figure(tables: Tables, folder: str) -> tuple[str, str]:
    """Write `figure.png` and `figure.svg` into a folder, and return their URIs. Same tables, same bytes of SVG.

    Raises:
        ValueError: the tables hold no scored run.
    """
    drawn = figure(tables)
    uris = []
    for kind in ("png", "svg"):
        uri = Layout.figure(folder, kind)
        write_file(uri, _encoded(drawn, kind))
        uris.append(uri)
    return uris[0], uris[1]


def figure_file(tables: Tables, name: str) -> bytes:
    """The whole figure as the contents of a file of this name.

    Raises:
        UserError: the name ends with neither .png nor .svg.
        ValueError: the tables hold no scored run.
    """
    kind = name.rsplit(".", 1)[-1]
    if kind not in ("png", "svg"):
        raise UserError(f"--figure {name}: a figure is drawn as .png or .svg.")
    return _encoded(figure(tables), kind)


def answer_svg(tables: Tables) -> bytes:
    """The panel of the answer alone, as SVG: small enough to stand inside a page or an artifact.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    answer = answer_curves(tables)
    one = {
        name: frame.filter(pooling=answer.pooling, norm_state=answer.norm_state)
        if {"pooling", "norm_state"} <= set(frame.columns)
        else frame
        for name, frame in tables.items()
    }
    return _encoded(figure(one), "svg")


def _encoded(drawn: Figure, kind: str) -> bytes:
    """A figure as a file of `png` or `svg`; without the date, so that the same tables give the same bytes."""
    canvas: Any = FigureCanvasAgg(drawn) if kind == "png" else FigureCanvasSVG(drawn)
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    sink = io.BytesIO()
    with _styled():
        canvas.print_figure(sink, format=kind, dpi=200, metadata=metadata)
    return sink.getvalue()


@contextmanager
def _styled() -> Iterator[None]:
    # Matplotlib's settings belong to the process, and reports are drawn in worker threads.
    with _styling, mpl.rc_context(_STYLE):
        yield


def _title(panel: LayerCurves, several: bool, count: int) -> str:
    answer = " (the answer)" if panel.is_answer and count > 1 and not several else ""
    own = f"{panel.pooling} pooling, {panel.norm_state}{answer}"
    return f"{panel.run['model_id']} on {panel.run['dataset_id']}\n{own}" if several else own


def _draw_panel(left: Axes, panel: LayerCurves, title: str) -> None:
    left.set_title(_literal(title), fontsize=9.5, loc="left")
    left.set_xlabel("layer")
    left.set_xlim(-0.02 * panel.last - 0.2, panel.last * 1.02 + 0.2)
    left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    left.grid(axis="y", color=_INK, alpha=0.1, linewidth=0.7)
    left.set_axisbelow(True)
    if panel.chosen is not None:
        left.axvline(panel.chosen, color=_INK, linewidth=1.2, zorder=1)
        left.annotate(
            f"chosen {panel.chosen}",
            (panel.chosen, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4, -2) if panel.chosen > panel.last / 2 else (4, -2),
            textcoords="offset points",
            ha="right" if panel.chosen > panel.last / 2 else "left",
            va="top",
            fontsize=8.5,
            fontweight="bold",
        )
    if panel.chosen != panel.deepest:
        left.axvline(panel.deepest, color=_FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    right = left.twinx()
    # The accuracy is what the reader is after, so it lies on top of the silhouettes.
    left.set_zorder(right.get_zorder() + 1)
    left.patch.set_visible(False)
    for curve, (colour, dashes) in zip(panel.silhouettes, _styles(panel), strict=True):
        _draw_silhouette(right, curve, colour, dashes)
    _colour_axis(right, "right", "mean silhouette", _silhouette_axis(panel))
    right.spines["left"].set_visible(False)
    if not panel.silhouettes:
        right.set_axis_off()
    if panel.accuracy is None:
        left.set_yticks([])
        return
    accuracy = panel.accuracy
    left.fill_between(accuracy.layers, accuracy.low, accuracy.high, color=_ACCURACY, alpha=0.16, linewidth=0)
    left.plot(accuracy.layers, accuracy.accuracy, color=_ACCURACY, linewidth=1.9)
    # Headroom for the words at the chosen layer.
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.12 * (high - low))
    accuracy_of = accuracy.by_layer
    for layer, marker, size in ((panel.deepest, "s", 5.5), (panel.best, "*", 13.0), (panel.chosen, "o", 6.5)):
        if layer is not None and layer in accuracy_of:
            star = marker == "*"
            left.plot(
                layer,
                accuracy_of[layer],
                marker=marker,
                # Chosen and best are often one layer: the star then stands around the disc.
                markersize=17.0 if star and layer == panel.chosen else size,
                color="white" if star else _ACCURACY,
                markeredgecolor=_INK if star else "white",
                markeredgewidth=0.9,
                zorder=4,
            )
    left.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None, symbol=" %"))
    _colour_axis(left, "left", f"{panel.measure.axis} on test rows", _ACCURACY)


def _draw_silhouette(axes: Axes, curve: SilhouetteCurve, colour: str, dashes: Any) -> None:
    low = [mean - error for mean, error in zip(curve.mean, curve.error, strict=True)]
    high = [mean + error for mean, error in zip(curve.mean, curve.error, strict=True)]
    axes.fill_between(curve.layers, low, high, color=colour, alpha=0.16, linewidth=0)
    mean_of = dict(zip(curve.layers, curve.mean, strict=True))
    comparable = [layer for layer in curve.layers if layer <= curve.ends]
    axes.plot(
        comparable, [mean_of[layer] for layer in comparable], color=colour, linewidth=1.5, linestyle=dashes
    )
    if comparable[-1] != curve.layers[-1]:
        # The step into the final norm is no step of the curve, so it is drawn apart.
        step = [comparable[-1], curve.layers[-1]]
        axes.plot(step, [mean_of[layer] for layer in step], color=colour, linewidth=1.0, linestyle=":")
    for point in curve.points:
        axes.plot(
            point["layer"],
            mean_of[point["layer"]],
            marker=_KINDS[point["kind"]],
            markersize=5.0 if point["kind"] == "knee" else 7.0,
            color="white",
            markeredgecolor=colour,
            markeredgewidth=1.4,
        )


def _colour_axis(axes: Axes, side: str, label: str, colour: str) -> None:
    axes.set_ylabel(label, color=colour)
    axes.tick_params(axis="y", colors=colour)
    axes.spines[side].set_color(colour)


def _silhouette_axis(panel: LayerCurves) -> str:
    """The axis has the colour of its curve when it is the only one."""
    return _SILHOUETTES[0][0] if len(panel.silhouettes) == 1 else "#444444"


def _styles(panel: LayerCurves) -> list[tuple[str, Any]]:
    return [_SILHOUETTES[number % len(_SILHOUETTES)] for number in range(len(panel.silhouettes))]


def _legend(panels: list[LayerCurves]) -> list[Line2D]:
    handles = []
    if any(panel.accuracy for panel in panels):
        names = "/".join(dict.fromkeys(panel.measure.name for panel in panels))
        handles.append(Line2D([], [], color=_ACCURACY, linewidth=1.9, label=f"{names}, 95 % band"))
    widest = max(panels, key=lambda panel: len(panel.silhouettes))
    for curve, (colour, dashes) in zip(widest.silhouettes, _styles(widest), strict=True):
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                linestyle=dashes,
                linewidth=1.5,
                label=f"{_literal(curve.name)} silhouette ± s.e.",
            )
        )
    kinds = {point["kind"] for panel in panels for curve in panel.silhouettes for point in curve.points}
    for kind, marker in _KINDS.items():
        if kind in kinds:
            handles.append(_marker(marker, kind, "white", "#444444"))
    if any(panel.accuracy for panel in panels):
        handles.append(_marker("o", "chosen layer", _ACCURACY, _ACCURACY))
        handles.append(_marker("*", "best layer", "white", _INK))
        names = " and ".join(sorted({panel.deepest_name for panel in panels}))
        handles.append(_marker("s", f"{names} layer", _ACCURACY, _ACCURACY))
    return handles


def _marker(marker: str, label: str, fill: str, edge: str) -> Line2D:
    size = 10 if marker == "*" else 6
    return Line2D(
        [], [], linestyle="", marker=marker, color=fill, markeredgecolor=edge, markersize=size, label=label
    )


def _literal(text: str) -> str:
    """Matplotlib reads text between dollar signs as a formula."""
    return text.replace("$", r"\$")

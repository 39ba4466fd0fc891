"""The figure shows what the tables hold, and the same tables give the same file."""

from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_hex

from tasks.reporting.figure import figure, save_figure
from tests.tasks.reporting.run_tables import run_tables


def lines_of(axes, colour):
    return [
        line for line in axes.get_lines() if to_hex(line.get_color()) == colour and len(line.get_xdata()) > 1
    ]


def test_a_panel_draws_accuracy_and_silhouettes_of_its_tables():
    tables = run_tables(poolings=("mean",))
    left, right = figure(tables).axes
    (accuracy,) = lines_of(left, "#0072b2")
    np.testing.assert_array_equal(accuracy.get_ydata(), tables["probe"].sort("layer")["accuracy"])
    cosine, step = lines_of(right, "#d55e00")
    expected = tables["silhouette"].filter(metric="cosine").sort("layer")["mean"]
    np.testing.assert_array_equal(cosine.get_ydata(), expected[:-1])
    # The last layer alone has passed the final norm: the step to it is drawn apart.
    np.testing.assert_array_equal(step.get_ydata(), expected[-2:])
    assert "chosen 7" in [text.get_text() for text in left.texts]


def test_the_band_is_the_interval():
    tables = run_tables(poolings=("mean",))
    band = figure(tables).axes[0].collections[0].get_paths()[0].get_extents()
    probe = tables["probe"]
    assert band.y0 == pytest.approx(probe["accuracy_low"].min())
    assert band.y1 == pytest.approx(probe["accuracy_high"].max())


def test_a_panel_per_run_pooling_and_norm_state():
    one = run_tables(norm_states=("as_returned", "final_norm"))
    other = run_tables(poolings=("mean",), run_id="ffff", dataset_id="wheel:reuters-r8")
    both = {name: pl.concat([one[name], other[name]]) for name in one}
    titles = [axes.get_title(loc="left") for axes in figure(both).axes if axes.get_title(loc="left")]
    assert len(titles) == 5
    assert sum("wheel:reuters-r8" in title for title in titles) == 1


def test_silhouettes_alone_and_a_probe_alone_are_drawn():
    tables = run_tables(poolings=("mean",))
    for missing in ("probe", "silhouette"):
        without = {name: frame for name, frame in tables.items() if name != missing}
        assert len(figure(without).axes) == 2


def test_no_scored_run_is_refused():
    with pytest.raises(ValueError, match="no scored run"):
        figure({})


def test_files_are_written_and_equal_when_drawn_in_threads(tmp_path):
    tables = run_tables(model_id="path:cost$model$_x")
    before = dict(mpl.rcParams)
    folders = [str(tmp_path / name) for name in ("one", "two", "three")]
    with ThreadPoolExecutor(3) as pool:
        uris = list(pool.map(lambda folder: save_figure(tables, folder), folders))
    assert uris[0] == (f"{folders[0]}/figure.png", f"{folders[0]}/figure.svg")
    svgs = {(tmp_path / name / "figure.svg").read_bytes() for name in ("one", "two", "three")}
    assert len(svgs) == 1
    drawn = svgs.pop().decode()
    assert "cost$model$_x" in drawn
    assert "<dc:date>" not in drawn
    assert (tmp_path / "one" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before

"""The page of many runs says what their views hold, and lets no data become markup."""

import base64
from pathlib import Path

import polars as pl
import pytest

from storage.results import query
from tasks.reporting.grid_report import SHOWN, render_grid
from tests.cookbook import example_storage
from tests.tasks.reporting.test_report import Page, section

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """Those of the cookbook's eight runs."""
    storage: Path = tmp_path_factory.mktemp("example")
    example_storage(storage)
    return {view: query(f"{storage}/results.duckdb", f"SELECT * FROM {view}") for view in SHOWN}


def test_every_run_stands_with_its_answer(views: dict[str, pl.DataFrame]) -> None:
    html = render_grid(views, SVG)
    page = Page(html)
    assert page.all("h1") == [
        "8 runs; the chosen layer: 4 level with the last layer, within noise; 4 is the last layer."
    ]
    assert page.all("h2") == [
        "Accuracy over depth",
        "Where these layers lie",
        "What prompts and further layers gain",
        "Accuracy against cost",
        "The answer of each run",
        "Every curve",
        "Models at equal depth",
        "Which rule predicts best",
        "The paper’s claims",
        "What changed",
        "What it cost",
    ]
    assert set(views["leaderboard"]["run_id"]) <= set(page.all("small"))
    assert base64.b64encode(SVG).decode() in html
    depths = Page(section(html, "depth-title"))
    lines = [attributes for tag, attributes in depths.tags if tag == "path" and "line" in attributes["class"]]
    assert len(lines) == 8
    links = [value for _, a in page.tags for name, value in a.items() if name in ("src", "href")]
    assert not [link for link in links if not link.startswith(("#", "data:"))]


def test_the_map_has_every_layer_of_every_curve_and_its_marks(views: dict[str, pl.DataFrame]) -> None:
    atlas = views["atlas"]
    page = Page(section(render_grid(views, SVG), "atlas-title"))
    cells = [
        attributes for tag, attributes in page.tags if tag == "i" and attributes.get("role") == "gridcell"
    ]
    assert len(cells) == atlas.height
    for cell, row in zip(cells, atlas.to_dicts(), strict=True):
        assert cell["title"].startswith(
            f"layer {row['layer']} of {row['layers']}: {100 * row['accuracy']:.1f} %"
        )
        marks = {"c": row["is_chosen"], "b": row["is_best"], "t": row["is_turning"]}
        assert cell.get("class", "").split() == [mark for mark, there in marks.items() if there]
        shade = float(cell["style"].removeprefix("--v:"))
        assert shade == pytest.approx(max(0, 1 - row["regret"] / 0.05), abs=0.0051)
    lengths = [row["text_tokens"] for row in atlas.filter(family="bert", kind="two classes").to_dicts()]
    assert lengths == sorted(lengths)
    assert atlas["family"].to_list() == sorted(atlas["family"])


def test_numbers_and_sets_of_labels_have_no_classes_and_of_the_first_layers_the_deepest_is_named(
    views: dict[str, pl.DataFrame],
) -> None:
    classes = pl.when(pl.col("family") == "bert").then(pl.lit("a number")).otherwise("kind").alias("kind")
    deeper = pl.col("layers") + 2
    changed = views | {"atlas": views["atlas"].with_columns(classes, layers=deeper)}
    html = section(render_grid(changed, SVG), "atlas-title")
    before = section(render_grid(views, SVG), "atlas-title")
    assert 0 < html.count(" classes, ") < before.count(" classes, ")
    assert html.count(" tokens a text") == before.count(" tokens a text")
    titles = [a["title"] for tag, a in Page(html).tags if tag == "i" and a.get("role") == "gridcell"]
    assert all("the deepest run" in title for title in titles)
    assert not any("the last layer" in title for title in titles)


def test_where_layers_lie_counts_them_all(views: dict[str, pl.DataFrame]) -> None:
    page = Page(section(render_grid(views, SVG), "where-title"))
    counts = [int(text) for text in page.all("b")]
    of_marks = [counts[start : start + 11] for start in range(0, 33, 11)]
    sums = [views["atlas"][mark].sum() for mark in ("is_best", "is_chosen", "is_turning")]
    assert [sum(each) for each in of_marks] == sums


def test_the_cheapest_near_the_best_of_each_data_set_stands_in_its_row(
    views: dict[str, pl.DataFrame],
) -> None:
    page = Page(section(render_grid(views, SVG), "pareto-title").split("</table>")[0])
    near = views["pareto"].filter("is_cheapest_near_best").to_dicts()
    told = page.all("td")
    for row in near:
        place = told.index(
            f"{row['model_id'].removeprefix('wheel:')}, layer {row['layer']} of {row['layers']} "
        )
        assert f"{100 * row['accuracy']:.1f} %" in told[place:]
        assert f"{row['milliseconds_per_text']:.2f}" in told
    assert len(near) == 5


def test_what_each_run_cost_is_told_in_its_row(views: dict[str, pl.DataFrame]) -> None:
    cost = Page(section(render_grid(views, SVG), "cost-title"))
    columns = ["tokens", "embedding", "silhouettes", "criteria", "probes", "start to end"]
    assert cost.all("th")[:8] == ["model", "data set", *columns]
    assert cost.all("th")[8:] == views["cost"]["model_id"].to_list()
    cells = cost.all("td")
    told = [cells[start : start + 7] for start in range(0, len(cells), 7)]
    names = ("embedding", "silhouette", "criterion", "probe", "first")
    assert told == [
        [row["dataset_id"], f"{row['tokens']:,}", *(seconds_of(row[f"{name}_seconds"]) for name in names)]
        for row in views["cost"].to_dicts()
    ]
    assert len(told) == 8


def seconds_of(spent: float | None) -> str:
    """As the page shows them, below a minute and from there on."""
    if spent is None:
        return "–"
    return f"{spent:.1f} s" if spent < 60 else f"{round(spent) // 60} min {round(spent) % 60} s"


def test_one_run_alone_is_shown_without_what_needs_more(views: dict[str, pl.DataFrame]) -> None:
    run_id = views["leaderboard"]["run_id"].to_list()[0]
    own = {
        name: frame.filter(run_id=run_id)
        for name, frame in views.items()
        if name in ("leaderboard", "certainty")
    }
    page = Page(render_grid(own, SVG))
    assert page.all("h2") == ["The answer of each run", "Every curve"]
    with pytest.raises(ValueError, match="nothing to compare"):
        render_grid({}, SVG)


def test_data_never_becomes_markup(views: dict[str, pl.DataFrame]) -> None:
    evil = '"><script>alert(1)</script>'
    changed = {
        name: frame.with_columns(model_id=pl.lit(evil), dataset_id=pl.lit(evil))
        if "model_id" in frame.columns
        else frame
        for name, frame in views.items()
    }
    page = Page(render_grid(changed, SVG))
    assert [tag for tag, _ in page.tags].count("script") == 1  # ours, which holds no data
    assert evil in page.all("th")

"""The page says what the tables hold, leaves out what they do not, and lets no data become markup."""

import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from tasks.reporting.report import render_report
from tests.tasks.reporting.run_tables import EMOTIONS, confusion_of, projection_of, run_tables


class Page(HTMLParser):
    """The text of every element by tag, the attributes of every tag, and the ids."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [text for name, text in self.texts if name == tag]


def section(html, title):
    """The markup of the section whose heading has this id."""
    return html.split(f'<section aria-labelledby="{title}">')[1].split("</section>")[0]


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_of_the_first_layers_alone_no_final_norm_is_spoken_of():
    tables = {
        name: rows.filter(pl.col("layer") <= 20) if "layer" in rows.columns else rows
        for name, rows in run_tables().items()
    }
    for ends, is_told in ((20, False), (19, True)):
        tables["trend"] = tables["trend"].with_columns(to_layer=pl.lit(ends, dtype=pl.Int32))
        page = render_report(tables)
        assert ("The last layer alone has passed the model's final norm" in page) == is_told


def test_every_section_is_there_when_there_is_data_for_it():
    page = render_report(run_tables(), confusion=confusion_of(), projection=projection_of())
    assert Page(page).all("h2") == [
        "Layer by layer",
        "Which classes separate where",
        "Trends and inflection points",
        "Criteria compared",
        "What attention falls on",
        "What pooling changes",
        "Where the errors go",
        "A sample of texts in two dimensions",
        "What it cost",
        "Repeat it",
    ]


def test_sections_without_data_are_left_out():
    tables = {
        name: frame for name, frame in run_tables(poolings=("mean",)).items() if name in ("run", "silhouette")
    }
    page = Page(render_report(tables))
    assert page.all("h2") == ["Layer by layer", "Criteria compared", "Repeat it"]
    assert page.all("h1")[0].startswith("No layer of wheel:smollm2-135m has been chosen")


def test_the_answer_stands_first_with_its_reason_and_figures():
    page = Page(render_report(run_tables()))
    (sentence,) = page.all("h1")
    assert sentence.startswith("Take layer 7 of 30 (mean pooling): 68.")
    assert "p\u00a0<\u00a00.001" in sentence
    assert any("highest ridge leave-one-out accuracy" in text for text in page.all("p"))
    assert {"7 of 30", "94 %", "+6.4 points"} <= set(page.all("b"))


def test_the_drawn_curves_are_those_of_the_tables():
    tables = run_tables(norm_states=("as_returned", "final_norm"))
    groups = data_of(render_report(tables))["groups"]
    assert len(groups) == 4
    for group in groups:
        where = {"pooling": group["pooling"], "norm_state": group["norm"]}
        probe = tables["probe"].filter(**where).sort("layer")
        np.testing.assert_allclose(group["accuracy"]["y"], probe["accuracy"], atol=1e-5)
        np.testing.assert_allclose(group["accuracy"]["low"], probe["accuracy_low"], atol=1e-5)
        for metric, drawn in group["silhouettes"].items():
            row = tables["silhouette"].filter(**where, metric=metric).sort("layer")
            np.testing.assert_allclose(drawn["y"], row["mean"], atol=1e-5)
            np.testing.assert_allclose(drawn["high"], row["mean"] + row["standard_error"], atol=1.1e-5)
            by_class = tables["silhouette_by_class"].filter(**where, metric=metric)
            for each in drawn["classes"]:
                expected = by_class.filter(label=each["label"]).sort("layer")["mean"]
                np.testing.assert_allclose(each["y"], expected, atol=5.1e-4)
    assert sorted(each["label"] for each in groups[0]["silhouettes"]["cosine"]["classes"]) == sorted(EMOTIONS)


def criteria_of(html, *, group=0):
    """The cells of "Criteria compared" of one pooling and norm state, by the name of the score."""
    table = section(html, "criteria-title").split('aria-label="Criteria"')[group + 1].split("</table>")[0]
    rows = [Page(row) for row in table.split("<tr>")[1:]]
    return {row.all("th")[0]: row.all("td") for row in rows if row.all("td")}


def test_what_a_score_led_to_is_read_from_its_audit():
    tables = run_tables(poolings=("mean",))
    told = {"layer": 5, "regret": 0.0123, "rank_correlation": -0.37}
    tables["score_audit"] = tables["score_audit"].with_columns(
        pl.when(pl.col("score").is_in(["silhouette:cosine", "criterion:ridge_loo"]))
        .then(pl.lit(value))
        .otherwise(pl.col(name))
        .alias(name)
        for name, value in told.items()
    )
    shown = criteria_of(render_report(tables))
    accuracy = tables["probe"].filter(layer=5)["accuracy"].item()
    expected = ["layer 5", f"{100 * accuracy:.1f} %", "1.2 points", "−0.37"]
    assert shown["cosine silhouette"] == shown["ridge leave-one-out"] == expected
    (other,) = tables["score_audit"].filter(score="silhouette:euclidean").to_dicts()
    there = tables["probe"].filter(layer=other["layer"])["accuracy"].item()
    assert shown["euclidean silhouette"] == [
        f"layer {other['layer']}",
        f"{100 * there:.1f} %",
        f"{100 * other['regret']:.1f} points",
        f"{other['rank_correlation']:.2f}",
    ]
    # By what was lost, least first.
    order = tables["score_audit"].sort("regret")["score"].to_list()
    assert list(shown).index("effective rank") == order.index("criterion:effective_rank") == len(order) - 1


def test_what_attention_falls_on_stands_beside_the_accuracy_of_the_answer():
    tables = run_tables(layers=4)
    accuracy = tables["probe"].filter(pooling="mean").sort("layer")["accuracy"]
    values = [0.2, 0.4, 0.1, 0.3]
    sink = {"measure": "sink_mass", "layer": range(4), "value": values, "standard_error": 0.0, "texts": 200}
    tables["attention"] = pl.DataFrame({"run_id": tables["run"]["run_id"][0], **sink})
    shown = Page(section(render_report(tables), "attention-title"))
    cells = [text.strip() for text in shown.all("td") if text.strip()]
    chosen = tables["layer_choice"].filter("is_answer", pooling="mean")["layer"][0]
    follows = spearmanr(values, accuracy[:4]).statistic
    assert "share on the first token" in shown.all("th")
    assert cells == ["0.10", "0.40", f"{values[chosen]:.2f}", f"{follows:.2f}".replace("-", "−")]
    assert shown.all("small") == ["layer 2", "layer 1"]
    assert "attention-title" not in render_report(tables | {"attention": tables["attention"].clear()})


def test_scores_of_another_space_and_of_runs_that_were_not_audited_lead_nowhere():
    tables = run_tables(poolings=("mean",), metrics=("cosine",))
    centred = tables["silhouette"].with_columns(space=pl.lit("centred"))
    tables["silhouette"] = pl.concat([tables["silhouette"], centred])
    shown = criteria_of(render_report(tables))
    assert shown["cosine_centred silhouette"] == ["–"] * 4
    layer = tables["score_audit"].filter(score="silhouette:cosine")["layer"].item()
    assert shown["cosine silhouette"][0] == f"layer {layer}"
    assert list(shown)[-1] == "cosine_centred silhouette"
    del tables["score_audit"]
    page = render_report(tables)
    shown = criteria_of(page)
    assert len(shown) == 5
    assert all(cells == ["–"] * 4 for cells in shown.values())
    assert "<circle" not in section(page, "criteria-title")


def test_data_never_becomes_markup():
    evil = "</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"
    classes = (*EMOTIONS[:3], evil)
    tables = run_tables(model_id=f"path:{evil}", dataset_id=evil, classes=classes)
    tables["layer_choice"] = tables["layer_choice"].with_columns(reason=pl.lit(evil))
    page = render_report(tables, confusion=confusion_of(classes), projection=projection_of(classes))
    read = Page(page)
    assert [tag for tag, _ in read.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in read.tags}
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert data_of(page)["classes"][-1] == evil
    assert any(evil in text for text in read.all("option"))


def test_the_page_reaches_for_nothing():
    page = render_report(run_tables(), confusion=confusion_of(), projection=projection_of())
    links = [
        value
        for _, attributes in Page(page).tags
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert sorted(links) == ["#main", "data:,"]
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_the_command_repeats_the_run():
    tables = run_tables(dataset_id="path:my data/it's")
    command = shlex.split(Page(render_report(tables)).all("code")[0])
    assert command[:2] == ["layerscout", "sweep"]
    flags = list(zip(command[2::2], command[3::2], strict=True))
    assert ("--dataset", "path:my data/it's") in flags
    assert [value for flag, value in flags if flag == "--pooling"] == ["last", "mean"]
    assert ("--max-train-rows", "4000") in flags
    assert "--text-column" not in command


def test_a_value_that_begins_with_a_dash_is_no_flag_of_the_command():
    tables = run_tables()
    parameters = json.loads(tables["run"]["parameters"].item()) | {"prompt": "- {text}"}
    tables["run"] = tables["run"].with_columns(parameters=pl.lit(json.dumps(parameters)))
    assert "--prompt=- {text}" in shlex.split(Page(render_report(tables)).all("code")[0])


def test_notes_warn_of_what_weakens_the_answer():
    tables = run_tables()
    assert not any("cut at" in text for text in Page(render_report(tables)).all("li"))
    tables["embedding_set"] = tables["embedding_set"].with_columns(truncated_share=pl.lit(0.123))
    tables["dataset"] = tables["dataset"].with_columns(test_is_made=pl.lit(True))
    tables["layer_choice"] = tables["layer_choice"].with_columns(confidence=pl.lit(0.41))
    tables["probe"] = tables["probe"].with_columns(
        converged=~pl.col("layer").is_in([3, 9]), majority_accuracy=pl.lit(0.9)
    )
    notes = " ".join(Page(render_report(tables)).all("li"))
    assert "12.3 % of the texts were cut at 128 tokens." in notes
    assert "no test split" in notes
    assert "41 % likely to be within half a point" in notes
    assert "did not converge at layer 3, 9." in notes
    assert "always naming the largest class is right on 90.0 %" in notes


def test_notes_say_what_was_ordered_by_time():
    tables = run_tables()
    parameters = json.loads(tables["run"]["parameters"][0]) | {"time_column": "day"}
    tables["run"] = tables["run"].with_columns(parameters=pl.lit(json.dumps(parameters)))
    notes = " ".join(Page(render_report(tables)).all("li"))
    assert "No test row is earlier by day than a train row" in notes
    assert "no test split" not in notes
    tables["dataset"] = tables["dataset"].with_columns(test_is_made=pl.lit(True))
    assert "no test split of its own: the latest rows by day were taken." in " ".join(
        Page(render_report(tables)).all("li")
    )


def test_recall_by_class_is_that_of_the_matrices():
    confusion = {"chosen": np.array([[8, 2], [1, 9]]), "last": np.array([[5, 5], [1, 9]])}
    tables = run_tables(classes=("ham", "spam"))
    page = render_report(tables, confusion=confusion)
    assert data_of(page)["confusion"] == {"chosen": [[8, 2], [1, 9]], "last": [[5, 5], [1, 9]]}
    cells = Page(page).all("td")
    start = cells.index("+30.0") - 3
    assert cells[start : start + 8] == ["10", "80.0 %", "50.0 %", "+30.0", "10", "90.0 %", "90.0 %", "0.0"]


def test_a_last_layer_that_was_chosen_is_shown_once():
    tables = run_tables()
    for name, column in (("layer_choice", "layer"), ("audit", "chosen_layer")):
        tables[name] = tables[name].with_columns(pl.lit(30).alias(column))
    shown = Page(render_report(tables, confusion=confusion_of(), projection=projection_of())).all(
        "figcaption"
    )
    assert "chosen layer 30, which is the last" in shown
    assert not [text for text in shown if text.startswith("last layer")]
    assert [text.strip() for text in shown if text.startswith("layer ")] == [
        "layer 0",
        "layer 7",
        "layer 30, chosen and last",
    ]


def test_what_it_cost_is_told_by_stage():
    tables = run_tables()
    cost = Page(section(render_report(tables), "cost-title"))
    # 31 layers of 2 poolings: 0.05 s a criterion, 0.21 s a probe.
    stages = {
        "embedding every layer, once for all runs": "2 min 28 s",
        "effective rank": "3.1 s",
        "LogME": "3.1 s",
        "ridge leave-one-out": "3.1 s",
        "probing every layer, to audit the choice": "13.0 s",
    }
    assert dict(zip(cost.all("dt"), cost.all("b"), strict=True)) == stages
    assert [attributes["style"] for tag, attributes in cost.tags if tag == "span"] == [
        f"--v:{spent / 148.3:.4f}" for spent in (148.3, 3.1, 3.1, 3.1, 13.02)
    ]
    whole, embedded = cost.all("p")
    assert whole.startswith("3 min 56 s from start to end on AMD EPYC, 2 cores. Stages below")
    assert embedded == (
        "6,000 texts, 131,482 tokens in 12 shards, 887 tokens a second; 0.1 % of the texts were cut at 128 tokens."
    )


def test_what_a_repeat_and_recorded_silhouettes_cost_is_told():
    tables = run_tables()
    repeat = tables["execution"].with_columns(
        pl.col("started_at", "finished_at").dt.offset_by("1d"),
        flow_run_id=pl.lit("repeat"),
        seconds=pl.lit(2.5),
    )
    tables["execution"] = pl.concat([repeat, tables["execution"]])
    tables["silhouette"] = tables["silhouette"].with_columns(seconds=pl.lit(0.5))
    cost = Page(section(render_report(tables), "cost-title"))
    assert cost.all("p")[0].startswith(
        "3 min 56 s from start to end on AMD EPYC, 2 cores. The newest repeat, reusing what was there, took 2.5 s."
    )
    stages = dict(zip(cost.all("dt"), cost.all("b"), strict=True))
    assert list(stages)[1:3] == ["cosine silhouettes", "euclidean silhouettes"]
    # 31 layers of 2 poolings, half a second each.
    assert (stages["cosine silhouettes"], stages["euclidean silhouettes"]) == ("31.0 s", "31.0 s")


def test_a_confusion_of_another_size_is_refused():
    with pytest.raises(ValueError, match="6 classes"):
        render_report(run_tables(), confusion=confusion_of(EMOTIONS[:3]))


def test_every_sampled_text_is_a_dot_and_classes_beyond_the_palette_share_a_grey():
    classes = tuple(f"class {number}" for number in range(52))
    page = Page(render_report(run_tables(classes=classes), projection=projection_of(classes, rows=300)))
    dots = [attributes for tag, attributes in page.tags if tag == "circle" and attributes["r"] == "2.6"]
    assert len(dots) == 3 * 300
    assert all(0 <= float(dot[axis]) <= 300 for dot in dots for axis in ("cx", "cy"))
    colours = [attributes["class"] for tag, attributes in page.tags if tag == "g"]
    assert sorted(set(colours)) == ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "crest"]
    assert "other classes" in page.all("li")

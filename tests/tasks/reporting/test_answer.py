"""The answer in words and in tables, from made-up tables of a run."""

import polars as pl
import pytest

from tasks.reporting.answer import (
    answer_markdown,
    answer_sentence,
    key_figures,
    layer_table,
    p_value,
    percent,
    points,
)
from tasks.reporting.layer_curves import answer_curves, layer_curves
from tests.tasks.reporting.run_tables import run_tables


def changed(tables, table, **values):
    """The tables with some columns of one table overwritten."""
    columns = [pl.lit(value).alias(name) for name, value in values.items()]
    return tables | {table: tables[table].with_columns(columns)}


def test_a_better_layer_is_taken():
    sentence = answer_sentence(run_tables(gain=(0.041, 0.087)))
    assert sentence.startswith("Take layer 7 of 30 (mean pooling): 68.")
    assert "6.4 points better than the last layer (95 % interval +4.1 to +8.7, p < 0.001)." in sentence


def test_a_layer_within_noise_of_the_last_is_said_to_be_level():
    sentence = answer_sentence(run_tables(gain=(-0.011, 0.021), norm_states=("final_norm",)))
    assert "(mean pooling, final_norm)" in sentence
    assert (
        "level with the last layer within noise (+0.5 points, 95 % interval −1.1 to +2.1, p = 0.40)"
        in sentence
    )
    assert "at 7 of 30 blocks." in sentence
    assert sentence.endswith("It is within half a point of the best layer with 94 % confidence.")


def test_a_worse_layer_is_advised_against():
    sentence = answer_sentence(run_tables(gain=(-0.04, -0.01)))
    assert sentence.startswith("Keep the last layer: the rule chose layer 7 of 30")
    assert "2.5 points worse than the last layer" in sentence
    # Not the last one, which the sentence began with.
    assert sentence.endswith("Layer 7 is within half a point of the best layer with 94 % confidence.")


def test_the_layer_table_is_not_rounded_before_it_is_shown():
    tables = changed(run_tables(), "probe", accuracy=1153 / 1289)
    assert {row["accuracy"] for row in layer_table(tables)} == {1153 / 1289}  # 89.4 %, and of 0.8945 89.5 %


def test_the_last_layer_chosen_is_kept():
    tables = changed(run_tables(), "layer_choice", layer=30)
    assert answer_sentence(tables).startswith("Keep the last layer, layer 30 of 30 (mean pooling): ")


def test_of_the_first_layers_alone_the_deepest_is_not_called_the_last():
    whole = run_tables(gain=(0.041, 0.087))
    tables = {
        name: rows.filter(pl.col("layer") <= 20) if "layer" in rows.columns else rows
        for name, rows in whole.items()
    }
    assert "6.4 points better than layer 20, the deepest run (95 % interval" in answer_sentence(tables)
    level = changed(tables, "audit", gain_low=-0.01)
    assert " classified correctly, level with layer 20, the deepest run, within noise (" in answer_sentence(
        level
    )
    shown = {name: note for name, _, note in key_figures(answer_curves(tables))}
    assert shown["test accuracy"].startswith("layer 20, the deepest run ")
    kept = answer_sentence(changed(tables, "layer_choice", layer=20))
    assert kept.startswith("Take layer 20 of 30 (mean pooling), the deepest run: ")
    marked = {row["layer"]: row["marks"] for row in layer_table(tables)}
    assert "deepest" in marked[20]
    assert not any("last" in mark for mark in marked.values())


def test_layer_0_is_named_for_what_it_is():
    tables = changed(run_tables(), "layer_choice", layer=0)
    assert answer_sentence(tables).startswith("Take layer 0 of 30 (the embedding output, mean pooling): ")


def test_what_needs_no_model_comes_first():
    tables = run_tables()
    as_good = tables["baseline"].with_columns(
        accuracy=pl.when(name="text").then(pl.lit(0.7)).otherwise(pl.col("accuracy"))
    )
    sentence = answer_sentence(tables | {"baseline": as_good})
    assert sentence.startswith(
        "The words alone do as well without the model: TF-IDF is right on 70.0 %. Take layer 7"
    )
    behind = changed(
        tables | {"baseline": as_good}, "audit", gain_over_text_low=-0.03, gain_over_text_high=-0.01
    )
    assert answer_sentence(behind).startswith(
        "The words alone do better without the model: TF-IDF is right on 70.0 %."
    )
    none = as_good.with_columns(accuracy=pl.lit(0.75))
    sentence = answer_sentence(tables | {"baseline": none})
    assert sentence.startswith(
        "Nothing was read from this model: always naming the largest class is right on 75.0 %."
    )
    assert "TF-IDF" not in sentence
    assert ("words alone", "55.0 %") in [figure[:2] for figure in key_figures(answer_curves(tables))]


def test_test_rows_that_are_not_like_train_rows_are_told():
    tables = run_tables()
    assert "not like train rows" not in answer_sentence(tables)
    shifted = answer_sentence(changed(tables, "audit", shift_p_value=0.0004, held_out_accuracy=0.81))
    assert shifted.endswith(
        "Test rows are not like train rows: on train rows that it was not fitted on, the same layer is right on "
        "81.0 % (p < 0.001)."
    )


def test_a_run_of_an_older_version_is_told_without_what_it_did_not_know():
    tables = run_tables()
    older = tables | {
        "layer_choice": tables["layer_choice"].drop("expected_regret"),
        "audit": tables["audit"].select(
            pl.exclude("^gain_over_text.*$", "held_out_accuracy", "shift_p_value")
        ),
        "baseline": tables["baseline"].clear(),
    }
    assert answer_sentence(older).endswith("p < 0.001).")
    assert ("confidence", "94 %", "of redrawn rows agree") in key_figures(answer_curves(older))


def test_a_curve_ends_where_its_trend_does():
    tables = run_tables(poolings=("mean",))
    assert {each.ends for each in layer_curves(tables)[0].silhouettes} == {29}
    del tables["trend"]
    assert {each.ends for each in layer_curves(tables)[0].silhouettes} == {30}


def test_an_unaudited_and_an_unchosen_run_say_so():
    tables = {name: frame for name, frame in run_tables().items() if name != "audit"}
    assert "not yet audited on test rows" in answer_sentence(tables)
    del tables["layer_choice"]
    assert answer_sentence(tables).startswith("No layer of wheel:smollm2-135m has been chosen")
    assert "figure" not in answer_markdown(tables)


def test_one_scored_run_is_needed():
    one, other = run_tables(), run_tables(run_id="0000000000000000")
    both = {name: pl.concat([one[name], other[name]]) for name in one}
    with pytest.raises(ValueError, match="2 scored runs"):
        answer_sentence(both)
    with pytest.raises(ValueError, match="0 scored runs"):
        layer_table({"run": one["run"]})


def test_the_layer_table_has_the_answers_layers_with_their_marks():
    tables = run_tables()
    table = layer_table(tables)
    assert [row["layer"] for row in table] == list(range(31))
    assert list(table[0]) == [
        "layer",
        "depth",
        "silhouette_cosine",
        "silhouette_euclidean",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "marks",
    ]
    marks = {row["layer"]: row["marks"] for row in table if row["marks"]}
    assert marks == {
        7: "chosen, best, peak (cosine + euclidean)",
        18: "knee (cosine + euclidean)",
        30: "last",
    }
    probe = tables["probe"].filter(pooling="mean", layer=7).row(0, named=True)
    assert table[7]["accuracy"] == probe["accuracy"]
    assert table[7]["depth"] == 7 / 30


def test_layers_that_were_not_probed_are_empty_in_the_table():
    tables = run_tables(poolings=("mean",))
    tables["probe"] = tables["probe"].filter(pl.col("layer") != 3)
    row = layer_table(tables)[3]
    assert row["accuracy"] is None
    assert row["silhouette_cosine"] is not None


def test_a_metric_in_two_spaces_makes_two_curves_and_turns_belong_to_the_raw_one():
    tables = run_tables(poolings=("mean",), metrics=("cosine",))
    centred = tables["silhouette"].with_columns(space=pl.lit("centred"))
    tables["silhouette"] = pl.concat([tables["silhouette"], centred])
    curves = layer_curves(tables)[0].silhouettes
    assert [curve.name for curve in curves] == ["cosine_centred", "cosine"]
    assert [len(curve.points) for curve in curves] == [0, 2]


def test_the_answers_group_comes_first():
    found = layer_curves(run_tables(poolings=("last", "max", "mean")))
    assert [each.name for each in found] == ["mean · as_returned", "last · as_returned", "max · as_returned"]


def test_markdown_keeps_data_literal():
    tables = run_tables(model_id="hf:a|b/*c*<img src=x>")
    page = answer_markdown(tables)
    assert r"hf:a\|b/\*c\*&lt;img src=x>" in page
    assert "| gain over last | +6.4 points | +4.1 to +8.7, p &lt; 0.001 |" in page


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "p = 1.00"), (0.4, "p = 0.40"), (0.0123, "p = 0.012"), (0.0004, "p < 0.001")]
)
def test_p_values(p, text):
    assert p_value(p) == text


def test_fractions_in_words():
    assert percent(0.6823) == "68.2 %"
    assert [points(value) for value in (0.064, -0.012, -0.0004)] == ["+6.4", "−1.2", "0.0"]

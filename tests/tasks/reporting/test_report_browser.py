"""The page in a real browser: it draws without an error or a request, and a keyboard is enough to use it."""

import json
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from storage.layout import Layout
from storage.results import query
from tasks.reporting.figure import save_figure
from tasks.reporting.grid_report import SHOWN, render_grid
from tasks.reporting.report import render_report
from tests.browser import chromium
from tests.cookbook import example_storage
from tests.tasks.reporting.run_tables import EMOTIONS, confusion_of, projection_of, run_tables

pytestmark = pytest.mark.browser

EVIL = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    classes = (*EMOTIONS[:5], EVIL)
    page = render_report(
        run_tables(classes=classes, norm_states=("as_returned", "final_norm")),
        confusion=confusion_of(classes),
        projection=projection_of(classes),
    )
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(page, encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def grid_address(tmp_path_factory):
    """The page of the cookbook's five runs."""
    folder = tmp_path_factory.mktemp("grid")
    database = Layout(example_storage(folder)).results
    views = {view: query(database, f"SELECT * FROM {view}") for view in SHOWN}
    _, figure = save_figure(run_tables(), str(folder))
    page = folder / "report.html"
    page.write_text(render_grid(views, Path(figure).read_bytes()), encoding="utf-8")
    return page.as_uri()


@pytest.fixture
def page(browser, address):
    yield from opened(browser, address)


@pytest.fixture
def grid_page(browser, grid_address):
    yield from opened(browser, grid_address)


def opened(browser, address):
    """A page, just opened; what it logs and requests is looked at after the test."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} == {address}


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def text(browser, selector):
    return find(browser, selector).text


def press(browser, *keys):
    browser.switch_to.active_element.send_keys(*keys)


def focus(browser, selector):
    """Tab from the top of the page until the element has the focus: it has to be within a keyboard's reach."""
    target = find(browser, selector)
    find(browser, "body").click()
    for _ in range(60):
        press(browser, Keys.TAB)
        if browser.switch_to.active_element == target:
            return
    raise AssertionError(f"{selector} cannot be reached with the Tab key")


def test_the_answer_is_read_and_the_curve_is_drawn(page):
    assert text(page, "h1").startswith("Take layer 7 of 30 (mean pooling, final_norm)")
    assert text(page, "[data-readout]").startswith("Layer 7")
    assert len(page.find_elements(By.CSS_SELECTOR, ".plot path.line:not(.step)")) == 2
    assert "chosen layer 7" in find(page, ".plot svg").get_attribute("aria-label")


def test_pooling_norm_state_and_metric_are_switched_by_keyboard(page):
    focus(page, "[name=pooling][value=mean]")
    press(page, Keys.ARROW_RIGHT)
    assert text(page, "[data-readout]").startswith("Layer 24")
    assert text(page, "[data-aside]") == "The answer above is of mean, final_norm."
    press(page, Keys.TAB, Keys.NULL)
    press(page, Keys.ARROW_RIGHT)
    assert "last pooling, as_returned" in find(page, ".plot svg").get_attribute("aria-label")
    press(page, Keys.TAB)
    press(page, Keys.ARROW_RIGHT)
    assert "euclidean silhouette" in text(page, "[data-readout]")
    shown = page.find_elements(By.CSS_SELECTOR, "[data-group]:not([hidden]) .roomy")
    assert len(shown) == 2  # trends and criteria of one group, not of four


def test_a_layer_is_read_with_the_slider_and_with_the_mouse(page):
    focus(page, "[data-slider]")
    press(page, Keys.HOME)
    assert text(page, "[data-readout]").startswith("Layer 0")
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    told = find(page, "[data-slider]").get_attribute("aria-valuetext")
    assert told.startswith("Layer 2, depth 0.07, accuracy ")
    webdriver.ActionChains(page).move_to_element(find(page, ".plot svg")).perform()
    assert text(page, "[data-readout]").startswith(("Layer 14", "Layer 15"))


def test_zoom_by_button_and_by_dragging(page):
    slider = find(page, "[data-slider]")
    focus(page, "[data-zoom=in]")
    press(page, Keys.ENTER)
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0", "15")
    find(page, "[data-zoom=all]").click()
    assert slider.get_attribute("max") == "30"
    plot = find(page, ".plot svg")
    drag = (
        webdriver.ActionChains(page).move_to_element(plot).click_and_hold().move_by_offset(150, 0).release()
    )
    drag.perform()
    span = int(slider.get_attribute("max")) - int(slider.get_attribute("min"))
    assert 4 <= span <= 6
    assert int(slider.get_attribute("min")) in (14, 15)


def test_a_heat_map_is_walked_with_arrows_and_shows_names_as_text(page):
    focus(page, "[data-heat=classes] td[tabindex='0']")
    press(page, Keys.END)
    assert "at layer 30: " in text(page, "[data-heat=classes] output")
    names = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "[data-heat=classes] tbody th")]
    assert EVIL in names
    assert page.find_elements(By.TAG_NAME, "img") == []


def test_a_class_is_highlighted(page):
    Select(find(page, "[data-highlight]")).select_by_visible_text("joy")
    lit = page.find_elements(By.CSS_SELECTOR, ".scatter.picked g.on title")
    assert [title.get_attribute("textContent") for title in lit] == ["joy"] * 3


@pytest.mark.parametrize(
    ("kept", "options"),
    [
        (None, {"layers": 1, "poolings": ("mean",), "metrics": ("cosine",)}),
        (("run", "silhouette", "silhouette_by_class"), {"layers": 3}),
        (("run", "probe"), {}),
        (None, {"classes": tuple(f"a class with a long name, number {k}" for k in range(52))}),
    ],
    ids=["one block", "silhouettes only", "probe only", "52 classes"],
)
def test_runs_of_every_shape_are_drawn(browser, tmp_path, kept, options):
    tables = run_tables(**options)
    classes = options.get("classes", EMOTIONS)
    whole = kept is None
    report = render_report(
        tables if whole else {name: tables[name] for name in kept},
        confusion=confusion_of(classes) if whole else None,
        projection=projection_of(classes) if whole else None,
    )
    (tmp_path / "report.html").write_text(report, encoding="utf-8")
    browser.get_log("browser")
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.get_log("browser") == []
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot path.line:not(.step)")) == (2 if whole else 1)
    assert browser.find_elements(By.CSS_SELECTOR, ".plot [d*=NaN], .plot [cx=NaN], .plot [x=NaN]") == []
    cells = browser.find_elements(By.CSS_SELECTOR, "[data-heat=classes] tbody td")
    layers = options.get("layers", 30) + 1
    assert len(cells) == (0 if kept and "silhouette" not in kept else layers * len(classes))


@pytest.mark.parametrize("width", [390, 820, 1280])
@pytest.mark.parametrize("which", ["page", "grid_page"])
def test_nothing_sticks_out_at_any_width(request, which, width):
    page = request.getfixturevalue(which)
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        too_wide = page.execute_script(
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert too_wide == 0


def test_print_opens_what_is_folded(page):
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.find_elements(By.CSS_SELECTOR, "details:not([open])") == []
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(page.find_elements(By.CSS_SELECTOR, "details:not([open])")) == 2


def test_many_runs_are_drawn_and_read_by_keyboard(grid_page):
    assert text(grid_page, "h1").startswith("8 runs; the chosen layer: ")
    assert len(grid_page.find_elements(By.CSS_SELECTOR, "[aria-labelledby=answers-title] .gain .middle")) == 8
    assert grid_page.execute_script("return document.querySelector('.sheet img').naturalWidth") > 0
    depths = "[aria-labelledby=depth-title]"
    legend = grid_page.find_elements(By.CSS_SELECTOR, f"{depths} .legend li")
    assert len(grid_page.find_elements(By.CSS_SELECTOR, f"{depths} path.line")) == len(legend) == 8
    focus(grid_page, f"{depths} details summary")
    press(grid_page, Keys.ENTER)
    cells = grid_page.find_elements(By.CSS_SELECTOR, "details[open] tbody td")
    assert cells
    assert all(0 <= float(cell.text) <= 100 for cell in cells)


def test_the_atlas_is_filtered_walked_and_shaded_by_keyboard(grid_page):
    def lines():
        return [line for line in grid_page.find_elements(By.CSS_SELECTOR, ".curve") if line.is_displayed()]

    def counted(mark):
        counts = grid_page.find_elements(By.CSS_SELECTOR, f"[data-where={mark}] li b")
        return sum(int(count.text) for count in counts)

    assert len(lines()) == counted("best") == counted("chosen") == 15
    focus(grid_page, ".filters [name=model]")
    press(grid_page, "smol")
    assert [line.get_attribute("data-model") for line in lines()] == ["wheel:smollm2-135m"] * 2
    assert text(grid_page, "[data-shown]") == "2 of 15 curves"
    assert counted("best") == counted("chosen") == 2
    shown = grid_page.find_elements(By.CSS_SELECTOR, "svg.depth path.thin")
    assert {path.get_attribute("data-model") for path in shown if path.is_displayed()} == {
        "wheel:smollm2-135m"
    }
    focus(grid_page, ".filters [name=model]")
    press(grid_page, Keys.HOME)
    assert len(lines()) == 15

    focus(grid_page, ".strip i[tabindex='0']")
    assert len(grid_page.find_elements(By.CSS_SELECTOR, ".strip i[tabindex]")) == 1
    press(grid_page, Keys.END, Keys.NULL)
    assert "smollm2-135m last: layer 30 of 30: " in text(grid_page, "[data-told]")
    for _ in lines():
        press(grid_page, Keys.ARROW_UP)
    assert "minilm-l6 mean: layer 6 of 6: " in text(grid_page, "[data-told]")
    assert "against the last layer" in text(grid_page, "[data-told]")

    best = find(grid_page, ".curve[data-model='wheel:smollm2-135m'] i.b")
    shade = "return getComputedStyle(arguments[0]).backgroundColor"
    before = grid_page.execute_script(shade, best)
    Select(find(grid_page, "[name=shade]")).select_by_value("gain")
    assert grid_page.execute_script(shade, best) != before
    assert grid_page.find_elements(By.CSS_SELECTOR, ".strip i.down")
    assert grid_page.find_elements(By.CSS_SELECTOR, ".depth [d*=nan], .depth [cx=nan]") == []
    grid_page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert grid_page.find_elements(By.CSS_SELECTOR, "details:not([open])") == []

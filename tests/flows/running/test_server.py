"""A local server answers those whom it was started for, and no page that happens to be open beside it."""

import json
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.server.api.server import create_app
from prefect.settings import temporary_settings
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from flows.running.server import LocalServer
from storage.layout import ServerHome
from tests.browser import chromium
from tests.flows.conftest import ANSWER_S, AUTH, ask

# What such a page tried: to read, to write as a script writes, and to write as a form does, which no browser stops.
PAGE = """<!doctype html><pre></pre><script>
const asked = {
  read: fetch("API/admin/settings"),
  written: fetch("API/variables/", {method: "POST", headers: {"Content-Type": "application/json"}, body: BODY}),
  posted: fetch("API/variables/", {method: "POST", mode: "no-cors", body: BODY}),
}
const tell = async ([name, answer]) => [name, await answer.then(got => got.text(), () => "refused")]
Promise.all(Object.entries(asked).map(tell)).then(told => {
  document.querySelector("pre").textContent = JSON.stringify(Object.fromEntries(told))
})
</script>"""


@pytest.fixture(scope="module")
def server(prefect_server: str) -> LocalServer:
    return LocalServer(prefect_server.removesuffix("/api"), os.environ[AUTH])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(tmp_path: Path, server: LocalServer) -> Path:
    body = json.dumps(json.dumps({"name": "written_by_a_page", "value": 1}))
    file = tmp_path / "page.html"
    file.write_text(PAGE.replace("API", f"{server.url}/api").replace("BODY", body))
    return file


@pytest.fixture
def beside(page: Path) -> Iterator[str]:
    """The page as another program on this machine serves it."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(page.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/{page.name}"
        serving.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("of", ["another local origin", "a file"])
def test_a_page_of_another_origin_neither_reads_nor_writes(
    browser: webdriver.Chrome, server: LocalServer, page: Path, beside: str, of: str
) -> None:
    # A browser that has the UI open has the string too.
    opened(browser, server)
    browser.get(page.as_uri() if of == "a file" else beside)
    told = WebDriverWait(browser, 60).until(lambda driver: driver.find_element(By.TAG_NAME, "pre").text)
    assert json.loads(told) == {"read": "refused", "written": "refused", "posted": ""}
    assert ask(f"{server.url}/api", "variables/filter", {}, server.auth) == []


@pytest.mark.browser
@pytest.mark.parametrize("base", ["/v2/dashboard", "/dashboard"])
def test_the_ui_opens_by_its_printed_address(
    browser: webdriver.Chrome, server: LocalServer, base: str
) -> None:
    opened(browser, server)
    browser.get(f"{server.url}{base}")
    WebDriverWait(browser, 60).until(lambda driver: "Work Pools" in driver.page_source)
    assert "login" not in browser.current_url


def opened(browser: webdriver.Chrome, server: LocalServer) -> None:
    browser.get(server.entrance)
    WebDriverWait(browser, 60).until(lambda driver: "/open" not in driver.current_url)


@pytest.mark.parametrize(
    ("host", "known", "status"),
    [
        ("127.0.0.1", False, 401),
        ("127.0.0.1", True, 200),
        ("localhost", True, 200),
        ("evil.example", True, 400),
        ("127.0.0.1.evil.example", True, 400),
        ("localhost.evil.example:80", True, 400),
        ("", True, 400),
    ],
)
def test_a_request_needs_the_string_and_this_machines_name(
    server: LocalServer, host: str, known: bool, status: int
) -> None:
    user, password = server.auth.split(":")
    answered = httpx.get(
        f"{server.url}/api/admin/settings",
        headers={"Host": host},
        auth=(user, password) if known else None,
        trust_env=False,
        timeout=ANSWER_S,
    )
    assert answered.status_code == status
    assert "access-control-allow-origin" not in answered.headers


def test_a_socket_needs_them_too(server: LocalServer) -> None:
    address = f"{server.url.replace('http', 'ws')}/api/events/out"
    prefect = Subprotocol("prefect")
    with connect(address, subprotocols=[prefect], proxy=None, open_timeout=ANSWER_S) as socket:
        socket.send(json.dumps({"type": "auth", "token": "guessed"}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=ANSWER_S)
    with pytest.raises(InvalidStatus, match="400"):
        connect(address, additional_headers={"Host": "evil.example"}, proxy=None, open_timeout=ANSWER_S)


def test_the_server_that_the_docs_tell_to_start_is_closed_too() -> None:
    page = Path(__file__).parents[3] / "docs/operations.md"
    named = dict(
        re.findall(r"(PREFECT_[A-Z_]+)=(\S+?)[) ]", page.read_text().split("## One machine, for good")[1])
    )
    settings = {name: value.replace("$string", "layerscout:secret") for name, value in named.items()}
    with temporary_settings(settings):
        app = TestClient(create_app(ignore_cache=True), base_url="http://127.0.0.1:4200")
    settings_page = "/api/admin/settings"
    assert app.get(settings_page).status_code == 401
    assert app.get(settings_page, headers={"Host": "evil.example"}).status_code == 401
    known = {"auth": ("layerscout", "secret")}
    for origin, allowed in (
        ("http://127.0.0.1:4200", "http://127.0.0.1:4200"),
        ("http://127.0.0.1:9", None),
        ("null", None),
    ):
        answered = app.get(settings_page, headers={"Origin": origin}, **known)
        assert (answered.status_code, answered.headers.get("access-control-allow-origin")) == (200, allowed)


def listens(process: psutil.Process, server: LocalServer) -> bool:
    try:
        return any(
            server.url.endswith(f":{each.laddr.port}") for each in process.net_connections() if each.laddr
        )
    except psutil.NoSuchProcess:
        return False


def test_no_other_user_of_the_machine_sees_the_string(server: LocalServer) -> None:
    # Below this process that of an earlier test may be, too, which is about to end.
    (listening,) = (each for each in psutil.Process().children(recursive=True) if listens(each, server))
    assert server.auth not in " ".join(listening.cmdline())
    home = ServerHome(Path(listening.cwd()))
    assert home.auth.read_text() == server.auth
    assert home.auth.stat().st_mode & 0o077 == 0

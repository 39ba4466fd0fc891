"""What PREFECT_API_URL leads to is asked before the work, and told in a sentence where it is no use."""

import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import temporary_settings

from flows.running.configured_server import check_configured
from storage.errors import UserError


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A server that is not Prefect's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/api"
        serving.shutdown()


def refusal(url: str) -> str:
    with temporary_settings({"PREFECT_API_URL": url}), pytest.raises(UserError) as refused:
        check_configured(url)
    return str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/api", "garbage", "ftp://there/api", "http://x y/api", "4200"]
)
def test_an_address_without_a_prefect_server_is_a_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert f"at '{url}', which PREFECT_API_URL names" in refusal(url)


def test_another_server_is_a_sentence(elsewhere: str) -> None:
    assert "501" in refusal(elsewhere)


def test_a_server_that_asks_for_a_string_says_which_variable_holds_it(prefect_server: str) -> None:
    with temporary_settings({"PREFECT_API_AUTH_STRING": "guessed:wrongly"}):
        assert "PREFECT_API_AUTH_STRING" in refusal(prefect_server)
    with temporary_settings({"PREFECT_API_URL": prefect_server}):
        check_configured(prefect_server)


@pytest.mark.parametrize("name", [".env", "prefect.toml"])
def test_a_file_of_the_working_folder_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:1/api"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / name).write_text(f'[api]\nurl = "{url}"\n' if name != ".env" else f"PREFECT_API_URL={url}\n")
    assert str(tmp_path / name) in refusal(url)

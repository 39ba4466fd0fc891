"""A server on this machine is reached whatever proxies the environment names."""

import os

import httpx
import pytest

from flows.running.proxies import past_proxies
from tests.flows.conftest import ANSWER_S


@pytest.mark.parametrize(
    "proxy", ["http://127.0.0.1:9", "127.0.0.1:9", "socks5://127.0.0.1:9", "garbage://there", "::::"]
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_local_server_is_reached_past_any_proxy(
    name: str, proxy: str, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", "example.org")
    with past_proxies():
        assert httpx.get(f"{prefect_server}/health", timeout=ANSWER_S).status_code == 200
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert os.environ[name] == proxy


def test_a_proxy_that_no_client_can_use_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALL_PROXY", "garbage://me:secret@there")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with past_proxies():
        assert "ALL_PROXY" not in os.environ
        assert os.environ["HTTPS_PROXY"] == "http://proxy.example:3128"
    said = capsys.readouterr().err
    assert "ALL_PROXY is left out" in said
    assert "secret" not in said

"""What the hub's refusals become, against a server on 127.0.0.1 that answers as the hub does."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

FETCH = """
from storage.errors import UserError
from storage.sources.hub import fetch_snapshot
try:
    fetch_snapshot("meta-llama/Llama-3.2-1B", "main", "model", ["*"])
except UserError as error:
    print(error)
"""


@pytest.fixture
def answering() -> Iterator[tuple[str, dict[str, object]]]:
    """The address of the server, and what it answers: status and the hub's error code."""
    answer: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(str(answer["status"])))
            if answer["code"]:
                self.send_header("X-Error-Code", str(answer["code"]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (
            403,
            "GatedRepo",
            ["is gated", "Ask for access at https://huggingface.co/meta-llama/Llama-3.2-1B", "HF_TOKEN"],
        ),
        (401, "RepoNotFound", ["that you may read", "HF_TOKEN", "hf-token"]),
        (404, "RepoNotFound", ["that you may read", "Check the name"]),
        (404, "RevisionNotFound", ["no revision 'main'", "/tree/main"]),
        (403, "", ["refused", "403", "HF_TOKEN"]),
        (500, "", ["answered 500"]),
    ],
)
def test_a_refusal_says_where_to_get_access(
    answering: tuple[str, dict[str, object]], tmp_path: Path, status: int, code: str, words: list[str]
) -> None:
    address, answer = answering
    answer |= {"status": status, "code": code}
    variables = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", FETCH], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert [word for word in words if word not in said.stdout] == []

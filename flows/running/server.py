"""A local Prefect server that lives exactly as long as somebody uses it.

Every command that needs one holds a shared lock, its home's `clients_lock`. The server's watchdog tries the exclusive
lock and stops the server once it gets it. The kernel frees the locks of a process that dies, however it dies, so a
killed sweep leaves no server behind, and two sweeps, or a sweep and the UI, share one.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from filelock import FileLock

from storage.errors import UserError
from storage.files import write_file
from storage.layout import ServerHome

START_SECONDS = 180
# Nothing phones home, and the UI shows no advertisement.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


@contextmanager
def local_server(home: ServerHome) -> Iterator[str]:
    """The URL of the server whose records lie in `home`, started on 127.0.0.1 if nobody has yet.

    Raises:
        UserError: it did not come up; its log is named.
    """
    home.folder.mkdir(parents=True, exist_ok=True)
    with home.clients_lock.open("w") as clients:
        fcntl.flock(clients, fcntl.LOCK_SH)
        with FileLock(home.start_lock):
            url = _running(home) or _start(home)
        yield url


def _running(home: ServerHome) -> str | None:
    try:
        url: str = json.loads(home.record.read_text())["url"]
        there = httpx.get(f"{url}/api/admin/settings", timeout=5, trust_env=False).json()
    except (FileNotFoundError, httpx.HTTPError, json.JSONDecodeError):
        return None
    # Another program may have got the port of a server that is gone.
    return url if there.get("home") == str(home.folder) else None


def _start(home: ServerHome) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= QUIET | {
        "PREFECT_HOME": str(home.folder),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"{url}/api",
        # One process writes: SQLite needs no more, and the log stays readable.
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    with home.log.open("a") as sink:
        # A session of its own: Ctrl-C in the terminal must not take the server before the last record is down.
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.running.server", str(home.folder), str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/api/health", timeout=5, trust_env=False).status_code == 200:
                # Whole or not at all: other commands read it without a lock.
                write_file(str(home.record), json.dumps({"url": url, "pid": server.pid}).encode())
                return url
        except httpx.HTTPError:
            time.sleep(0.1)
    server.kill()
    raise UserError(
        f"The local Prefect server did not come up within {START_SECONDS} s. Its log is {home.log}. To use a server of "
        "your own, set PREFECT_API_URL."
    )


def _app(home: ServerHome) -> Any:
    """Prefect's server, and under /reports the reports of the storage folder that its records lie in."""
    # The clients import this module as well, and have no use for the seconds that a server's imports take.
    from prefect.server.api.server import create_app
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    app = create_app()
    reports = StaticFiles(directory=home.reports, check_dir=False)
    # Before Prefect's own routes: the UI answers every address that no other route takes.
    app.router.routes.insert(0, Mount("/reports", reports))
    return app


def _serve(home: ServerHome, port: int) -> None:
    config = uvicorn.Config(
        _app(home),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_watch, args=(home, server), daemon=True).start()
    server.run()


def _watch(home: ServerHome, server: uvicorn.Server) -> None:
    clients = home.clients_lock.open("w")
    while True:
        time.sleep(0.5)
        try:
            fcntl.flock(clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        # The lock is kept until this process is gone: a client that comes now waits, then starts a new server.
        home.record.unlink(missing_ok=True)
        server.should_exit = True
        return


if __name__ == "__main__":
    _serve(ServerHome(Path(sys.argv[1])), int(sys.argv[2]))

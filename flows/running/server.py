"""A local Prefect server that lives exactly as long as somebody uses it.

Every command that needs one holds a shared lock, its home's `clients_lock`. The server's watchdog tries the exclusive
lock and stops the server once it gets it. The kernel frees the locks of a process that dies, however it dies, so a
killed sweep leaves no server behind, and two sweeps, or a sweep and the UI, share one.

It answers nobody else. A page in a browser on this machine reaches 127.0.0.1 too, and whoever may call the API may run
commands here: so every request brings a string that is made anew at each start and lies in a file of this user's alone,
no page of another origin may read an answer, and a request under another name than this machine's is refused.
"""

import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from filelock import FileLock

from flows.running.server_tables import prepare_tables
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
USER = "layerscout"
# What a name of another machine leads to when its owner has let it point at this one.
OWN_NAMES = ("127.0.0.1", "localhost")
# The UI asks this server alone, not the makers of its libraries, and stands in no frame of another page.
CONTENT_POLICY = "connect-src 'self'; frame-ancestors 'self'"
ENTRANCE = "/open"
# Both UIs of Prefect look for the string under this name. What follows the # is sent to no server.
ENTRANCE_PAGE = """<!doctype html>
<title>layerscout</title>
<script>
if (location.hash) localStorage.setItem("prefect-password", btoa(location.hash.slice(1)))
location.replace("/")
</script>
"""


@dataclass(frozen=True)
class LocalServer:
    """Where a local server listens, and the string that it asks of every request."""

    url: str
    auth: str

    @property
    def variables(self) -> dict[str, str]:
        """Prefect's settings for whoever talks to it."""
        return {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_API_AUTH_STRING": self.auth}

    @property
    def entrance(self) -> str:
        """The address that a browser is given: it keeps the string and leads on to the UI."""
        return f"{self.url}{ENTRANCE}#{self.auth}"


@contextmanager
def local_server(home: ServerHome) -> Iterator[LocalServer]:
    """The server whose records lie in `home`, started on 127.0.0.1 if nobody has yet.

    Raises:
        UserError: it did not come up, and its log is named; or it is another user's.
    """
    home.folder.mkdir(parents=True, exist_ok=True)
    with home.clients_lock.open("w") as clients:
        fcntl.flock(clients, fcntl.LOCK_SH)
        with FileLock(home.start_lock):
            server = _running(home) or _start(home)
        yield server


def _running(home: ServerHome) -> LocalServer | None:
    # One that does not answer yet has other work: beside it a second one would write the same records.
    patient = httpx.Timeout(START_SECONDS, connect=5)
    try:
        server = LocalServer(json.loads(home.record.read_text())["url"], home.auth.read_text())
        there = httpx.get(
            f"{server.url}/api/admin/settings", auth=_credentials(server), timeout=patient, trust_env=False
        ).json()
    except (FileNotFoundError, httpx.HTTPError, json.JSONDecodeError):
        return None
    except PermissionError as error:
        raise UserError(
            f"The Prefect server of {home.folder.parent} is another user's: {error}. Choose a storage of your own, or "
            "set PREFECT_API_URL to a server that you may use."
        ) from error
    # Another program may have got the port of a server that is gone.
    return server if there.get("home") == str(home.folder) else None


def _credentials(server: LocalServer) -> tuple[str, str]:
    return USER, server.auth.removeprefix(f"{USER}:")


def _start(home: ServerHome) -> LocalServer:
    # Bound here and handed on, or another program could take the port before the server has come up.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        made = LocalServer(f"http://127.0.0.1:{port}", f"{USER}:{secrets.token_urlsafe(32)}")
        _write_private(home.auth, made.auth)
        server = _launch(home, made, listening)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{made.url}/api/health", timeout=5, trust_env=False).status_code == 200:
                # Whole or not at all: other commands read it without a lock.
                write_file(str(home.record), json.dumps({"url": made.url, "pid": server.pid}).encode())
                return made
        except httpx.HTTPError:
            time.sleep(0.1)
    ended = server.poll()
    server.kill()
    why = f"within {START_SECONDS} s" if ended is None else f"and ended with exit code {ended}"
    raise UserError(
        f"The local Prefect server did not come up {why}. Its log is {home.log}. To use a server of your own, set "
        "PREFECT_API_URL."
    )


def _launch(home: ServerHome, made: LocalServer, listening: socket.socket) -> "subprocess.Popen[bytes]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= QUIET | made.variables
    environment |= {
        "PREFECT_HOME": str(home.folder),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(listening.getsockname()[1]),
        "PREFECT_SERVER_API_AUTH_STRING": made.auth,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": made.url,
        # Relative, so that the page asks the server that it comes from, whichever of its names it was opened under.
        "PREFECT_SERVER_UI_API_URL": "/api",
        # Relative, too: the folder's name may hold what means something in an address (?, #, %).
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home.database.name}",
        # One process writes: SQLite needs no more, and the log stays readable.
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    with home.log.open("a") as sink:
        # A session of its own: Ctrl-C in the terminal must not take the server before the last record is down.
        return subprocess.Popen(
            [sys.executable, "-m", "flows.running.server", str(home.folder), str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


def _write_private(file: Path, text: str) -> None:
    """Only this user may read it, from its first moment."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(text)


def _app(home: ServerHome) -> Any:
    """Prefect's server, and under /reports the reports of the storage folder that its records lie in."""
    # The clients import this module as well, and have no use for the seconds that a server's imports take.
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    def entrance(_request: Request) -> HTMLResponse:
        return HTMLResponse(ENTRANCE_PAGE)

    app = create_app()
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=OWN_NAMES, www_redirect=False)
    reports = StaticFiles(directory=home.reports, check_dir=False)
    # Before Prefect's own routes: the UI answers every address that no other route takes.
    app.router.routes[:0] = [Mount("/reports", reports), Route(ENTRANCE, entrance)]
    return app


def _serve(home: ServerHome, listening: socket.socket) -> None:
    config = uvicorn.Config(
        _app(home),
        log_level="warning",
        headers=[("Content-Security-Policy", CONTENT_POLICY)],
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_watch, args=(home, server), daemon=True).start()
    server.run(sockets=[listening])


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
    # Also, a prefect.toml or .env of the folder that the command was given in says nothing to this server.
    os.chdir(sys.argv[1])
    own = ServerHome(Path(sys.argv[1]))
    prepare_tables(own.database)
    _serve(own, socket.socket(fileno=int(sys.argv[2])))

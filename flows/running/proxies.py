"""No proxy stands between a command and a server on its own machine."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.request import getproxies_environment

import httpx

from flows.running.engines import in_environment
from flows.running.progress import console
from flows.running.server import OWN_NAMES

# Those that httpx takes, with which Prefect and the hub's client speak.
SCHEMES = ("http", "https", "all")


@contextmanager
def past_proxies() -> Iterator[None]:
    """In this block, and for processes started in it, this machine is reached without the proxies of the environment.

    One that httpx cannot use would stop every client, those of this machine's servers too: it is left out, and said.
    """
    with ExitStack() as changed:
        proxies = getproxies_environment()
        reached = ",".join(filter(None, (proxies.get("no"), *OWN_NAMES)))
        for name in ("no_proxy", "NO_PROXY"):
            changed.enter_context(in_environment(name, reached))
        for scheme in SCHEMES:
            if (unusable := _refused(proxies.get(scheme))) is None:
                continue
            console.print(f"{scheme.upper()}_PROXY is left out: {unusable}", markup=False)
            for name in [each for each in os.environ if each.lower() == f"{scheme}_proxy"]:
                changed.enter_context(in_environment(name, None))
        yield


def _refused(proxy: str | None) -> str | None:
    """Why httpx takes no such proxy; None where it does, or where there is none."""
    if not proxy:
        return None
    try:
        httpx.HTTPTransport(proxy=proxy if "://" in proxy else f"http://{proxy}").close()
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        return str(error)
    return None

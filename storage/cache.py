"""The user's cache on this machine: models, wheels, calibrations, locks and a new server's tables, for all storages."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The user's cache: `LAYERSCOUT_CACHE` where set, else the platform's own place."""
    return Path(os.environ.get("LAYERSCOUT_CACHE") or platformdirs.user_cache_dir("layerscout"))

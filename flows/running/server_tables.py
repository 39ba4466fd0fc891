"""The tables of a local server's records, made once a machine.

Prefect makes an empty database by all migrations that it has ever had, which is half of a server's first start. The
tables are the same in every storage folder, so that from the second one on each gets a copy.
"""

import asyncio
import logging
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from storage.cache import cache_folder
from storage.files import write_file

log = logging.getLogger(__name__)


def prepare_tables(database: Path) -> None:
    """Give a database that is not there yet the tables that Prefect's migrations make.

    For the server's own process, before it serves: its settings name the database. One that is there is left alone,
    whole or not, and Prefect brings it up to date.
    """
    if database.exists():
        return
    kept = cache_folder() / "server" / f"prefect-{version('prefect')}.db"
    if _is_whole(kept):
        write_file(str(database), kept.read_bytes())
        return
    _migrate()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as made:
            write_file(str(kept), made.serialize())
    except OSError as error:  # a server does without; whoever needs the cache is told there
        log.warning("The next new storage waits for its tables again, since they cannot be kept: %s", error)


def _is_whole(kept: Path) -> bool:
    """Whether there is such a database, undamaged, with migrations that came to their end."""
    if not kept.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{kept.absolute().as_uri()}?immutable=1", uri=True)) as tables:
            (checked,) = tables.execute("PRAGMA quick_check").fetchone()
            (ends,) = tables.execute("SELECT count(*) FROM alembic_version").fetchone()
    except sqlite3.DatabaseError:  # cut off, or something else under its name
        return False
    return bool(checked == "ok" and ends == 1)


def _migrate() -> None:
    # The clients import the server's module as well, and have no use for the seconds that this takes.
    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())

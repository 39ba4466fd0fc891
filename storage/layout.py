"""Every path of a storage folder, in one frozen object."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from storage.cache import cache_folder


@dataclass(frozen=True)
class ServerHome:
    """The folder of a local Prefect server: always on this machine, since it is locked and SQLite writes into it."""

    folder: Path

    @property
    def record(self) -> Path:
        """The URL and the process id of the server that runs; absent where none does."""
        return self.folder / "server.json"

    @property
    def auth(self) -> Path:
        """The string that the server asks of every request; only the user who started it may read it."""
        return self.folder / "auth"

    @property
    def database(self) -> Path:
        """The server's records."""
        return self.folder / "prefect.db"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def start_lock(self) -> Path:
        """Held by the one command that looks for a server and starts it."""
        return self.folder / "start.lock"

    @property
    def clients_lock(self) -> Path:
        """Shared by every command that needs the server; the server ends when nobody holds it."""
        return self.folder / "clients.lock"

    @property
    def reports(self) -> Path:
        """The reports of the storage folder that it lies in, which the server shows."""
        return self.folder.parent / "reports"


@dataclass(frozen=True)
class Layout:
    """Where everything lies under one storage root, a local folder or a URI such as `s3://bucket/prefix`.

    Paths are strings joined by `/`, so that the same code serves a disk and an object store.
    """

    root: str

    @classmethod
    def at(cls, storage: str) -> "Layout":
        """Of a folder as somebody named it, who may have been in another one, or of a URI."""
        return cls(storage if "://" in storage else str(Path(storage).absolute()))

    def _join(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts])

    def dataset(self, fingerprint: str) -> str:
        """The cleaned data set, one Parquet file."""
        return self._join("datasets", f"{fingerprint}.parquet")

    def places(self, content: str) -> str:
        """The place of each of a data set's rows in its source, one Parquet file named by its content."""
        return self._join("datasets", f"places-{content}.parquet")

    def words(self, content: str) -> str:
        """The words of each text of a data set whose words have tags, one Parquet file named by its content."""
        return self._join("datasets", f"words-{content}.parquet")

    def here(self, uri: str) -> str:
        """Where a data set's file lies that was at `uri` when the storage was somewhere else."""
        return self._join("datasets", uri.rsplit("/", 1)[-1])

    def embedding_set(self, embedding_set_id: str) -> str:
        """The folder of one embedding set: a manifest and its shards."""
        return self._join("embeddings", embedding_set_id)

    def manifest(self, embedding_set_id: str) -> str:
        """What the embedding set is made of, and the token budget all its workers share."""
        return self._join("embeddings", embedding_set_id, "manifest.json")

    def shard(self, embedding_set_id: str, index: int) -> str:
        """One shard: every layer, pooling and norm state of a range of rows."""
        return self._join("embeddings", embedding_set_id, f"shard_{index:05d}.parquet")

    def shard_record(self, embedding_set_id: str, index: int) -> str:
        """What computing one shard cost; kept when the embeddings are not."""
        return self._join("embeddings", embedding_set_id, f"shard_{index:05d}.json")

    def left_out(self, embedding_set_id: str, part: str) -> str:
        """What ridge regression said of left-out rows of one layer, seeing the first rows of the set alone."""
        return self._join("embeddings", embedding_set_id, "left_out", f"{part}.parquet")

    @staticmethod
    def part(pooling: str, norm_state: str, layer: int | None = None) -> str:
        """The name of the staged rows of a curve, or of one layer of it; a layer's digits keep the order."""
        curve = f"{pooling}-{norm_state}"
        return curve if layer is None else f"{curve}-{layer:03d}"

    @property
    def staged_runs(self) -> str:
        """The folder of every run's staged rows, a folder each."""
        return self._join("staged")

    def staged(self, run_id: str, table: str, part: str) -> str:
        """Result rows as one task wrote them, before (and after) they were merged into the database."""
        return self._join("staged", run_id, table, f"{part}.parquet")

    def staged_table(self, run_id: str, table: str) -> str:
        """The folder of all staged rows of one table of one run."""
        return self._join("staged", run_id, table)

    def report(self, run_id: str) -> str:
        """The folder of one run's report and figures."""
        return self._join("reports", run_id)

    @property
    def comparison(self) -> str:
        """The folder of the last grid's comparison: its page, its tables as CSV, and its figure."""
        return self._join("comparison")

    @staticmethod
    def page(folder: str) -> str:
        """The page in the folder of a report or a comparison."""
        return f"{folder}/report.html"

    @staticmethod
    def figure(folder: str, kind: str) -> str:
        """The figure in the folder of a report or a comparison; `kind` is png or svg."""
        return f"{folder}/figure.{kind}"

    def comparison_table(self, view: str) -> str:
        """One of the comparison's tables."""
        return self._join("comparison", f"{view}.csv")

    @property
    def is_remote(self) -> bool:
        """Whether it lies on an object store, where nothing can be locked."""
        return "://" in self.root

    @property
    def server(self) -> ServerHome:
        """Where its own Prefect server keeps its records: with the results, or in the cache for a remote storage."""
        place = cache_folder() if self.is_remote else Path(self.root).absolute()
        return ServerHome(place / "prefect")

    @property
    def results(self) -> str:
        """The DuckDB file."""
        return self._join("results.duckdb")


def writer_lock(database: str) -> Path:
    """The lock of who writes a results database.

    Beside a local file, so that users of one disk share it; else this user's, on this machine.
    """
    if "://" not in database:
        return Path(database).with_suffix(".lock")
    name = hashlib.sha256(database.encode()).hexdigest()[:16]
    return cache_folder() / "locks" / f"results-{name}.lock"

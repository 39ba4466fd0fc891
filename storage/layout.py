"""Every path of a storage folder, in one frozen object."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Where everything lies under one storage root, a local folder or a URI such as `s3://bucket/prefix`.

    Paths are strings joined by `/`, so that the same code serves a disk and an object store.
    """

    root: str

    def _join(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts])

    def dataset(self, fingerprint: str) -> str:
        """The cleaned data set, one Parquet file."""
        return self._join("datasets", f"{fingerprint}.parquet")

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
        """The folder of the last grid's comparison: its tables as CSV, and its figure."""
        return self._join("comparison")

    @property
    def results(self) -> str:
        """The DuckDB file."""
        return self._join("results.duckdb")

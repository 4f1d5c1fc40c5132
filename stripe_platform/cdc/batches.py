"""Writer of one batch: Parquet files per table in the making, made durable together, the manifest last."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.lake import Lake
from stripe_platform.cdc.catalogue import Registrar
from stripe_platform.cdc.manifest import BatchFile
from stripe_platform.cdc.pgoutput import Relation

FOLDER = "cdc/batches"


def table_name(relation: Relation, schema: str) -> str:
    """Name of a captured table in the lake; tables of other schemas than the source's keep their schema."""
    return relation.table if relation.schema == schema else relation.qualified


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# How every Parquet file of the lake is written: zstd 3 would save 3 % and cost half as much time again. Dictionaries
# also where values do not repeat: Arrow gives them up early, and choosing columns by name was no faster.
PARQUET = {"compression": "zstd", "compression_level": 1, "use_dictionary": True, "write_statistics": True}


@dataclass
class _Open:
    table: str
    path: Path
    writer: pq.ParquetWriter
    schema: pa.Schema
    schema_id: str
    rows: int = 0
    ops: dict[str, int] = field(default_factory=dict)


class BatchWriter:
    """Collects the decoded chunks of one batch; memory holds one chunk, however large the batch is."""

    def __init__(self, lake: Lake, seq: int, schema: str, registrar: Registrar) -> None:
        self._lake, self._seq, self._schema, self._registrar = lake, seq, schema, registrar
        self._scratch = lake.scratch() / "capture"
        self._scratch.mkdir(exist_ok=True)
        self._open: dict[tuple[str, int, pa.Schema], _Open] = {}
        self._stretch: dict[str, tuple[int, str]] = {}  # by table: how often its version changed, and the version

    def add(self, chunks: Iterable[tuple[Relation, pa.Table]]) -> None:
        """Write decoded chunks in log order; a table that changed inside the batch gets a file per version of it."""
        for relation, chunk in chunks:
            table, schema_id = table_name(relation, self._schema), self._registrar.version_of(relation).schema_id
            number, before = self._stretch.get(table, (0, schema_id))
            self._stretch[table] = (number + (before != schema_id), schema_id)
            place = (table, self._stretch[table][0], chunk.schema)
            entry = self._open.get(place)
            if entry is None:
                path = self._scratch / f"{self._seq:012d}-{len(self._open)}.parquet"
                writer = pq.ParquetWriter(path, chunk.schema, **PARQUET)
                entry = self._open[place] = _Open(table, path, writer, chunk.schema, schema_id)
            entry.writer.write_table(chunk)
            entry.rows += chunk.num_rows
            for count in pc.value_counts(chunk["_op"]).to_pylist():
                entry.ops[count["values"]] = entry.ops.get(count["values"], 0) + count["counts"]

    def finish(self) -> tuple[BatchFile, ...]:
        """Close the files and put them durably into the lake; the caller then writes the manifest."""
        moves: dict[str, Path] = {}
        files = []
        for entry in self._open.values():
            entry.writer.close()
            versions = sum(path.startswith(f"{FOLDER}/{self._seq:012d}/{entry.table}.") for path in moves)
            suffix = f".{versions + 1}" if versions else ""
            path = f"{FOLDER}/{self._seq:012d}/{entry.table}{suffix}.parquet"
            moves[path] = entry.path
            files.append(BatchFile(
                entry.table, path, entry.rows, entry.path.stat().st_size, sha256_of(entry.path),
                dict(sorted(entry.ops.items())), {f.name: str(f.type) for f in entry.schema}, entry.schema_id))
        self._registrar.save()
        self._lake.put_files(moves)
        self._open = {}
        return tuple(sorted(files, key=lambda f: f.path))


def clear_leftovers(lake: Lake) -> None:
    """Remove what a killed capture left half written; only the holder of the writer lock may call it."""
    shutil.rmtree(lake.scratch() / "capture", ignore_errors=True)

"""What a change log is read from: a database with its slot and publication, and the log's own place in the lake.

A change is named by (source, epoch, commit LSN, ordinal). Each source has batches, manifests and epochs of its own,
one chain; the payments database keeps the lake's root, where released lakes have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from resources.lake import Lake, open_lake
from stripe_platform import keys
from stripe_platform.settings import Settings


@dataclass(frozen=True)
class Source:
    """One captured database; `dsn`, `slot` and `publication` are names of settings.

    `tables`: primary keys by table of `schema`. `calendar`: the table whose rows cut the log into ledger days; a
    source without one has batches, not days. `folder`: its part of the lake, the root where empty. `declared`: its
    tables are this release's own, so that nobody asks the source's catalogue about them. `reader`: the setting of a
    role that may read them, for proofs of equality; the capture's own where empty.
    """

    name: str
    schema: str
    dsn: str
    slot: str
    publication: str
    tables: Mapping[str, tuple[str, ...]] = field(hash=False)
    calendar: str | None = None
    folder: str = ""
    declared: bool = True
    reader: str | None = None

    def place_of(self, name: str) -> tuple[str, str]:
        """Schema and table of a name in `tables`: `table`, of the source's own schema, or `schema.table`."""
        schema, _, table = name.rpartition(".")
        return schema or self.schema, table

    def key_of(self, schema: str, table: str) -> tuple[str, ...]:
        """The key that `tables` gives a table; empty where it names none."""
        return next((tuple(key) for name, key in self.tables.items() if self.place_of(name) == (schema, table)), ())

    def slot_name(self, settings: Settings) -> str:
        return str(getattr(settings, self.slot))

    def publication_name(self, settings: Settings) -> str:
        return str(getattr(settings, self.publication))

    def conninfo(self, settings: Settings) -> str:
        """Connection URL of the capture's role; raises `MissingSettingError` with the remedy."""
        return settings.need(self.dsn)

    def reader_conninfo(self, settings: Settings) -> str:
        """Connection URL of a role that may read the captured tables of the same server."""
        return settings.need(self.reader) if self.reader else self.conninfo(settings)

    def configured(self, settings: Settings) -> bool:
        """Whether this deployment knows where the source is."""
        return getattr(settings, self.dsn) is not None

    def lake(self, settings: Settings, root: Lake | None = None) -> Lake:
        """The source's part of the lake (`root`: the whole lake, where it is open already)."""
        root = root or open_lake(settings)
        return root.below(self.folder) if self.folder else root


OLTP = Source(
    "oltp", "oltp", "cdc_dsn", "cdc_slot", "cdc_publication", {t.name: t.key for t in keys.OLTP_TABLES},
    calendar="ops.day_ledger", reader="oltp_dsn",
)

"""A real Debezium stream in the reader's place: events in, the very same durable batches out.

Files, then manifest, then offsets, in that order always; the manifest itself says where to read on, so that a kill at
any point loses nothing and doubles nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from resources.lake import Lake
from stripe_platform.cdc import catalogue as catalogues
from stripe_platform.cdc import manifest as manifests
from stripe_platform.cdc.batches import clear_leftovers
from stripe_platform.cdc.capture import CaptureReport, Drain, progress_bar, writer_lock
from stripe_platform.cdc.catalogue import Details, TableVersion
from stripe_platform.cdc.columns import landed
from stripe_platform.cdc.debezium import Reader
from stripe_platform.cdc.debezium_schemas import declared_version
from stripe_platform.cdc.debezium_values import OURS, Encoding
from stripe_platform.cdc.event_stream import Deliveries, EventStream
from stripe_platform.cdc.manifest import STREAMED, Epoch, Manifest
from stripe_platform.cdc.pgoutput import Relation
from stripe_platform.cdc.sealing import Sealer
from stripe_platform.cdc.slot import CaptureError
from stripe_platform.cdc.source import OLTP, Source
from stripe_platform.cdc.sources import ConfiguredSource
from stripe_platform.cdc.stream_tables import Described, Tables
from stripe_platform.oltp.schema import load_schema
from stripe_platform.settings import Settings

Catalogue = Mapping[tuple[str, str], TableVersion]


@dataclass
class IntakeReport(CaptureReport):
    """What one reading made durable. `order`: what the stream proves of it; `refused`: records in the quarantine.

    `waiting`: transactions begun whose events have not all come; they are read again next time.
    """

    order: str | None = None
    refused: int = 0
    duplicates: int = 0
    skipped: int = 0
    waiting: int = 0


def intake(settings: Settings, deliver: Callable[[dict[str, int]], Deliveries], *, stream: str,
           catalogue: Catalogue | None = None, encoding: Encoding = OURS, lake: Lake | None = None,
           source: Source = OLTP, ask: Callable[[str, str], Described | None] | None = None,
           wait_seconds: float = 60.0) -> IntakeReport:
    """Land what the deliveries hold now. `deliver` gets the positions to read on from; `stream`: its name in the lake.

    `catalogue`: what is known of the tables beforehand (of a declared source: what they are); `ask`: how the source's
    own catalogue is asked about one.
    Raises `CaptureError` where the stream cannot continue the lake's batches, `CaptureBusyError` beside another writer.
    """
    lake, begun = lake or source.lake(settings), time.monotonic()
    with writer_lock(settings, wait_seconds, source), Sealer(lake) as sealer:
        epoch, last = _epoch(lake, f"{STREAMED}{stream}"), manifests.last(lake)
        clear_leftovers(lake)
        standing = (last.stream if last else None) or {"order": None, "positions": {}}
        events = EventStream(
            deliver(standing["positions"]), Reader(_tables(source, lake, catalogue, encoding, ask)), lake,
            order=standing["order"],
            durable_lsn=last.to_lsn if last else epoch.consistent_lsn, last_ts_us=_microseconds(last))
        events.begin(last.seq if last else 0, standing["positions"])
        drain = Drain(settings, lake, epoch, None, None, source, describe=_describer(events), sealer=sealer)
        with closing(events), progress_bar(source) as advance:
            drain.run(events, 0, advance)
    report = IntakeReport(**vars(drain.report))
    report.order, report.refused, report.skipped = events.order, events.refused, events.skipped
    report.duplicates, report.waiting = events.assembler.duplicates, events.assembler.waiting()[0]
    report.seconds = time.monotonic() - begun
    return report


def _tables(source: Source, lake: Lake, catalogue: Catalogue | None, encoding: Encoding,
            ask: Callable[[str, str], Described | None] | None) -> Tables:
    given = catalogue if catalogue is not None else declared(source) if source.declared else {}
    if source.declared:
        return Tables(given, encoding)
    found = {table: [version] for table, version in of_lake(lake).items()}
    for version in catalogues.all_versions(lake):
        known = found.setdefault((version.schema, version.table), [])
        if version not in known:
            known.append(version)
    return Tables(given, encoding, strict=False, lake=found, ask=ask,
                  keys={source.place_of(name): tuple(key) for name, key in source.tables.items() if key})


def _epoch(lake: Lake, slot: str) -> Epoch:
    epochs = manifests.load_epochs(lake)
    if not epochs:
        manifests.save_epoch(lake, Epoch(1, slot, slot, 1, 0))
        return manifests.load_epochs(lake)[-1]
    if epochs[-1].slot != slot:
        raise CaptureError(f"this lake's log was begun by {epochs[-1].slot}, not by {slot}: give the stream a lake of"
                           " its own (STRIPE_PLATFORM_LAKE_URL)")
    return epochs[-1]


def _microseconds(last: Manifest | None) -> int:

    if last is None or last.last_commit is None:
        return 0
    return int(dt.datetime.fromisoformat(last.last_commit).timestamp() * 1e6)


def _describer(events: EventStream) -> Callable[[Relation], Details]:
    """Keys in key order, numbers and older rows' values, from the version that the relation was announced with."""
    def answer(relation: Relation) -> Details:
        columns = [(c.name, c.oid, c.type) for c in relation.columns]
        announced = events.versions(relation.schema, relation.table)
        version = next((v for v in announced if [(landed(c.name), c.oid, c.type) for c in v.columns] == columns),
                       announced[0])
        own = {landed(c.name): c for c in version.columns}
        return Details(tuple(map(landed, version.key)),
                       {name: c.number for name, c in own.items() if c.number is not None},
                       {name: c.missing for name, c in own.items() if c.missing is not None},
                       frozenset(name for name, c in own.items() if c.told))

    return answer


def declared(source: Source = OLTP) -> Catalogue:
    """The tables of this release, and the calendar, as their migrations made them."""
    found = {}
    for name, key in source.tables.items():
        columns = load_schema()[name].columns
        found[source.schema, name] = declared_version(source.schema, name, key, [(c.name, c.type) for c in columns])
    if source.calendar:
        schema, _, table = source.calendar.partition(".")
        found[schema, table] = declared_version(schema, table, ("source", "day"), [("source", "text"), ("day", "date")])
    return found


def listed(source: ConfiguredSource) -> Catalogue:
    """The tables whose types the file of sources names."""
    found = {}
    for each in source.published:
        if each.types:
            schema, table = source.place_of(each.name)
            found[schema, table] = declared_version(schema, table, source.tables.get(each.name, ()), list(each.types))
    return found


def of_lake(lake: Lake) -> Catalogue:
    """The newest version of every table that a lake's log describes."""
    chain = manifests.Chain.load(lake)
    newest = [catalogues.newest(lake, chain, table) for table in catalogues.tables(chain)]
    return {(v.schema, v.table): v for v in newest}

"""The OLTP's documents are what the live catalogue says: diagrams, conceptual model, indexes."""

from __future__ import annotations

import re

import psycopg
import pytest

from stripe_platform.keys import OLTP_TABLES
from stripe_platform.oltp import erd
from stripe_platform.settings import Settings

TABLES = {table.name for table in OLTP_TABLES}
LARGEST_PICTURE = 300_000


def test_the_diagrams_are_what_the_live_catalogue_says(oltp: Settings):
    """Stale? `python -m stripe_platform.oltp.erd` writes them anew, `docs/make_oltp.py` their pictures."""
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        made = erd.render(conn)
    assert {path.name for path in erd.DOCS.glob("erd*.mermaid")} == set(made)
    for name, text in made.items():
        assert (erd.DOCS / name).read_text() == text, name


def test_every_table_is_in_one_domain():
    placed = [table for tables in erd.DOMAINS.values() for table in tables]
    assert sorted(placed) == sorted(TABLES)
    with pytest.raises(LookupError, match="add it to DOMAINS"):
        erd.domain_of("no_such_table")


def test_every_foreign_key_is_drawn_but_those_to_currencies_and_countries(oltp: Settings):
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        wanted = {(r.parent, r.child, ", ".join(r.columns)) for r in erd.read_relations(conn)
                  if r.parent not in ("currencies", "countries")}  # fmt: skip
    drawn = {match for path in erd.DOCS.glob("erd-*.mermaid")
             for match in re.findall(r'^    (\w+) \S+ (\w+) : "([^"]+)"$', path.read_text(), re.M)}  # fmt: skip
    assert wanted <= drawn


def test_every_diagram_has_a_picture_that_a_page_can_carry():
    for path in (*erd.DOCS.glob("erd*.mermaid"), erd.DOCS / "mcd.mermaid"):
        picture = path.with_suffix(".png")
        assert picture.read_bytes()[:4] == b"\x89PNG", picture.name
        assert picture.stat().st_size < LARGEST_PICTURE, picture.name


def test_every_entity_of_the_conceptual_model_maps_to_tables_and_every_table_to_an_entity():
    text = (erd.DOCS / "mcd.mermaid").read_text()
    mapped = dict(re.findall(r"^%% entity (\w+): (.+)$", text, re.M))
    drawn = {name for line in re.findall(r"^    (\w+) [|}o{]+-+[|}o{]+ (\w+) :", text, re.M) for name in line}
    assert set(mapped) == drawn
    tables = [table.strip() for names in mapped.values() for table in names.split(",")]
    assert sorted(tables) == sorted(TABLES), "give each table one entity in docs/mcd.mermaid"


def test_every_index_is_explained_and_none_that_does_not_exist(oltp: Settings):
    query = (
        "select x.relname from pg_index i join pg_class x on x.oid = i.indexrelid join pg_class t on t.oid = i.indrelid"
        " where t.relnamespace = 'oltp'::regnamespace and not t.relispartition and not i.indisprimary"
    )
    with psycopg.connect(oltp.need("oltp_owner_dsn")) as conn:
        indexes = {row[0] for row in conn.execute(query)}
    section = re.search(r"^## Indexes$(.+?)^## ", (erd.DOCS / "oltp.md").read_text(), re.M | re.S)
    assert section is not None
    named = set(re.findall(r"^\| `(\w+)` \|", section[1], re.M))
    assert (indexes - named, named - indexes) == (set(), set()), "say in docs/oltp.md why an index is worth its writes"


def test_every_link_of_the_page_leads_to_a_file():
    links = re.findall(r"\]\(([^)#:]+)\)", (erd.DOCS / "oltp.md").read_text())
    assert links
    assert [link for link in links if not (erd.DOCS / link).exists()] == []

"""Planted card numbers and personal data are found nowhere in clear: tables, output, server log."""

from __future__ import annotations

import copy
import json

import psycopg
import pytest
from stripe_objects import T0, account, charge, customer, event, intent, method, movement
from typer.testing import CliRunner

from stripe_platform import cli
from stripe_platform.embedded import places
from stripe_platform.embedded import servers as embedded
from stripe_platform.embedded.state import State

pytestmark = pytest.mark.servers
CARDS = ("4242424242424242", "5555 5555 5555 4444", "3782-822463-10005", "４２４２４２４２４２４２４２４２")
PERSON = "canary.person@pii.example"
PLANTED = ("4242424242424242", "5555 5555 5555 4444", "3782-822463-10005", "４２４２", "canary", "pii.example")


def planted(obj, text):
    """The object with this text in every text field but those that say what it is."""
    found = copy.deepcopy(obj)
    for name, value in list(found.items()):
        if isinstance(value, dict):
            found[name] = planted(value, text)
        elif (isinstance(value, str) and name not in ("id", "object", "currency", "status", "type")) or value is None:
            found[name] = text
    found.setdefault("description", text)
    found.setdefault("metadata", {"note": text, text: text})
    found[f"new_{text}"] = text
    return found


def test_no_card_number_and_no_person_stands_in_clear_anywhere(platform, servers, tmp_path):
    objects = []
    for number, text in enumerate((*CARDS, PERSON)):
        for make in (account, customer, method, intent, charge, movement):
            objects.append(planted(make(f"{make.__name__}_{number}"), text))
        objects += [
            {"id": f"prod_{number}", "object": "product", "name": text, "url": text, "statement_descriptor": text},
            {
                "id": f"ba_{number}",
                "object": "bank_account",
                "bank_name": text,
                "last4": text,
                "account_holder_name": text,
            },
            {"id": f"tok_{number}", "object": "token", "card": {"number": text, "id": text, "object": "card"}},
            {"id": text, "object": "customer", "created": T0},
            {"id": f"x_{number}", "object": text},
            {"id": f"promo_{number}", "object": "promotion_code", "code": text, "created": T0},
            event({"id": text, "object": "charge"}, text, key=text),
            event(charge(text), "charge.updated", key=f"e_{number}"),
            {"id": f"rsl_{number}", "object": "radar.value_list", "alias": text, "name": text, "created": T0},
        ]
    file = tmp_path / "planted.jsonl"
    file.write_text("\n".join(map(json.dumps, objects)) + f'\n{{"broken": "{PERSON}')
    log = embedded._cluster("oltp", places.find(servers.home), State.load(servers.home), {}).log_file
    before = log.stat().st_size
    done = CliRunner().invoke(cli.app, ["ingest", str(file), "--drift", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["lost"] == 0
    assert report["received"] == len(objects) + 1
    said = done.output + log.read_bytes()[before:].decode(errors="replace")
    with psycopg.connect(platform.settings.need("oltp_owner_dsn"), autocommit=True) as conn:
        tables = conn.execute(
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('oltp', 'ingest', 'ops', 'vault', 'ledger') and c.relkind in ('r', 'p')"
            " and not c.relispartition"
        ).fetchall()
        assert len(tables) > 70
        for (table,) in tables:
            text = "\n".join(row[0] for row in conn.execute(f"select t::text from {table} t"))  # type: ignore[call-overload]
            for secret in PLANTED:
                assert secret not in text, table
    for secret in PLANTED:
        assert secret not in said

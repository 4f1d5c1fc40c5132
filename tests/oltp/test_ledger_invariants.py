"""The ledger's invariants hold after random concurrent histories, and each one notices the mutation made for it.

`LEDGER_SEED` replays the histories of a seed; `LEDGER_HISTORIES` says how many `make test-volume` runs.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_histories import CLIENTS, OPERATIONS, Histories, World, make_world, settle
from ledger_invariants import INVARIANTS
from ledger_mutations import MUTATIONS, Mutation
from ledger_story import tell
from ledger_trials import MOVEMENTS, differing_orders
from psycopg import sql

from stripe_platform.keyring import open_keyring
from stripe_platform.settings import load_settings

pytestmark = pytest.mark.servers
SEED = os.environ.get("LEDGER_SEED", "ledger")
HISTORIES = int(os.environ.get("LEDGER_HISTORIES", "10000"))
BATCH = 250  # histories of one database: with more, reading a merchant's movements becomes what is measured
Books = tuple[World, psycopg.Connection, psycopg.Connection]


@contextmanager
def database(servers: Any, template: str) -> Iterator[Books]:
    """A database with merchants, a connection of the app's role and one of the superuser's."""
    name = f"oltp_{secrets.token_hex(6)}"
    dsn = servers.url("STRIPE_PLATFORM_OLTP_DSN", name)
    with psycopg.connect(servers.superuser("oltp"), autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template {} owner payments_owner").format(
            sql.Identifier(name), sql.Identifier(template)))
        try:
            with (psycopg.connect(dsn, autocommit=True) as app,
                  psycopg.connect(servers.superuser("oltp", name), autocommit=True) as superuser):
                yield make_world(app, superuser, dsn, open_keyring(load_settings())), app, superuser
        finally:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def told(servers: Any, oltp_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection]:
    """Books in which everything happened once, closed and sealed until yesterday; the superuser's connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRIPE_PLATFORM_HOME", str(tmp_path_factory.mktemp("home")))
        with database(servers, oltp_template) as (world, app, superuser):
            tell(app, world)
            yield superuser


@pytest.fixture
def ledger_books(servers: Any, oltp_template: str, own_home: Path) -> Iterator[Books]:
    with database(servers, oltp_template) as made:
        yield made


def violations(owner: psycopg.Connection) -> dict[str, list[str]]:
    return {name: found for name, invariant in INVARIANTS.items() if (found := invariant(owner))}


def test_the_books_hold_after_concurrent_histories(ledger_books: Books):
    world, app, owner = ledger_books
    with Histories(world) as histories:
        found = [line for n in range(30) for line in histories.run_seed(f"{SEED} {n}").violations]
    settle(app)
    assert (found, violations(owner)) == ([], {}), f"LEDGER_SEED={SEED}"


STEPS = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 2**40)), max_size=6)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(STEPS, min_size=1, max_size=CLIENTS))
def test_no_sequence_of_steps_breaks_an_invariant(ledger_books: Books, parts):
    world, app, owner = ledger_books
    with Histories(world) as histories:
        shared = histories.run(f"steps {secrets.token_hex(4)}", parts, [("pay", 1), ("pay", 3)])
    settle(app)
    assert (shared.violations, violations(owner)) == ([], {})


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(len(MOVEMENTS))))
def test_L15_movements_in_any_order_give_the_same_books(ledger_books: Books, order: list[int]):
    assert differing_orders(ledger_books[2], [range(len(MOVEMENTS)), order]) == []


def test_the_told_books_hold(told: psycopg.Connection):
    assert violations(told) == {}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_mutation_breaks_its_invariant_and_no_other(told: psycopg.Connection, mutation: Mutation):
    with told.transaction(force_rollback=True):
        told.execute(mutation.statement.encode())
        assert list(violations(told)) == [mutation.invariant]


def test_every_invariant_has_its_function_statement_and_mutation():
    numbers = {f"L{number}" for number in range(1, 24)}
    assert set(INVARIANTS) == numbers
    assert {mutation.invariant for mutation in MUTATIONS} == numbers
    assert all(invariant.__doc__ for invariant in INVARIANTS.values())


@pytest.mark.volume
def test_ten_thousand_concurrent_histories_violate_nothing(servers, oltp_template: str, own_home: Path):
    """Batches on databases of their own; a violation names the seed and number that made it."""
    done = refused = 0
    for first in range(0, HISTORIES, BATCH):
        with database(servers, oltp_template) as (world, app, superuser):
            with Histories(world) as histories:
                for number in range(first, min(first + BATCH, HISTORIES)):
                    shared = histories.run_seed(f"{SEED} {number}", length=3)
                    done, refused = done + shared.done, refused + shared.refused
                    assert not shared.violations, f"LEDGER_SEED={SEED}, history {number}: {shared.violations[0]}"
            settle(app)
            assert violations(superuser) == {}, f"LEDGER_SEED={SEED}, histories {first} to {first + BATCH - 1}"
        print(f"LEDGER_SEED={SEED}: {first + BATCH} histories, {done} steps made, {refused} refused", flush=True)

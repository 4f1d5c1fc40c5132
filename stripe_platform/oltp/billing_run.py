"""The billing run: every step of every subscription that is due up to an instant.

A step is a transaction of its own, dated when it was due. Workers lock what they work on and pass over what others
have locked, so any number may run; one that is killed leaves nothing half done, and the next run goes on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from stripe_platform.oltp.billing import Subscription, renew
from stripe_platform.oltp.errors import WriteError, rule_of


@dataclass(frozen=True)
class Attempt:
    """What an issuer is asked about: the payer, the card (None: there is none), and which attempt this is."""

    subscription_id: str
    customer_id: str
    payment_method_id: str | None
    attempt: int
    at: dt.datetime


Issuer = Callable[[Attempt], str | None]


@dataclass
class BillingRun:
    """What a run did: steps by name, collections by end, and subscriptions it had to leave, each with the reason."""

    steps: dict[str, int] = field(default_factory=dict)
    paid: int = 0
    declined: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.steps.values())


def run_billing(
    conn: psycopg.Connection, until: dt.datetime, *, issuer: Issuer | None = None, limit: int | None = None
) -> BillingRun:
    """Do what is due by `until`, oldest first, at most `limit` steps. `conn` is in autocommit mode.

    `issuer` answers an attempt with its failure code, or None where it takes the money (the default). A subscription
    that the rules refuse is left as it was, named in `failed`, and tried again by the next run.
    """
    if not conn.autocommit:
        raise ValueError("run_billing commits step by step: give it a connection in autocommit mode")
    run = BillingRun()
    while limit is None or run.total < limit:
        found = None
        try:
            with conn.transaction():
                found = conn.execute("select * from payments.next_billing(%s, %s::text[])",
                                     [until, list(run.failed)]).fetchone()  # fmt: skip
                if found is None or found[0] is None:
                    return run
                subscription, at, step, _, customer, method, attempt = found
                asked = step in ("renew", "retry") and issuer is not None
                answer = issuer(Attempt(subscription, customer, method, attempt, at)) if asked and issuer else None
                done = renew(conn, subscription_id=subscription, until=until, declined=answer)
        except (WriteError, psycopg.Error) as error:
            known = rule_of(error) if isinstance(error, psycopg.Error) else error
            if found is None or known is None:
                raise
            run.failed[found[0]] = str(known)
            continue
        _count(run, step, done)
    return run


def _count(run: BillingRun, step: str, done: Subscription) -> None:
    run.steps[step] = run.steps.get(step, 0) + 1
    if step in ("renew", "retry") and done.failure_code is not None:
        run.declined += 1
    elif done.charge_id is not None:
        run.paid += 1

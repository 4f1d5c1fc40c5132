"""/v1/balance and /v1/balance_transactions."""

from __future__ import annotations

from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.oltp import objects

router = Resource("balance")
transactions = Resource("balance_transactions")


@router.reads("/v1/balance")
def balance(call: Call) -> Json:
    """What the ledger holds for the merchant, by currency."""
    call.params.end()
    held = objects.balance_of(call.conn, call.account)
    shown = {
        state: [{"amount": amount, "currency": currency, "source_types": {"card": amount}}
                for currency, amount in amounts.items()] for state, amounts in held.items()}
    return {"object": "balance", "livemode": call.key.livemode, **shown}


@transactions.reads("/v1/balance_transactions/{id}")
def retrieve(call: Call) -> Json:
    """A movement of the balance."""
    call.params.end()
    return call.present.render("balance_transaction", [call.row("balance_transaction")])[0]


@transactions.reads("/v1/balance_transactions")
def listing(call: Call) -> Json:
    """Movements of the balance, newest first."""
    return call.list("balance_transaction", "currency", "source", "type")

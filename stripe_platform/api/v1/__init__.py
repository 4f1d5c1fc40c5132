"""The routes of /v1, a module per family."""

from stripe_platform.api.v1 import (
    balance,
    charges,
    customers,
    disputes,
    events,
    payment_intents,
    payment_methods,
    refunds,
    webhook_endpoints,
)

RESOURCES = (
    customers.router, payment_methods.router, payment_intents.router, charges.router, refunds.router, disputes.router,
    balance.router, balance.transactions, events.router, webhook_endpoints.router,
)  # fmt: skip

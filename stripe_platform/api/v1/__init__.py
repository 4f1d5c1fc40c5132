"""The routes of /v1, a module per family."""

from stripe_platform.api.v1 import (
    balance,
    catalogue,
    charges,
    customers,
    disputes,
    events,
    invoices,
    payment_intents,
    payment_methods,
    refunds,
    subscriptions,
    webhook_endpoints,
)

RESOURCES = (
    customers.router, payment_methods.router, payment_intents.router, charges.router, refunds.router, disputes.router,
    balance.router, balance.transactions, events.router, webhook_endpoints.router, catalogue.products,
    catalogue.prices, subscriptions.router, invoices.router,
)  # fmt: skip

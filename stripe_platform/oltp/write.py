"""The write API for live use, under one name: one function, one ACID transaction; refusals are `WriteError`.

The functions live by subject: `accounts`, `payments`, `refunds`, `disputes`.
"""

from stripe_platform.oltp.accounts import create_account, create_customer, create_payment_method, create_terminal
from stripe_platform.oltp.disputes import (
    Dispute,
    create_dispute,
    open_dispute,
    record_early_fraud_warning,
    set_dispute_status,
)
from stripe_platform.oltp.errors import WriteError
from stripe_platform.oltp.idempotency import Idempotency
from stripe_platform.oltp.payments import (
    Payment,
    cancel_intent,
    capture_intent,
    check_money,
    confirm_intent,
    create_intent,
    create_payment,
)
from stripe_platform.oltp.refunds import Refund, create_refund, refund_charge, set_refund_status

__all__ = [
    "Dispute", "Idempotency", "Payment", "Refund", "WriteError", "cancel_intent", "capture_intent", "check_money",
    "confirm_intent", "create_account", "create_customer", "create_dispute", "create_intent", "create_payment",
    "create_payment_method", "create_refund", "create_terminal", "open_dispute", "record_early_fraud_warning",
    "refund_charge", "set_dispute_status", "set_refund_status",
]  # fmt: skip

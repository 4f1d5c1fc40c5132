"""What the write API refuses: one sentence with record, rule and remedy, and the code an HTTP front answers with."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

# Rules that the database holds itself, in Stripe's codes; others keep their constraint's name.
CODES = {
    "refunded_within_captured": "amount_too_large",
    "captured_within_amount": "amount_too_large",
    "status_must_move": "unexpected_state",
}


class WriteError(ValueError):
    """A write the rules refuse; the message never names an amount or a person.

    `kind` is Stripe's error type (card_error, idempotency_error, invalid_request_error), `code` its code, `param` the
    parameter at fault, `decline_code` the issuer's reason of a card error.
    """

    def __init__(self, message: str, *, kind: str = "invalid_request_error", code: str | None = None,
                 param: str | None = None, decline_code: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.code, self.param, self.decline_code = kind, code, param, decline_code


def refused(error: Mapping[str, str]) -> WriteError:
    """The refusal that a function of the database answered with."""
    return WriteError(error["message"], kind=error["type"], code=error.get("code"), param=error.get("param"),
                      decline_code=error.get("decline_code"))


def rule_of(error: psycopg.Error) -> WriteError | None:
    """The refusal behind an exception that the ledger or a status rule raised with its own sentence; None for others.

    Sentences of other errors (DETAIL above all) show values and go no further than the caller's log.
    """
    rule = error.diag.constraint_name
    if rule is None or error.diag.message_primary is None:
        return None
    if error.sqlstate == "P0001" or rule in ("status_must_move", "journal_is_immutable", "entry_is_open"):
        return WriteError(error.diag.message_primary, code=CODES.get(rule, rule))
    return None

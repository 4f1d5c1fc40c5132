"""Stripe's error bodies: one sentence with the remedy, never a value that a caller sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stripe_platform.oltp.errors import WriteError

Json = dict[str, Any]

# Declines that are error codes of their own; all others are a `card_declined` with a decline code.
OWN_CODES = frozenset({"expired_card", "incorrect_cvc", "incorrect_number", "processing_error"})
DECLINED = {
    "expired_card": "The card has expired: use another card.",
    "incorrect_cvc": "The card's security code is incorrect: check it, and try again.",
    "incorrect_number": "The card number is incorrect: check it, and try again.",
    "insufficient_funds": "The card has insufficient funds: use another card.",
    "processing_error": "The card could not be processed just now: try again in a while.",
}
_DECLINED = "The card was declined: ask the payer for another card."


class ApiError(Exception):
    """What a request is refused with."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None,
                 param: str | None = None, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.more = dict(more or {})

    def body(self) -> Json:
        """Stripe's shape; what is not known is left out."""
        shown = {"type": self.kind, "code": self.code, "message": self.message, "param": self.param, **self.more}
        return {"error": {name: value for name, value in shown.items() if value is not None}}


def missing(what: str, param: str | None = "id") -> ApiError:
    """No such object, or another merchant's: the two look alike."""
    return ApiError(404, f"No such {what.replace('_', ' ')}: check the id, and that it belongs to this key's account.",
                    code="resource_missing", param=param)


def of_write(error: WriteError) -> ApiError:
    """A refusal of the write API as an HTTP answer."""
    message = str(error)
    if error.kind == "card_error":
        return ApiError(402, message, kind=error.kind, code=error.code, param=error.param,
                        more={"decline_code": error.decline_code})
    if error.kind == "idempotency_error":
        return ApiError(409 if error.code == "idempotency_key_in_use" else 400, message, kind=error.kind,
                        code=error.code)
    status = 404 if error.code == "resource_missing" else 400
    return ApiError(status, message, kind=error.kind, code=error.code, param=error.param)


def decline(reason: str) -> tuple[str, str | None, str]:
    """Error code, decline code and sentence of an issuer's reason."""
    if reason in OWN_CODES:
        return reason, None, DECLINED[reason]
    return "card_declined", reason, DECLINED.get(reason, _DECLINED)


def fault() -> ApiError:
    """Something of ours broke; what, stands in the server's log under the request's id."""
    return ApiError(500, "Something broke on our side: repeat the request, and name its Request-Id if it stays so.",
                    kind="api_error")

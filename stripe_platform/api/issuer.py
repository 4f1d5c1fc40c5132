"""The card network of test mode: what each of Stripe's published test cards does, as one table.

A card not named here is approved. No number leaves this module: cards are recognised by their keyed hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stripe_platform.keyring import Keyring
from stripe_platform.oltp.card_vault import CardNumber


@dataclass(frozen=True)
class Behaviour:
    """What becomes of a payment with this card."""

    declined: str | None = None  # the issuer's reason
    blocked: bool = False  # by our rules, before the network
    risk_level: str = "normal"
    risk_score: int = 32
    authenticate: bool = False  # the payer must act first; a second confirmation counts as done
    dispute: str | None = None  # reason of the dispute that follows
    inquiry: bool = False
    warning: bool = False  # an early fraud warning follows
    refund: Literal["succeeded", "pending"] = "succeeded"
    cvc_check: Literal["pass", "fail"] = "pass"
    funding: str = "credit"
    country: str = "US"


APPROVED = Behaviour()
# Number and behaviour; 0077 (funds available at once) settles like any other card here.
_TABLE: dict[str, Behaviour] = {
    "4242424242424242": APPROVED, "4000056655665556": Behaviour(funding="debit"), "5555555555554444": APPROVED,
    "2223003122003222": APPROVED, "5200828282828210": Behaviour(funding="debit"),
    "5105105105105100": Behaviour(funding="prepaid"), "378282246310005": APPROVED, "371449635398431": APPROVED,
    "6011111111111117": APPROVED, "3056930009020004": APPROVED, "36227206271667": APPROVED,
    "3566002020360505": APPROVED, "6200000000000005": APPROVED, "4000000000000077": APPROVED,
    "4000002500000003": Behaviour(country="FR"), "4000002760000016": Behaviour(country="DE"),
    "4000008260000000": Behaviour(country="GB"), "4000001240000000": Behaviour(country="CA"),
    "4000000000000002": Behaviour(declined="generic_decline"),
    "4000000000009995": Behaviour(declined="insufficient_funds"),
    "4000000000009987": Behaviour(declined="lost_card"), "4000000000009979": Behaviour(declined="stolen_card"),
    "4000000000000069": Behaviour(declined="expired_card"),
    "4000000000000127": Behaviour(declined="incorrect_cvc", cvc_check="fail"),
    "4000000000000119": Behaviour(declined="processing_error"),
    "4000000000006975": Behaviour(declined="card_velocity_exceeded"),
    "4000000000000341": Behaviour(declined="generic_decline"),
    "4000000000000101": Behaviour(cvc_check="fail"),
    "4100000000000019": Behaviour(declined="fraudulent", blocked=True, risk_level="highest", risk_score=92),
    "4000000000004954": Behaviour(risk_level="highest", risk_score=81),
    "4000000000009235": Behaviour(risk_level="elevated", risk_score=69),
    "4000000000000259": Behaviour(dispute="fraudulent"),
    "4000000000002685": Behaviour(dispute="product_not_received"),
    "4000000000001976": Behaviour(dispute="general", inquiry=True),
    "4000000000005423": Behaviour(warning=True),
    "4000002500003155": Behaviour(authenticate=True), "4000002760003184": Behaviour(authenticate=True),
    "4000000000003220": Behaviour(authenticate=True),
    "4000000000007726": Behaviour(refund="pending"),
}  # fmt: skip
# Ready-made methods and tokens of the SDKs' examples: the name after pm_card_ or tok_.
_NAMES = {
    "visa": "4242424242424242", "visa_debit": "4000056655665556", "mastercard": "5555555555554444",
    "mastercard_debit": "5200828282828210", "mastercard_prepaid": "5105105105105100", "amex": "378282246310005",
    "discover": "6011111111111117", "diners": "3056930009020004", "jcb": "3566002020360505",
    "unionpay": "6200000000000005", "fr": "4000002500000003", "de": "4000002760000016", "gb": "4000008260000000",
    "ca": "4000001240000000", "bypassPending": "4000000000000077", "createDispute": "4000000000000259",
    "createDisputeProductNotReceived": "4000000000002685", "createDisputeInquiry": "4000000000001976",
    "createIssuerFraudRecord": "4000000000005423",
    "visa_chargeDeclined": "4000000000000002", "chargeDeclined": "4000000000000002",
    "visa_chargeDeclinedInsufficientFunds": "4000000000009995",
    "chargeDeclinedInsufficientFunds": "4000000000009995", "visa_chargeDeclinedLostCard": "4000000000009987",
    "visa_chargeDeclinedStolenCard": "4000000000009979", "chargeDeclinedExpiredCard": "4000000000000069",
    "chargeDeclinedIncorrectCvc": "4000000000000127", "chargeDeclinedProcessingError": "4000000000000119",
    "chargeCustomerFail": "4000000000000341", "riskLevelHighest": "4000000000004954",
    "riskLevelElevated": "4000000000009235", "radarBlock": "4100000000000019",
    "authenticationRequired": "4000002760003184", "threeDSecure2Required": "4000000000003220",
    "pendingRefund": "4000000000007726",
}  # fmt: skip


def named(token: str) -> CardNumber | None:
    """The card behind `pm_card_...` or `tok_...`; None for other names."""
    for prefix in ("pm_card_", "tok_"):
        if token.startswith(prefix) and token.removeprefix(prefix) in _NAMES:
            return CardNumber(_NAMES[token.removeprefix(prefix)])
    return None


def behaviour_of(number: CardNumber) -> Behaviour:
    return _TABLE.get(number.digits, Behaviour(funding="unknown"))


class Issuer:
    """Recognises test cards by what the vault knows of them."""

    def __init__(self, ring: Keyring) -> None:
        self._by_mac = {CardNumber(digits).mac(ring): behaviour for digits, behaviour in _TABLE.items()}

    def of(self, number_mac: bytes | None) -> Behaviour:
        """What a method's card does; one without a number in the vault is approved."""
        return APPROVED if number_mac is None else self._by_mac.get(number_mac, APPROVED)

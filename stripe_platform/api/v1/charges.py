"""/v1/charges: the attempts behind payment intents."""

from __future__ import annotations

from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import merged_metadata, texts
from stripe_platform.oltp import remarks

router = Resource("charges")


@router.reads("/v1/charges/{id}")
def retrieve(call: Call) -> Json:
    """A charge."""
    call.params.end()
    return call.present.render("charge", [call.row("charge")])[0]


@router.writes("/v1/charges/{id}")
def update(call: Call) -> Json:
    """Change its description, receipt e-mail or metadata."""
    row, params = call.row("charge"), call.params
    values = texts(params, "description", "receipt_email")
    if params.given("metadata"):
        values["metadata"] = merged_metadata(params, row["metadata"])
    params.end()
    remarks.annotate_charge(call.conn, call.ring, charge_id=row["id"], subject=row["customer_id"] or row["id"],
                                values=values)  # fmt: skip
    return call.show("charge", row["id"])


@router.reads("/v1/charges")
def listing(call: Call) -> Json:
    """Charges, newest first."""
    return call.list("charge", "customer", "payment_intent")

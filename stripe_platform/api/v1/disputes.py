"""/v1/disputes. In test mode the text of the evidence decides, as with Stripe: winning_evidence or losing_evidence."""

from __future__ import annotations

from stripe_platform.api.front import Call
from stripe_platform.api.render import Json
from stripe_platform.api.routing import Resource
from stripe_platform.api.v1.common import merged_metadata
from stripe_platform.oltp import disputes, remarks

router = Resource("disputes")
_DECIDES = {"winning_evidence": "won", "losing_evidence": "lost"}
_REVIEW = {"needs_response": "under_review", "warning_needs_response": "warning_under_review"}


@router.reads("/v1/disputes/{id}")
def retrieve(call: Call) -> Json:
    """A dispute."""
    call.params.end()
    return call.present.render("dispute", [call.row("dispute")])[0]


@router.writes("/v1/disputes/{id}")
def update(call: Call) -> Json:
    """Hand in evidence (submitted unless `submit` is false), or change metadata. Its texts are judged and not kept."""
    row, params = call.row("dispute"), call.params
    evidence = params.object("evidence")
    said = evidence.text("uncategorized_text", longest=20_000, sealed=True) if evidence else None
    others = evidence.rest() if evidence else 0
    submit = params.boolean("submit")
    metadata = merged_metadata(params, row["metadata"])
    params.end()
    values: dict[str, object] = {} if metadata is None else {"metadata": metadata}
    brought = said is not None or others > 0
    if brought:
        values["evidence_has"] = True
    if submit is not False and (brought or submit) and row["status"] in _REVIEW:
        values["evidence_submissions"] = (row["evidence_submissions"] or 0) + 1
        disputes.set_dispute_status(call.conn, dispute_id=row["id"], status=_REVIEW[row["status"]],
                                    idempotency=call.idempotency)  # fmt: skip
        decided = _DECIDES.get(said or "") if row["status"] == "needs_response" and not call.key.livemode else None
        if decided:
            disputes.set_dispute_status(call.conn, dispute_id=row["id"], status=decided)
    charge = call.row("charge", row["charge_id"])
    remarks.annotate_dispute(call.conn, call.ring, dispute_id=row["id"],
                                 subject=charge["customer_id"] or row["id"], values=values)
    return call.show("dispute", row["id"])


@router.writes("/v1/disputes/{id}/close")
def close(call: Call) -> Json:
    """Give it up: it is lost."""
    row = call.row("dispute")
    call.params.end()
    disputes.set_dispute_status(call.conn, dispute_id=row["id"], status="lost", idempotency=call.idempotency)
    return call.show("dispute", row["id"])


@router.reads("/v1/disputes")
def listing(call: Call) -> Json:
    """Disputes, newest first."""
    return call.list("dispute", "charge", "payment_intent")

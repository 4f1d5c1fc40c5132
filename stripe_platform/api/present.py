"""Objects as a merchant sees them: read, rendered, filled with their parts, and expanded where asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from stripe_platform.api.errors import ApiError
from stripe_platform.api.render import SHAPES, Json
from stripe_platform.keyring import Keyring
from stripe_platform.oltp import objects

MAX_EXPANSIONS, MAX_DEPTH, MOST_PARTS = 20, 4, 100
# Field of any object: the kind that its id names.
EXPANDABLE = {
    "balance_transaction": "balance_transaction", "charge": "charge", "customer": "customer",
    "default_payment_method": "payment_method", "default_price": "price",
    "failure_balance_transaction": "balance_transaction", "invoice": "invoice", "latest_charge": "charge",
    "latest_invoice": "invoice", "payment_intent": "payment_intent", "payment_method": "payment_method",
    "price": "price", "product": "product", "subscription": "subscription",
}  # fmt: skip
# By the head of an id: what a balance transaction's source is.
_SOURCES = {"ch": "charge", "re": "refund", "dp": "dispute"}


class Presenter:
    """Reads and renders for one merchant on one connection."""

    def __init__(self, conn: psycopg.Connection, ring: Keyring, account_id: str) -> None:
        self._conn, self._ring, self._account = conn, ring, account_id

    def one(self, kind: str, object_id: str) -> Json | None:
        """The object, None when the merchant has none of that id."""
        return self.many(kind, [object_id]).get(object_id)

    def many(self, kind: str, ids: Sequence[str]) -> dict[str, Json]:
        rows = objects.find_many(self._conn, self._ring, kind, self._account, ids)
        return dict(zip(rows, self.render(kind, list(rows.values())), strict=True))

    def render(self, kind: str, rows: Sequence[objects.Row]) -> list[Json]:
        """Rows in their shape, with the parts that belong to them."""
        made = [SHAPES[kind](row, self._ring) for row in rows]
        if kind == "subscription":
            self._fill(made, "items", "subscription_item", "subscription")
        elif kind == "invoice":
            self._fill([one for one in made if "lines" in one], "lines", "line_item", "invoice")
        elif kind == "event":
            self._put_objects(made, rows)
        return made

    def listed(self, kind: str, page: objects.Page, url: str) -> Json:
        """A page as a list object."""
        return {"object": "list", "data": self.render(kind, page.rows), "has_more": page.has_more, "url": url}

    def _fill(self, wholes: list[Json], field: str, kind: str, name: str) -> None:
        """Parts of many objects in one query; prices of items in one more."""
        ids = [whole["id"] for whole in wholes]
        if not ids:
            return
        page = objects.page(self._conn, self._ring, kind, self._account, limit=MOST_PARTS * len(ids),
                            filters={name: ids})  # fmt: skip
        parts = self.render(kind, page.rows)
        if kind == "subscription_item":
            prices = self.many("price", [part["price"] for part in parts if part["price"]])
            for part in parts:
                part["price"] = prices.get(part["price"], part["price"])
        for whole in wholes:
            own = [part for part in parts if part[name] == whole["id"]]
            plural = {"items": f"/v1/subscription_items?subscription={whole['id']}",
                      "lines": f"/v1/invoices/{whole['id']}/lines"}[field]
            whole[field] = {"object": "list", "data": own, "has_more": False, "total_count": len(own), "url": plural}

    def _put_objects(self, made: list[Json], rows: Sequence[objects.Row]) -> None:
        """The object behind each event as it is now; one that is gone is named by its id."""
        wanted: dict[str, set[str]] = {}
        for row in rows:
            if row["object_kind"] in SHAPES and row["object_kind"] != "event":
                wanted.setdefault(row["object_kind"], set()).add(row["object_id"])
        found = {kind: self.many(kind, sorted(ids)) for kind, ids in wanted.items()}
        for event, row in zip(made, rows, strict=True):
            kind, object_id = row["object_kind"], row["object_id"]
            event["data"]["object"] = found.get(kind, {}).get(object_id, {"id": object_id, "object": kind})

    def expand(self, body: Json, paths: Sequence[str]) -> None:
        """Replace ids by their objects along dotted paths, in place."""
        if len(paths) > MAX_EXPANSIONS:
            raise ApiError(400, f"At most {MAX_EXPANSIONS} fields can be expanded at once: ask for fewer.",
                           param="expand")
        for path in sorted(paths, key=len):
            parts = path.split(".")
            if len(parts) > MAX_DEPTH + 1:
                raise ApiError(400, f"Expansion goes {MAX_DEPTH} levels deep: shorten the path.", param="expand")
            self._expand([body], parts)

    def _expand(self, nodes: list[Any], parts: list[str]) -> None:
        for part in parts:
            nodes = list(_flat(nodes))
            self._open([node for node in nodes if isinstance(node.get(part), str)], part)
            reached = [node[part] for node in nodes if part in node]
            if nodes and not reached:
                raise ApiError(400, "A field to expand does not exist here: check the names in expand.", param="expand")
            nodes = [value for value in reached if isinstance(value, dict | list)]

    def _open(self, nodes: list[Json], field: str) -> None:
        by_kind: dict[str, list[Json]] = {}
        for node in nodes:
            kind = _SOURCES.get(node[field].split("_")[0]) if field == "source" else EXPANDABLE.get(field)
            if kind is None:
                raise ApiError(400, "A field cannot be expanded: check the names in expand.", param="expand")
            by_kind.setdefault(kind, []).append(node)
        for kind, several in by_kind.items():
            found = self.many(kind, sorted({node[field] for node in several}))
            for node in several:
                node[field] = found.get(node[field], node[field])


def _flat(nodes: Sequence[Any]) -> Iterator[Json]:
    for node in nodes:
        if isinstance(node, list):
            yield from _flat(node)
        elif isinstance(node, dict):
            yield node

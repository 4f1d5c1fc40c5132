"""The features by the letter of their definition, charge by charge, without any of the SQL's ideas."""

from __future__ import annotations

import pandas as pd

from stripe_platform.features.declarations import ENTITY_COLUMNS, FEATURE_NAMES, FEATURES, Current

DAY = pd.Timedelta(days=1)


def features(charges: pd.DataFrame, disputes: pd.DataFrame) -> pd.DataFrame:
    """One row per charge that did not fail, indexed by charge_id; None where a charge has no such entity."""
    counted = charges[charges.get("status", pd.Series("succeeded", charges.index)) != "failed"]
    rows = counted.astype({"amount_eur": object}).to_dict("records")
    for row in rows:
        row["amount_eur"] = None if pd.isna(row["amount_eur"]) else int(row["amount_eur"])
    known: dict[str, pd.Timestamp] = {}
    for d in disputes.to_dict("records"):
        if d.get("reason", "fraudulent") == "fraudulent":
            known[d["charge_id"]] = min(d["created"], known.get(d["charge_id"], d["created"]))
    made = pd.DataFrame([_one(row, rows, known) for row in rows], columns=["charge_id", *FEATURE_NAMES])
    return made.set_index("charge_id").sort_index()


def _one(row: dict, rows: list[dict], known: dict[str, pd.Timestamp]) -> dict:
    t, made = row["created"], {"charge_id": row["charge_id"]}
    for f in FEATURES:
        if isinstance(f, Current):
            amount = None if row["amount_eur"] is None else row["amount_eur"] / 100
            made[f.name] = {"amount": amount, "weekend": int(t.weekday() >= 5), "night": int(t.hour <= 6)}[f.value]
            continue
        column = ENTITY_COLUMNS[f.entity]
        if row[column] is None:
            made[f.name] = None
            continue
        newest = t - f.delay_days * DAY
        window = [r for r in rows if r[column] == row[column] and newest - f.window_days * DAY < r["created"] <= newest
                  and (f.delay_days or r["created"] < t or r["charge_id"] <= row["charge_id"])]
        if f.aggregate == "count":
            made[f.name] = len(window)
        elif f.aggregate == "mean_amount":
            priced = [r["amount_eur"] for r in window if r["amount_eur"] is not None]
            made[f.name] = sum(priced) / 100 / len(priced) if priced else None
        else:
            frauds = sum(1 for r in window if r["charge_id"] in known and known[r["charge_id"]] <= t)
            made[f.name] = frauds / len(window) if window else 0.0
    return made

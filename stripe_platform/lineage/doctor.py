"""What is wrong with this deployment, each problem one sentence with its remedy."""

from __future__ import annotations

import dagster as dg

from stripe_platform import keys
from stripe_platform.lineage import graph
from stripe_platform.settings import MissingSettingError, Settings

REQUIRED = ("oltp_dsn", "oltp_owner_dsn", "ingest_dsn", "cdc_dsn", "warehouse_dsn", "dagster_dsn", "mongodb_uri",
            "reference_dsn", "reference_owner_dsn", "reference_cdc_dsn", "reference_copier_dsn")


def settings_problems(settings: Settings) -> list[str]:
    """Settings that some command will need and that have no value."""
    found = []
    for name in REQUIRED:
        if name == "warehouse_dsn" and settings.warehouse == "snowflake":
            continue
        try:
            settings.need(name)
        except MissingSettingError as missing:
            found.append(str(missing))
    if settings.warehouse == "snowflake":
        found += [
            f"STRIPE_PLATFORM_{name.upper()} is not set: Snowflake needs it, see .env.example"
            for name in ("snowflake_account", "snowflake_user", "snowflake_private_key_path", "snowflake_warehouse")
            if getattr(settings, name) is None
        ]
    return found


def store_problems(settings: Settings) -> list[str]:
    """Stores that do not answer."""
    import psycopg
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    found = []
    for name in ("oltp_dsn", "reference_dsn", "warehouse_dsn", "dagster_dsn"):
        if getattr(settings, name) is None:
            continue
        try:
            psycopg.connect(settings.need(name), connect_timeout=3).close()
        except psycopg.OperationalError as error:
            found.append(f"{name} does not answer ({type(error).__name__}): run `stripe-platform up`")
    if settings.mongodb_uri is not None:
        try:
            client: MongoClient[dict[str, object]]
            client = MongoClient(settings.need("mongodb_uri"), serverSelectionTimeoutMS=3000)
            with client:
                client.admin.command("ping")
        except PyMongoError as error:
            found.append(f"the document server does not answer ({type(error).__name__}): run `stripe-platform up`")
    return found


def reference_problems(settings: Settings) -> list[str]:
    """Copies that lag behind the reference's captured log, and messages that were not delivered."""
    import psycopg

    from stripe_platform.reference import copies
    from stripe_platform.reference.database import REFERENCE, connect

    found = []
    try:
        with psycopg.connect(settings.need("oltp_dsn"), connect_timeout=3) as oltp, connect(settings) as reference:
            late = copies.behind(oltp, REFERENCE.lake(settings))
            waiting = reference.execute("select count(*) from ops.outbox where done_at is null").fetchone()
    except (psycopg.Error, MissingSettingError):
        return []  # told as a setting that lacks or a store that does not answer
    if late:
        found.append(f"the OLTP's copies are {late} batches behind the reference: run `stripe-platform reference sync`")
    if waiting and waiting[0]:
        found.append(f"{waiting[0]} messages wait in the reference's outbox: run `stripe-platform reference sync`")
    return found


def diagnose(settings: Settings, defs: dg.Definitions) -> list[str]:
    """All problems: settings, stores, and the asset graph as it loads."""
    return [
        *settings_problems(settings),
        *store_problems(settings),
        *reference_problems(settings),
        *graph.problems(graph.describe(defs), keys.LAYERS),
    ]

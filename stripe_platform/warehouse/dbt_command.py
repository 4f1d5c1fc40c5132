"""dbt with this deployment's settings: `python -m stripe_platform.warehouse.dbt_command build --select ...`.

Sets the connection for `profiles.yml` in its own process only, and hands dbt the manifest that `ensure_manifest`
prepared. That also lets `--vars` change from run to run: parsing with other vars would be a full parse each time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from stripe_platform.settings import MissingSettingError, Settings, load_settings
from stripe_platform.warehouse.dbt_project import DBT_DIR, DbtParseError, ensure_manifest, target_dir

_DATABASE = {"postgres": "STRIPE_PLATFORM_DBT_DATABASE", "snowflake": "STRIPE_PLATFORM_SNOWFLAKE_DATABASE"}
# These read or write the manifest themselves, or need none.
_PARSERS = frozenset({"parse", "deps", "clean", "debug", "init"})


def connection_environment(settings: Settings) -> dict[str, str]:
    """The variables that `profiles.yml` reads. Empty where a setting has no value: parsing needs none."""
    env: dict[str, str] = {"STRIPE_PLATFORM_WAREHOUSE": settings.warehouse}
    if settings.warehouse == "snowflake":
        names = ("account", "user", "private_key_path", "database", "warehouse", "role")
        values = {name: getattr(settings, f"snowflake_{name}") for name in names}
        return env | {f"STRIPE_PLATFORM_SNOWFLAKE_{n.upper()}": str(v) for n, v in values.items() if v is not None}
    if settings.warehouse_dsn is None:
        return env
    from psycopg.conninfo import conninfo_to_dict

    dsn = {name: str(value) for name, value in conninfo_to_dict(settings.need("warehouse_dsn")).items()}
    return env | {
        "STRIPE_PLATFORM_DBT_HOST": dsn.get("host", "localhost"),
        "STRIPE_PLATFORM_DBT_PORT": dsn.get("port", "5432"),
        "STRIPE_PLATFORM_DBT_USER": dsn.get("user", ""),
        "STRIPE_PLATFORM_DBT_DATABASE": dsn.get("dbname", ""),
        "STRIPE_PLATFORM_DBT_SSLMODE": dsn.get("sslmode", "prefer"),
        "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": dsn.get("password", ""),
    }


def run(arguments: Sequence[str]) -> int:
    """Run dbt in this process; returns its exit code (0 success, 1 failed nodes, 2 error)."""
    os.environ.update(connection_environment(load_settings()))
    os.environ.setdefault("DBT_PROJECT_DIR", str(DBT_DIR))
    os.environ.setdefault("DBT_PROFILES_DIR", str(DBT_DIR))
    # A test with two parents runs with the later one: never before both tables exist.
    os.environ.setdefault("DBT_INDIRECT_SELECTION", "buildable")
    from dbt.cli.main import dbtRunner

    command = next((a for a in arguments if not a.startswith("-")), "")
    manifest = None if command in _PARSERS else _prepared(_target(arguments))
    result = dbtRunner(manifest=manifest).invoke(list(arguments))
    if result.exception is not None:
        print(result.exception, file=sys.stderr)
        return 2
    return 0 if result.success else 1


def _target(arguments: Sequence[str]) -> str:
    for i, argument in enumerate(arguments):
        if argument in ("--target", "-t") and i + 1 < len(arguments):
            return arguments[i + 1]
    return os.environ["STRIPE_PLATFORM_WAREHOUSE"]


def _prepared(target: str) -> Any:
    from dbt.contracts.graph.manifest import Manifest

    ensure_manifest(target)
    manifest = Manifest.from_msgpack((target_dir(target) / "partial_parse.msgpack").read_bytes())
    # Parsing wrote the database's name into every node; the name belongs to the deployment, not to the project.
    name = os.environ.get(_DATABASE["snowflake" if target.startswith("snowflake") else target])
    for node in (*manifest.nodes.values(), *manifest.sources.values()):
        if name and node.database and node.relation_name:
            node.relation_name = node.relation_name.replace(node.database, name, 1)
            node.database = name
    return manifest


def main(arguments: Sequence[str]) -> int:
    """`run`, with the errors that a user can mend as one sentence."""
    try:
        return run(arguments)
    except (DbtParseError, MissingSettingError) as error:
        print(f"dbt: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

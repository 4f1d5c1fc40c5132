"""The one place that reads the environment: connections, folders and the calendar of this deployment.

Order of precedence: process environment, `.env`, then two files in the data folder: `connections.env`, which
`stripe-platform up` writes with the embedded servers' ports and passwords, and `calendar.env` of `demo`.
"""

from __future__ import annotations

import datetime as dt
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

FIRST_DAY = dt.date(2026, 6, 1)  # simulated calendars are fixed and past: tomorrow's demo gives today's hashes
PROJECT_ROOT = Path(__file__).resolve().parent.parent


class MissingSettingError(RuntimeError):
    """A setting that this command needs has no value; the message names it and the remedy."""


def data_folder() -> Path:
    """Folder of everything local that git ignores (`STRIPE_PLATFORM_HOME`, else `.platform` in the project)."""
    return Path(os.environ.get("STRIPE_PLATFORM_HOME") or PROJECT_ROOT / ".platform").resolve()


class Settings(BaseSettings):
    """Values of one deployment. Secrets are `SecretStr`: their repr never shows them."""

    model_config = SettingsConfigDict(env_prefix="STRIPE_PLATFORM_", extra="ignore", populate_by_name=True, frozen=True)

    profile: Literal["local", "staging", "prod"] = "local"
    home: Path = Field(default_factory=data_folder)

    oltp_owner_dsn: SecretStr | None = None  # migrations only
    oltp_dsn: SecretStr | None = None  # write API: DML, no DDL
    ingest_dsn: SecretStr | None = None  # as above, and merchants and products that come from Stripe
    cdc_dsn: SecretStr | None = None  # REPLICATION: no table rights, yet it may copy the whole cluster (BASE_BACKUP)
    reference_owner_dsn: SecretStr | None = None  # migrations only
    reference_dsn: SecretStr | None = None  # write API of the reference: DML, no DDL
    reference_cdc_dsn: SecretStr | None = None  # REPLICATION, as above
    reference_copier_dsn: SecretStr | None = None  # the payments database: its copies of the reference, nothing else
    warehouse: Literal["postgres", "snowflake"] = "postgres"
    warehouse_dsn: SecretStr | None = None
    dagster_dsn: SecretStr | None = None
    mongodb_uri: SecretStr | None = Field(default=None, validation_alias="MONGODB_URI")
    mongodb_database: str = "stripe_platform"

    lake_url: str | None = None  # folder or s3://bucket/prefix; default: <home>/lake
    s3_endpoint_url: str | None = None
    keyring: Path | None = None  # default: <home>/keyring.json

    cdc_slot: str = "stripe_platform"
    cdc_publication: str = "stripe_platform"
    reference_slot: str = "stripe_platform_reference"
    reference_publication: str = "stripe_platform_reference"
    batch_days: int | None = Field(default=35, ge=0)  # days that keep their batch files; none: all do, for ever
    sources: Path | None = None  # TOML file of further databases to capture
    first_day: dt.date = FIRST_DAY  # first daily partition of this deployment

    stripe_api_key: SecretStr | None = None  # live backfill; read rights suffice
    stripe_api_base: str | None = None  # default: Stripe's own address
    stripe_webhook_secret: SecretStr | None = None  # several, with spaces or commas between them, while one is rotated

    api_rate: float = 1000.0  # requests a second per key and process

    snowflake_account: str | None = None
    snowflake_user: str | None = None
    snowflake_private_key_path: Path | None = None
    snowflake_database: str = "STRIPE_PLATFORM"
    snowflake_warehouse: str | None = None
    snowflake_role: str | None = None
    snowflake_follow_seconds: float = Field(default=60.0, ge=0)  # between two transactions of a follower

    @field_validator("batch_days", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if value == "none" else value

    def need(self, name: str) -> str:
        """Value of a setting as text; raises `MissingSettingError` with the remedy when it is not set."""
        value = getattr(self, name)
        if value is None:
            variable = "MONGODB_URI" if name == "mongodb_uri" else f"STRIPE_PLATFORM_{name.upper()}"
            raise MissingSettingError(f"{variable} is not set: run `stripe-platform up`, or set it in .env")
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    def variable(self, name: str) -> str | None:
        """An environment variable that a file of this deployment names; None where it is not set."""
        return os.environ.get(name)

    @property
    def lake(self) -> str:
        return self.lake_url or str(self.home / "lake")

    @property
    def landing(self) -> Path:
        """Files that other systems drop for us (clickstream, feedback): JSONL, one folder per day."""
        return self.home / "landing"

    @property
    def keyring_path(self) -> Path:
        return self.keyring or self.home / "keyring.json"


def load_settings() -> Settings:
    """Settings as they are now: `up` and `demo` write `connections.env`, and whoever asks next gets what it says.

    A demo asks thousands of times, so what did not change is not parsed again.
    """
    files = (data_folder() / "calendar.env", data_folder() / "connections.env", PROJECT_ROOT / ".env")
    standing = tuple((str(file), found.st_mtime_ns, found.st_size, found.st_ino)
                     for file in files if (found := _stat(file)) is not None)
    own = sorted(item for item in os.environ.items() if item[0].upper().startswith(("STRIPE_PLATFORM_", "MONGODB_")))
    return _settings(standing, tuple(own))


@lru_cache(maxsize=8)
def _settings(files: tuple[tuple[str, int, int, int], ...], _environment: tuple[tuple[str, str], ...]) -> Settings:
    return Settings(_env_file=[name for name, *_ in files])  # type: ignore[call-arg]


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None

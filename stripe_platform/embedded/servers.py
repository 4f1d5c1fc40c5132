"""`up`, `down` and `status` of the local servers: two PostgreSQL clusters and a Mongo-wire server.

Nothing that production uses. Everything is remembered in the home folder, which git ignores. A connection URL that
the user sets replaces the embedded server; then nothing is started for it.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stripe_platform import progress
from stripe_platform.embedded import documents, external, places, postgres, state
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.places import Place
from stripe_platform.embedded.postgres import Cluster
from stripe_platform.embedded.state import State
from stripe_platform.settings import PROJECT_ROOT

CLUSTERS = ("oltp", "warehouse")
DOCUMENTS = "documents"
ROLES = {
    "oltp": {
        "payments_owner": "", "payments_app": "", "payments_ingest": "", "payments_cdc": "replication",
        "reference_owner": "", "reference_app": "", "reference_copier": "",
    },
    "warehouse": {"warehouse": "", "dagster": ""},
}
# cluster: variable: (role, database)
VARIABLES = {
    "oltp": {
        "STRIPE_PLATFORM_OLTP_OWNER_DSN": ("payments_owner", "oltp"),
        "STRIPE_PLATFORM_OLTP_DSN": ("payments_app", "oltp"),
        "STRIPE_PLATFORM_INGEST_DSN": ("payments_ingest", "oltp"),
        "STRIPE_PLATFORM_CDC_DSN": ("payments_cdc", "oltp"),
        "STRIPE_PLATFORM_REFERENCE_OWNER_DSN": ("reference_owner", "reference"),
        "STRIPE_PLATFORM_REFERENCE_DSN": ("reference_app", "reference"),
        "STRIPE_PLATFORM_REFERENCE_CDC_DSN": ("payments_cdc", "reference"),
        "STRIPE_PLATFORM_REFERENCE_COPIER_DSN": ("reference_copier", "oltp"),
    },
    "warehouse": {
        "STRIPE_PLATFORM_WAREHOUSE_DSN": ("warehouse", "warehouse"),
        "STRIPE_PLATFORM_DAGSTER_DSN": ("dagster", "dagster"),
    },
}
INSTANCE_TEMPLATE = PROJECT_ROOT / "deploy" / "dagster.yaml"


def up(home: Path, variables: Mapping[str, str] | None = None, *, fsync: bool = True) -> None:
    """Start what does not run, wait until it answers, write `connections.env` and Dagster's instance file.

    `variables` (default: `.env` and the environment) may name servers of the user's own. Without `fsync`, PostgreSQL
    starts unsafe against a power cut, which suits tests. Raises `ServerError` (one
    sentence with the remedy) when a server cannot be had or a port is taken.
    """
    variables = external.user_variables() if variables is None else variables
    with state.locked(home):
        place, known = places.choose(home), State.load(home)
        ports = state.choose_ports(home, (*CLUSTERS, DOCUMENTS))
        clusters = {name: _cluster(name, place, known, ports, fsync=fsync) for name in CLUSTERS}
        roles = {name: {role: known.password(role) for role in ROLES[name]} for name in CLUSTERS}
        replaced = {name: external.replaces(variables, VARIABLES[name], ports.values()) for name in CLUSTERS}
        known.save()  # before initdb sets the passwords: a kill in between must not lose them
        with ThreadPoolExecutor(3) as pool, progress.stage("local servers", 3) as advance:
            tasks = {name: pool.submit(_start_cluster, clusters[name], roles[name], replaced[name])
                     for name in CLUSTERS}
            tasks[DOCUMENTS] = pool.submit(_start_documents, place, known, ports, variables)
            for task in tasks.values():
                task.exception()
                advance(1)
        known.facts.update({name: task.result() for name, task in tasks.items() if task.exception() is None})
        known.save()  # also when one of them failed: what did start must be found by `down`
        for task in tasks.values():
            task.result()
        _write_connections(known, clusters, replaced)


def down(home: Path, *, orderly: bool = True) -> None:
    """Stop the servers of this home and make sure that no process of theirs is left. The data stay.

    Not `orderly`: they end at once, and recover from their logs at the next start.
    """
    if not home.exists():
        return
    with state.locked(home):
        place, known = places.find(home), State.load(home)
        if place is None:
            return
        stops = [_cluster(name, place, known, state.ports(home)).stop for name in CLUSTERS]
        folders = [p for p in place.data.iterdir() if p.is_dir() and p.name.startswith(("documents-", "mongod"))]
        with ThreadPoolExecutor(3) as pool:
            tasks = [pool.submit(stop, "fast" if orderly else "immediate") for stop in stops]
            tasks += [pool.submit(documents.stop, folder, known.processes.get(DOCUMENTS),
                                  signal.SIGTERM if orderly else signal.SIGKILL) for folder in folders]
        for task in tasks:
            task.result()
        known.processes.clear()
        known.save()


def status(home: Path) -> list[dict[str, str]]:
    """One row per server: name, kind, version, port, state, pid, data folder, databases (empty where there is none).

    Kinds: wheel (PostgreSQL), embedded, mongod, external. States: running, starting, stopped; of an external server:
    answering, not answering.
    """
    place, known = places.find(home), State.load(home)
    ports = state.ports(home)
    rows = []
    for name in (*CLUSTERS, DOCUMENTS):
        facts = known.facts.get(name, {})
        row = {"name": name, "kind": facts.get("kind", ""), "version": facts.get("version", ""), "port": "",
               "state": "stopped", "pid": "", "data": facts.get("data", ""), "databases": _databases(name)}
        if row["kind"] == "external":
            row["state"] = "answering" if _answers(name, facts) else "not answering"
        elif place is not None and facts:
            row["port"] = str(ports.get(name, ""))
            row["state"], row["pid"] = _running(name, place, known, ports)
        rows.append(row)
    return rows


def remove(home: Path) -> None:
    """Stop the servers and delete the home with all data (tests, a fresh start)."""
    down(home, orderly=False)
    place = places.find(home) if home.exists() else None
    if place is not None:
        shutil.rmtree(place.data)
    if home.exists():
        shutil.rmtree(home)


def superuser(home: Path, name: str) -> str:
    """Connection URL of a cluster's superuser: for tests and administration, never written into connections.env."""
    place, known = places.find(home), State.load(home)
    if place is None or name not in CLUSTERS:
        raise ServerError(f"There is no {name} database in {home}: run `stripe-platform up`")
    return _cluster(name, place, known, state.ports(home)).dsn()


def _cluster(name: str, place: Place, known: State, ports: dict[str, int], *, fsync: bool = True) -> Cluster:
    return Cluster(name, place, ports.get(name, 0), known.password(f"{name}/postgres"), fsync)


def _start_cluster(cluster: Cluster, roles: dict[str, str], urls: dict[str, str]) -> dict[str, str]:
    """Start one cluster, or check the user's own; returns its facts for `status`."""
    if urls:
        return {"kind": "external", "version": external.check_postgres(urls), "uri": next(iter(urls.values()))}
    cluster.make()
    cluster.start()
    prepared = cluster.place.data / f"{cluster.name}.prepared"
    wanted = "".join(f"{role} {database}\n" for role, database in VARIABLES[cluster.name].values())
    if not prepared.exists() or prepared.read_text() != wanted:  # new, or made by a release with fewer of them
        postgres.ensure_roles(cluster, roles, ROLES[cluster.name])
        for role, database in VARIABLES[cluster.name].values():
            postgres.ensure_database(cluster, database, role)
        prepared.write_text(wanted)
    return {"kind": "wheel", "version": postgres.version(cluster.place), "data": str(cluster.data)}


def _start_documents(place: Place, known: State, ports: dict[str, int], variables: Mapping[str, str]) -> dict[str, str]:
    """Start the Mongo-wire server, or check the user's own; returns its facts for `status`."""
    uri = external.url(variables, "MONGODB_URI", ports.values())
    if uri:
        return {"kind": "external", "version": documents.check_external(uri), "uri": uri}
    program = documents.choose(place, ports[DOCUMENTS], variables)
    running = documents.start(program, place, ports[DOCUMENTS], known.processes.get(DOCUMENTS))
    known.processes[DOCUMENTS] = running
    return {"kind": program.kind, "version": program.version, "uri": program.uri, "data": str(program.data)}


def _databases(name: str) -> str:
    """Databases of ours on a server."""
    return ", ".join(dict.fromkeys(database for _, database in VARIABLES.get(name, {}).values()))


def _running(name: str, place: Place, known: State, ports: dict[str, int]) -> tuple[str, str]:
    """State and pid of a server of ours."""
    if name == DOCUMENTS:
        process = documents.find(Path(known.facts[name]["data"]), known.processes.get(name))
        return ("running", str(process.pid)) if process else ("stopped", "")
    cluster = _cluster(name, place, known, ports)
    process = cluster.find()
    if process is None:
        return "stopped", ""
    return "running" if cluster.ready() else "starting", str(process.pid)


def _answers(name: str, facts: dict[str, str]) -> bool:
    try:
        if name == DOCUMENTS:
            documents.check_external(facts["uri"], seconds=3)
        else:
            external.check_postgres({name: facts["uri"]})
    except ServerError:
        return False
    return True


def _write_connections(known: State, clusters: dict[str, Cluster], replaced: dict[str, dict[str, str]]) -> None:
    values: dict[str, str] = {}
    for name, variables in VARIABLES.items():
        for variable, (role, database) in variables.items():
            own = clusters[name].dsn(role, known.password(role), database)
            values[variable] = replaced[name].get(variable, own)
    values["MONGODB_URI"] = known.facts[DOCUMENTS]["uri"]
    quoted = {variable: value.replace("\\", "\\\\").replace("'", "\\'") for variable, value in values.items()}
    lines = "".join(f"{variable}='{value}'\n" for variable, value in quoted.items())
    state.write_private(known.home / "connections.env", f"# Written by `stripe-platform up`; secret.\n{lines}")
    state.write_instance(known.home, INSTANCE_TEMPLATE, values["STRIPE_PLATFORM_DAGSTER_DSN"])

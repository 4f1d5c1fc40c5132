"""`up`, `down` and `status` of the local servers: two PostgreSQL clusters and a Mongo-wire server.

Nothing that production uses. Everything is remembered in the home folder, which git ignores.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from stripe_platform import progress
from stripe_platform.embedded import documents, places, postgres, state
from stripe_platform.embedded.errors import ServerError
from stripe_platform.embedded.places import Place
from stripe_platform.embedded.postgres import Cluster
from stripe_platform.embedded.state import State
from stripe_platform.settings import PROJECT_ROOT

CLUSTERS = ("oltp", "warehouse")
DOCUMENTS = "documents"
ROLES = {
    "oltp": {"payments_owner": "", "payments_app": "", "payments_cdc": "replication"},
    "warehouse": {"warehouse": "", "dagster": ""},
}
# variable: cluster, role, database
VARIABLES = {
    "STRIPE_PLATFORM_OLTP_OWNER_DSN": ("oltp", "payments_owner", "oltp"),
    "STRIPE_PLATFORM_OLTP_DSN": ("oltp", "payments_app", "oltp"),
    "STRIPE_PLATFORM_CDC_DSN": ("oltp", "payments_cdc", "oltp"),
    "STRIPE_PLATFORM_WAREHOUSE_DSN": ("warehouse", "warehouse", "warehouse"),
    "STRIPE_PLATFORM_DAGSTER_DSN": ("warehouse", "dagster", "dagster"),
}
INSTANCE_TEMPLATE = PROJECT_ROOT / "deploy" / "dagster.yaml"


def up(home: Path) -> None:
    """Start what does not run, wait until it answers, write `connections.env` and Dagster's instance file.

    Raises `ServerError` (one sentence with the remedy) when a server cannot be had or a port is taken.
    """
    with state.locked(home):
        place, known = places.choose(home), State.load(home)
        ports = state.ports(home, (*CLUSTERS, DOCUMENTS))
        clusters = {name: _cluster(name, place, known, ports) for name in CLUSTERS}
        roles = {name: {role: known.password(role) for role in ROLES[name]} for name in CLUSTERS}
        known.save()  # before initdb sets the passwords: a kill in between must not lose them
        with ThreadPoolExecutor(3) as pool, progress.stage("local servers", 3) as advance:
            tasks = [pool.submit(_start_cluster, cluster, roles[name]) for name, cluster in clusters.items()]
            tasks.append(pool.submit(_start_documents, place, known, ports[DOCUMENTS]))
            for task in tasks:
                task.exception()
                advance(1)
        known.save()
        for task in tasks:
            task.result()
        _write_connections(known, clusters)


def down(home: Path) -> None:
    """Stop the servers of this home and make sure that no process of theirs is left. The data stay."""
    if not home.exists():
        return
    with state.locked(home):
        place, known = places.find(home), State.load(home)
        if place is None:
            return
        ports = state.ports(home, (*CLUSTERS, DOCUMENTS))
        with ThreadPoolExecutor(3) as pool:
            tasks = [pool.submit(_cluster(name, place, known, ports).stop) for name in CLUSTERS]
            tasks.append(pool.submit(documents.stop, known.processes.get(DOCUMENTS)))
        for task in tasks:
            task.result()
        known.processes.clear()
        known.save()


def status(home: Path) -> list[dict[str, Any]]:
    """One row per server: name, kind, version, port, state (running | starting | stopped), pid, data folder."""
    place, known = places.find(home), State.load(home)
    ports = state.ports(home, (*CLUSTERS, DOCUMENTS)) if place else {}
    rows = []
    for name in CLUSTERS:
        cluster = _cluster(name, place, known, ports) if place else None
        process = cluster.find() if cluster else None
        running = "stopped" if process is None else "running" if cluster and cluster.ready() else "starting"
        rows.append(_row(name, "PostgreSQL, wheel", postgres.version(place) if place else "", ports.get(name), running,
                         process.pid if process else None, cluster.data if cluster else None))
    document = known.processes.get(DOCUMENTS)
    alive = document is not None and document.running()
    external = known.facts.get("kind") == "external"
    rows.append(_row(
        DOCUMENTS, known.facts.get("kind", ""), known.facts.get("version", ""),
        None if external else ports.get(DOCUMENTS), "external" if external else "running" if alive else "stopped",
        document.pid if document and alive else None, known.facts.get("data")))
    return rows


def remove(home: Path) -> None:
    """Stop the servers and delete their data (tests, `make clean`)."""
    down(home)
    place = places.find(home)
    if place is not None:
        shutil.rmtree(place.data)
    shutil.rmtree(home, ignore_errors=True)


def superuser(home: Path, name: str) -> str:
    """Connection URL of a cluster's superuser: for tests and administration, never written into connections.env."""
    place, known = places.find(home), State.load(home)
    if place is None or name not in CLUSTERS:
        raise ServerError(f"There is no {name} database in {home}: run `stripe-platform up`")
    return _cluster(name, place, known, state.ports(home, CLUSTERS)).dsn()


def _row(name: str, kind: str, version: str, port: int | None, running: str, pid: int | None,
         data: Path | str | None) -> dict[str, Any]:
    return {"name": name, "kind": kind, "version": version, "port": str(port or ""), "state": running,
            "pid": str(pid or ""), "data": str(data or "")}


def _cluster(name: str, place: Place, known: State, ports: dict[str, int]) -> Cluster:
    return Cluster(name, place, ports[name], known.password(f"{name}/postgres"))


def _start_cluster(cluster: Cluster, roles: dict[str, str]) -> None:
    with progress.stage(f"{cluster.name} database"):
        cluster.make()
        cluster.start()
        prepared = cluster.place.data / f"{cluster.name}.prepared"
        if not prepared.exists():
            postgres.ensure_roles(cluster, roles, ROLES[cluster.name])
            if cluster.name == "oltp":
                postgres.ensure_database(cluster, "oltp", "payments_owner", ("payments_app", "payments_cdc"))
            else:
                postgres.ensure_database(cluster, "warehouse", "warehouse")
                postgres.ensure_database(cluster, "dagster", "dagster")
            prepared.touch()


def _start_documents(place: Place, known: State, port: int) -> None:
    uri = _own_uri(known)
    if uri:
        version = documents.check_external(uri)
        known.facts = {"kind": "external", "version": version, "uri": uri}
        return
    program = documents.choose(place, port)
    running = known.processes.get(DOCUMENTS)
    known.processes[DOCUMENTS] = documents.start(program, place, port, running)
    known.facts = {"kind": program.kind, "version": program.version, "uri": program.uri, "data": str(program.data)}


def _own_uri(known: State) -> str | None:
    """MONGODB_URI when the user set it; the URL that an earlier `up` wrote does not count."""
    uri = os.environ.get("MONGODB_URI") or dotenv_values(PROJECT_ROOT / ".env").get("MONGODB_URI")
    ours = known.facts.get("kind") != "external" and uri == known.facts.get("uri")
    return None if not uri or ours else uri


def _write_connections(known: State, clusters: dict[str, Cluster]) -> None:
    values = {
        variable: clusters[name].dsn(role, known.password(role), database)
        for variable, (name, role, database) in VARIABLES.items()
    }
    values["MONGODB_URI"] = known.facts["uri"]
    lines = "".join(f"{variable}='{value}'\n" for variable, value in values.items())
    state.write_private(known.home / "connections.env", f"# Written by `stripe-platform up`; secret.\n{lines}")
    instance = known.home / "dagster"
    instance.mkdir(mode=0o700, exist_ok=True)
    facts = {"@PORT@": str(clusters["warehouse"].port), "@PASSWORD@": known.password("dagster"),
             "@HOME@": str(instance)}
    text = INSTANCE_TEMPLATE.read_text()
    for mark, value in facts.items():
        text = text.replace(mark, value)
    state.write_private(instance / "dagster.yaml", text)

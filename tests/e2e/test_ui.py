"""`stripe-platform ui` in a real browser: the graph, a run by clicking, a backfill, the sensor, a clean end."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from browser import CHROMIUM, GROUPS, group_boxes, open_page
from platforms import Platform

from stripe_platform.oltp.write import refund_charge

pytestmark = [pytest.mark.e2e, pytest.mark.ui]
Found = TypeVar("Found")
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
LAUNCHED = ("STARTING", "STARTED", *ENDED)
PATIENCE = 420  # seconds to wait for a run to end, a ceiling for busy machines: half a minute is usual
RUNS = """query($since: Float!) { runsOrError(filter: {createdAfter: $since}) { ... on Runs { results {
  runId jobName status assetSelection { path } tags { key value } } } } }"""
NODES = "{ assetNodes { assetKey { path } partitionDefinition { name } dependencyKeys { path } } }"
STATUS = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""
BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""


@dataclass(frozen=True)
class Ui:
    """A webserver with its daemon on a platform."""

    url: str
    platform: Platform
    process: subprocess.Popen[str]

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 loopback
            f"{self.url}/graphql", json.dumps({"query": query, "variables": variables}).encode(),
            {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 loopback
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def runs(self, since: float, tag: tuple[str, str] | None = None, job: str | None = None) -> list[dict[str, Any]]:
        """Runs created after `since` (Unix seconds), of this tag and of this job when given."""
        found = self.ask(RUNS, since=since)["runsOrError"]["results"]
        return [run for run in found if job in (None, run["jobName"])
                and (tag is None or {"key": tag[0], "value": tag[1]} in run["tags"])]

    def daily_upstream(self, asset: str) -> list[str]:
        """The asset and all it depends on, those with daily partitions."""
        nodes = {"/".join(node["assetKey"]["path"]): node for node in self.ask(NODES)["assetNodes"]}
        found, left = set(), [asset]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += ["/".join(parent["path"]) for parent in nodes[name]["dependencyKeys"]]
        return sorted(name for name in found if nodes[name]["partitionDefinition"])

    def status(self, run: str) -> str:
        return self.ask(STATUS, id=run)["runOrError"]["status"]

    def run_under_way(self) -> str:
        """Start a run of 28 days; its id, once it works."""
        since = time.time() - 1
        days = [f"2026-06-{day:02}" for day in range(1, 29)]
        assets = [{"path": ["cdc", "charges"]}, {"path": ["raw", "charges"]}]
        self.ask(BACKFILL, params={"partitionNames": days, "assetSelection": assets})
        return eventually(lambda: [r for r in self.runs(since) if r["status"] == "STARTED"], 90)[0]["runId"]

    def ended(self, runs: Callable[[], list[dict[str, Any]]], seconds: float) -> list[dict[str, Any]]:
        """The runs once there are some and all have ended."""
        return eventually(lambda: [r for r in runs() if all(x["status"] in ENDED for x in runs())], seconds)


def eventually(look: Callable[[], Found], seconds: float) -> Found:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing was found within {seconds} s"
        time.sleep(1)
    return found


@contextlib.contextmanager
def served(platform: Platform) -> Iterator[Ui]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (platform.home / "ui.log").open("w") as log:
        process = platform.popen("ui", "--port", str(port), stdout=log)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(url) or process.poll() is not None, 150)
        assert process.poll() is None, (platform.home / "ui.log").read_text()
        yield Ui(url, platform, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/server_info", timeout=5).close()  # noqa: S310 loopback
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs, by Linux's process table."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                child = int(status.parent.name)
                found += [child, *descendants(child)]
    return found


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(scope="module")
def ui(demo: tuple[Platform, dict]) -> Iterator[Ui]:
    with served(demo[0]) as running:
        yield running


def test_a_ui_that_ends_leaves_neither_process_nor_open_run_behind(demo):
    platform, _ = demo
    with served(platform) as ui:  # stopped by hand while a run is under way
        family = descendants(ui.process.pid)
        assert len(family) >= 2
        run = ui.run_under_way()
        family += descendants(ui.process.pid)
        ui.process.send_signal(signal.SIGINT)
        assert ui.process.wait(timeout=60) == 0
        assert alive(family) == []
    with served(platform) as ui:  # killed: its children stay, and hold what the next one needs
        assert ui.status(run) == "FAILURE"
        family = descendants(ui.process.pid)
        run = ui.run_under_way()
        ui.process.send_signal(signal.SIGKILL)
        ui.process.wait(timeout=60)
        assert alive(family)
    with served(platform) as ui:  # stopped by a supervisor
        assert alive(family) == []
        assert ui.status(run) == "FAILURE"
        family = descendants(ui.process.pid)
        ui.process.send_signal(signal.SIGTERM)
        assert ui.process.wait(timeout=60) == 0
        assert alive(family) == []


def test_a_second_ui_of_the_same_folder_is_refused_in_one_sentence(ui):
    with pytest.raises(AssertionError, match="is open already: use it, or stop it first"):
        ui.platform.run("ui", "--port", "1")


needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"the browser tests need {CHROMIUM}: install Debian's package chromium")


@needs_chromium
def test_the_graph_shows_every_group_from_left_to_right(ui):
    with open_page(f"{ui.url}/asset-groups") as page:
        boxes = group_boxes(page)
    assert set(boxes) == set(GROUPS)
    line = ("oltp", "cdc", "raw", "staging", "marts", "features", "fraud")
    for left, right in itertools.pairwise(line):
        assert boxes[left]["x"] + boxes[left]["width"] < boxes[right]["x"], f"{right} is not right of {left}"
    for branch in ("snapshots", "documents"):
        assert boxes["cdc"]["x"] + boxes["cdc"]["width"] < boxes[branch]["x"], f"{branch} is not right of cdc"


@needs_chromium
def test_a_day_of_charges_and_its_upstream_is_materialized_by_clicking(ui):
    since, day = time.time() - 1, "2026-06-10"
    with open_page(f"{ui.url}/asset-groups") as page:
        group_boxes(page)
        page.locator(".CodeMirror").first.click()
        page.keyboard.insert_text('+key:"marts/fct_charges"')
        page.keyboard.press("Enter")
        page.locator("svg foreignObject").get_by_text("documents", exact=True).wait_for(state="detached")
        page.get_by_role("button", name=re.compile("Materialize")).first.click()
        page.get_by_role("button", name="Show all partitions").click()
        partitions = page.get_by_role("dialog").locator("input[type=text]").first
        partitions.click()
        partitions.fill(day)
        partitions.press("Enter")
        page.get_by_role("button", name="Launch 1 run").click()
        runs = ui.ended(lambda: ui.runs(since, ("dagster/partition", day)), PATIENCE)
    assert [run["status"] for run in runs] == ["SUCCESS"]
    made = {"/".join(asset["path"]) for asset in runs[0]["assetSelection"]}
    assert {"oltp/charges", "cdc/charges", "raw/charges", "marts/fct_charges"} <= made


def test_a_backfill_of_28_days_is_one_run(ui):
    since = time.time() - 1
    days = [f"2026-06-{day:02}" for day in range(1, 29)]
    assets = ui.daily_upstream("marts/fct_charges")
    assert {"oltp/charges", "cdc/charges", "raw/charges", "marts/fct_charges"} <= set(assets)
    launched = ui.ask(BACKFILL, params={
        "partitionNames": days, "assetSelection": [{"path": name.split("/")} for name in assets],
        "tags": [{"key": "dagster/from_ui", "value": "true"}],
    })["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    runs = ui.ended(lambda: ui.runs(since, ("dagster/backfill", launched["backfillId"])), PATIENCE)
    assert [run["status"] for run in runs] == ["SUCCESS"]
    assert len(runs[0]["assetSelection"]) == len(assets)
    tags = {tag["key"]: tag["value"] for tag in runs[0]["tags"]}
    assert tags["dagster/asset_partition_range_start"] == days[0]
    assert tags["dagster/asset_partition_range_end"] == days[-1]


def test_the_sensor_starts_a_run_within_60_seconds_of_a_commit(ui):
    with psycopg.connect(ui.platform.dsn("OLTP_DSN"), autocommit=True) as oltp:
        charge, created = oltp.execute(
            "select c.id, c.created from oltp.charges c where c.amount_captured > 100 and c.currency = 'eur'"
            " and not exists (select from oltp.refunds r where r.charge_id = c.id)"
            " and not exists (select from oltp.disputes d where d.charge_id = c.id)"
            " order by c.id desc limit 1").fetchone()
        refund_charge(oltp, charge_id=charge, amount=100, currency="eur", created=created)
    since = time.time()
    eventually(lambda: [r for r in ui.runs(since, job="arrivals") if r["status"] in LAUNCHED], 60)
    runs = ui.ended(lambda: ui.runs(since, job="arrivals"), PATIENCE)
    assert {run["status"] for run in runs} == {"SUCCESS"}

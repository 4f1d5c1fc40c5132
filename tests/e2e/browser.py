"""The Dagster UI in a headless browser: open a page, find the groups of the lineage graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)
GROUPS = ("oltp", "cdc", "raw", "snapshots", "documents", "staging", "marts", "features", "fraud")
SECONDS = 60


@contextmanager
def open_page(url: str, width: int = 1600, height: int = 1000, scale: float = 1) -> Iterator[Page]:
    """A page of the UI at `url`; every wait on it ends after 60 s with an error."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
            page.set_default_timeout(SECONDS * 1000)
            # A new instance greets with a dialogue, whenever it comes.
            page.add_locator_handler(
                page.get_by_role("button", name="Skip", exact=True), lambda button: button.click())
            page.goto(url)
            yield page
        finally:
            browser.close()


def group_boxes(page: Page) -> dict[str, dict[str, float]]:
    """Bounding boxes (x, y, width, height in pixels) of the collapsed groups, by name, once all are drawn."""
    boxes = {}
    for group in GROUPS:
        node = page.locator("svg foreignObject").get_by_text(group, exact=True).first
        node.wait_for(state="attached")
        box = node.bounding_box()
        assert box, f"group {group} is not visible in the graph"
        boxes[group] = dict(box)
    return boxes

"""Makes docs/lineage.png: the global asset lineage as the UI shows it after the demo, groups from left to right.

Example: `make ui` in one terminal, `.venv/bin/python docs/make_screenshots.py http://127.0.0.1:3000` in another.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from browser import group_boxes, open_page  # noqa: E402 - tests are no installed package


def main(url: str) -> None:
    """Writes the picture of the webserver at `url`; waits until the groups say what became of their assets."""
    with open_page(f"{url}/asset-groups", width=1900, height=640, scale=1.25) as page:
        page.get_by_text("Hide navigation").click()
        page.locator("button:has([aria-label='panel_show_right'])").last.click()
        group_boxes(page)
        page.get_by_text("fetching statuses").first.wait_for(state="detached", timeout=180_000)
        page.wait_for_timeout(2000)  # the graph glides to its place
        page.screenshot(path=ROOT / "docs" / "lineage.png")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000")

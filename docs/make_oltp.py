"""Makes what docs/oltp.md shows: diagrams and their pictures, and query plans measured on a loaded database.

    npm install --ignore-scripts --prefix .platform/mermaid mermaid@11.17.2     # once; draws the pictures
    .venv/bin/python docs/make_oltp.py             # diagrams, pictures, plans; servers of its own, ~3 minutes
    .venv/bin/python docs/make_oltp.py pictures    # the pictures alone, of the diagrams as they stand

Pictures need Chromium too. Nothing of this is needed to run the platform or its tests.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MERMAID = ROOT / ".platform" / "mermaid" / "node_modules" / "mermaid" / "dist" / "mermaid.min.js"
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

GREYS = [0] * 120 + [120] * 90 + [236] * 42 + [255] * 4  # letters stay black: four greys keep a picture small
# 600,000 payments of 60,000 payers to 600 merchants in six months; ids begin with their time, as in `oltp/ids.py`.
# Foreign keys and triggers are off while loading.
LOAD = """
set session_replication_role = replica;
select ops.make_partitions('2026-01-01', '2026-06-30');
insert into oltp.currencies values ('eur', 'Euro', 2, 2, 1);
insert into oltp.countries values ('FR', 'France', 'EMEA', 'eur');
insert into oltp.accounts (id, type, country, default_currency, business_type, mcc, name, token, created)
select 'acct_' || n, 'standard', 'FR', 'eur', 'company', '5411', 'Shop ' || n, 'tok_a' || n, '2026-01-01'
from generate_series(1, 600) n;
insert into oltp.customers (id, account_id, country, currency, token, created)
select 'cus_' || n, 'acct_' || 1 + n % 600, 'FR', 'eur', 'tok_c' || n, '2026-01-01'
from generate_series(1, 60000) n;
insert into oltp.payment_methods (id, customer_id, type, card_brand, card_last4, card_exp_month, card_exp_year,
    card_funding, card_country, card_fingerprint, created)
select 'pm_' || n, 'cus_' || n, 'card', 'visa', '4242', 12, 2030, 'credit', 'FR', 'fpr_' || n, '2026-01-01'
from generate_series(1, 60000) n;
create temporary table paid as
select n, at, lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || left(md5(n::text), 19) as id,
    1 + (hashint4(n) & 2147483647) % 60000 as payer, 1 + (hashint4(n + 7) & 2147483647) % 600 as merchant,
    500 + (hashint4(n + 9) & 2147483647) % 20000 as amount
from (select n, timestamptz '2026-01-01 00:00Z' + n * (interval '181 days' / 600000) as at
    from generate_series(0, 599999) n) s;
insert into oltp.payment_intents (id, account_id, customer_id, payment_method_id, amount, amount_received, currency,
    status, created)
select 'pi_' || id, 'acct_' || merchant, 'cus_' || payer, 'pm_' || payer, amount, amount, 'eur', 'succeeded', at
from paid;
insert into oltp.charges (id, payment_intent_id, account_id, customer_id, payment_method_id, amount, amount_captured,
    currency, status, device_type, created)
select 'ch_' || id, 'pi_' || id, 'acct_' || merchant, 'cus_' || payer, 'pm_' || payer, amount, amount, 'eur',
    'succeeded', 'mobile', at
from paid;
insert into oltp.charge_outcomes select 'ch_' || id, 'authorized', 'approved_by_network', null, 'normal', 10 from paid;
insert into oltp.balance_transactions (id, account_id, source_id, type, reporting_category, amount, fee, net, currency,
    status, available_on, created)
select 'txn_' || id, 'acct_' || merchant, 'ch_' || id, 'charge', 'charge', amount, 30, amount - 30, 'eur', 'pending',
    at + interval '2 days', at
from paid;
insert into oltp.refunds (id, charge_id, amount, currency, status, created)
select 're_' || id, 'ch_' || id, 100, 'eur', 'succeeded', at from paid where n % 50 = 0;
insert into oltp.fraud_assessments select 'ch_' || id, 'v1', 0.1, 'allow', at from paid where n % 10 = 0;
"""
QUERIES = {
    "A charge by its id: one partition, one look-up":
        "select * from oltp.charges where id = 'ch_{one}'",
    "The charges of an intent":
        "select * from oltp.charges where payment_intent_id = 'pi_{one}'",
    "A payer's newest twenty charges":
        "select id, amount, created from oltp.charges where customer_id = 'cus_7' order by created desc limit 20",
    "A merchant's charges of a day, with the day as a bound on the id: one partition":
        "select count(*), sum(amount) from oltp.charges"
        " where account_id = 'acct_7' and id >= '{low}' and id < '{high}'",
    "The same with the time alone: every partition":
        "select count(*), sum(amount) from oltp.charges"
        " where account_id = 'acct_7' and created >= '2026-05-09Z' and created < '2026-05-10Z'",
    "What becomes available to a merchant on a day":
        "select sum(net) from oltp.balance_transactions"
        " where account_id = 'acct_7' and available_on >= '2026-05-09Z' and available_on < '2026-05-10Z'",
    "The movements of a charge":
        "select id, amount, fee from oltp.balance_transactions where source_id = 'ch_{one}'",
    "The refunds of a charge":
        "select id, amount from oltp.refunds where charge_id = 'ch_{one}'",
    "A transaction as the business reads it":
        "select * from compat.transaction where transaction_id = 'ch_{one}'",
}


def plans(owner_dsn: str, superuser_dsn: str) -> str:
    """Markdown of every query's measured plan, on a database that is loaded here."""
    from stripe_platform.oltp.ids import boundary_id

    with psycopg.connect(superuser_dsn) as conn:
        conn.execute(LOAD)  # type: ignore[arg-type]
    parts = []
    with psycopg.connect(owner_dsn, autocommit=True) as conn:
        conn.execute("vacuum (freeze, analyze)")
        conn.execute("set timezone = 'UTC'")
        conn.execute("set max_parallel_workers_per_gather = 0")
        count, one, server = conn.execute(
            "select count(*), max(substr(id, 4)), split_part(version(), ' ', 2) from oltp.charges").fetchall()[0]
        low, high = (boundary_id("ch", dt.date(2026, 5, day)) for day in (9, 10))
        for title, query in QUERIES.items():
            query = query.format(one=one, low=low, high=high)
            explain = f"explain (analyze, buffers, costs off) {query}"
            conn.execute(explain)  # type: ignore[call-overload]  # warms the cache
            lines = [row[0] for row in conn.execute(explain)]  # type: ignore[call-overload]
            parts += [f"**{title}**", "", "```", f"{query};", "", *shortened(lines), "```", ""]
    head = f"PostgreSQL {server}, {count:,} payments in six monthly partitions, cache warm, no parallel workers."
    return "\n".join([head, "", *parts, moved(owner_dsn, superuser_dsn)])


def moved(owner_dsn: str, superuser_dsn: str) -> str:
    """One line: how long the locks of detaching and attaching a month last."""
    with psycopg.connect(superuser_dsn) as conn:  # what would hold the month
        conn.execute("set session_replication_role = replica")
        conn.execute("delete from oltp.refunds where created < '2026-02-01Z'")
        conn.execute("delete from oltp.fraud_assessments where assessed_at < '2026-02-01Z'")
    seconds = []
    with psycopg.connect(owner_dsn, autocommit=True) as conn:
        found = conn.execute("select count(*) from oltp.charges_2026_01").fetchall()
        for call in ("detach_partitions('2026-02-01')", "attach_partitions('2026-01-01', '2026-01-31')"):
            begun = time.monotonic()
            (answer,) = conn.execute(f"select ops.{call}").fetchall()  # type: ignore[call-overload]
            seconds.append(time.monotonic() - begun)
            if "held" in str(answer) or answer == (0,):
                raise SystemExit(f"{call} moved nothing: {answer}")
    return (f"January ({found[0][0]:,} payments) is detached in {seconds[0]:.2f} s and attached in {seconds[1]:.2f} s:"
            " so long payments wait.\n")  # fmt: skip


def shortened(plan: list[str]) -> list[str]:
    """A plan without the partitions that gave no row, which are counted, and without what each node repeats."""
    kept: list[str] = []
    empty, at = 0, 0
    for before, line in pairwise(["", *plan]):
        if before.startswith("Planning:"):
            continue
        indent = len(line) - len(line.lstrip())
        if empty and indent > at:
            continue
        if re.match(r"\s*->  .* (on|using) \w+_(default|\d{4}_\d{2}) .*rows=0\.00", line):
            empty, at = (empty + 1 if empty and indent == at else 1), indent
            continue
        if empty:
            kept.append(f"{' ' * at}({empty} partitions without a row)")
            empty = 0
        if not re.match(r"\s*(Index Searches|Planning:|Recheck Cond|Heap Blocks|Storage)", line):
            kept.append(line.replace(".00 loops=1)", ")").replace("actual time", "time"))
    return kept


def write_plans(text: str) -> None:
    """Put the plans between their marks in docs/oltp.md."""
    page = DOCS / "oltp.md"
    pattern = r"(<!-- plans: docs/make_oltp.py -->\n).*(<!-- end of plans -->)"
    page.write_text(re.sub(pattern, lambda m: f"{m[1]}\n{text}\n{m[2]}", page.read_text(), flags=re.S))


def pictures() -> None:
    """Draw every Mermaid file of docs/ as a PNG of four greys beside it."""
    from browser import ARGUMENTS, CHROMIUM
    from PIL import Image
    from playwright.sync_api import sync_playwright

    if not MERMAID.exists():
        raise SystemExit(f"mermaid is missing: see the first lines of {Path(__file__).name}")
    draw = """async (text) => {
        mermaid.initialize({startOnLoad: false, theme: 'neutral', maxTextSize: 500000, maxEdges: 2000,
            er: {useMaxWidth: false}, flowchart: {useMaxWidth: false}});
        document.body.innerHTML = (await mermaid.render('drawn', text)).svg; }"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 2400, "height": 1600})
        page.set_content("<body style='margin:0;background:white'></body>")
        page.add_script_tag(path=MERMAID)
        for file in sorted(DOCS.glob("*.mermaid")):
            page.evaluate(draw, file.read_text())
            image = Image.open(io.BytesIO(page.locator("body > svg").screenshot())).convert("L")
            image.point(GREYS).quantize(4).save(file.with_suffix(".png"), optimize=True, bits=2)
        browser.close()


@contextmanager
def loaded_servers() -> Iterator[tuple[str, str]]:
    """Own servers with a migrated database: the owner's URL and the superuser's."""
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:
        home = Path(folder) / "home"
        os.environ["STRIPE_PLATFORM_HOME"] = str(home)
        from stripe_platform.embedded import servers
        from stripe_platform.oltp.migrate import migrate
        from stripe_platform.settings import load_settings

        try:
            servers.up(home, {}, fsync=False)
            owner = load_settings().need("oltp_owner_dsn")
            migrate(owner)
            yield owner, f"{servers.superuser(home, 'oltp').rsplit('/', 1)[0]}/{owner.rsplit('/', 1)[1]}"
        finally:
            servers.remove(home)


def main() -> None:
    if "pictures" not in sys.argv:
        from stripe_platform.oltp import erd

        with loaded_servers() as (owner, superuser):
            erd.generate(owner)
            write_plans(plans(owner, superuser))
    pictures()


if __name__ == "__main__":
    main()

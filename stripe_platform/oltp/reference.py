"""Reference rows: currencies with Stripe's and ISO's exponents, countries, indicative exchange rates, posting rules
and fees.

Rates are round figures of major units of euro for one major unit; a deployment with a rate source overwrites them.
"""

from __future__ import annotations

import psycopg

from stripe_platform.money import exponent

REPORTING = "eur"

# code: name, ISO exponent, payout multiple, indicative rate to the euro
CURRENCIES: dict[str, tuple[str, int, int, str]] = {
    "aud": ("Australian dollar", 2, 1, "0.6"),
    "bhd": ("Bahraini dinar", 3, 10, "2.4"),
    "brl": ("Brazilian real", 2, 1, "0.16"),
    "cad": ("Canadian dollar", 2, 1, "0.66"),
    "chf": ("Swiss franc", 2, 1, "1.05"),
    "dkk": ("Danish krone", 2, 1, "0.134"),
    "eur": ("Euro", 2, 1, "1"),
    "gbp": ("Pound sterling", 2, 1, "1.16"),
    "huf": ("Hungarian forint", 2, 100, "0.0025"),
    "inr": ("Indian rupee", 2, 1, "0.01"),
    "isk": ("Icelandic krona", 0, 100, "0.0067"),
    "jpy": ("Japanese yen", 0, 1, "0.0061"),
    "krw": ("South Korean won", 0, 1, "0.00064"),
    "kwd": ("Kuwaiti dinar", 3, 10, "2.95"),
    "mxn": ("Mexican peso", 2, 1, "0.05"),
    "nok": ("Norwegian krone", 2, 1, "0.085"),
    "pln": ("Polish zloty", 2, 1, "0.23"),
    "sek": ("Swedish krona", 2, 1, "0.087"),
    "sgd": ("Singapore dollar", 2, 1, "0.68"),
    "tnd": ("Tunisian dinar", 3, 10, "0.3"),
    "ugx": ("Ugandan shilling", 0, 100, "0.00024"),
    "usd": ("US dollar", 2, 1, "0.92"),
}

# code: name, region, currency
COUNTRIES: dict[str, tuple[str, str, str]] = {
    "AU": ("Australia", "APAC", "aud"), "AT": ("Austria", "EMEA", "eur"), "BE": ("Belgium", "EMEA", "eur"),
    "BH": ("Bahrain", "EMEA", "bhd"), "BR": ("Brazil", "LATAM", "brl"), "CA": ("Canada", "NA", "cad"),
    "CH": ("Switzerland", "EMEA", "chf"), "DE": ("Germany", "EMEA", "eur"), "DK": ("Denmark", "EMEA", "dkk"),
    "ES": ("Spain", "EMEA", "eur"), "FI": ("Finland", "EMEA", "eur"), "FR": ("France", "EMEA", "eur"),
    "GB": ("United Kingdom", "EMEA", "gbp"), "HU": ("Hungary", "EMEA", "huf"), "IE": ("Ireland", "EMEA", "eur"),
    "IN": ("India", "APAC", "inr"), "IS": ("Iceland", "EMEA", "isk"), "IT": ("Italy", "EMEA", "eur"),
    "JP": ("Japan", "APAC", "jpy"), "KR": ("South Korea", "APAC", "krw"), "KW": ("Kuwait", "EMEA", "kwd"),
    "LU": ("Luxembourg", "EMEA", "eur"), "MX": ("Mexico", "LATAM", "mxn"), "NL": ("Netherlands", "EMEA", "eur"),
    "NO": ("Norway", "EMEA", "nok"), "PL": ("Poland", "EMEA", "pln"), "PT": ("Portugal", "EMEA", "eur"),
    "SE": ("Sweden", "EMEA", "sek"), "SG": ("Singapore", "APAC", "sgd"), "TN": ("Tunisia", "EMEA", "tnd"),
    "UG": ("Uganda", "EMEA", "ugx"), "US": ("United States", "NA", "usd"),
}  # fmt: skip

# currency: basis points and fixed fee of a charge, fixed fee of a dispute; minor units
FEES: dict[str, tuple[int, int, int]] = {
    "aud": (175, 30, 2500), "bhd": (290, 100, 6000), "brl": (399, 39, 5500), "cad": (290, 30, 1500),
    "chf": (290, 30, 2000), "dkk": (150, 180, 15000), "eur": (150, 25, 2000), "gbp": (150, 20, 2000),
    "huf": (150, 8500, 500_000), "inr": (200, 0, 100_000), "isk": (290, 3500, 200_000), "jpy": (360, 0, 1500),
    "krw": (360, 0, 20_000), "kwd": (290, 80, 6000), "mxn": (360, 300, 30_000), "nok": (240, 200, 15_000),
    "pln": (150, 100, 7500), "sek": (150, 180, 15_000), "sgd": (340, 50, 1500), "tnd": (290, 900, 60_000),
    "ugx": (290, 100_000, 7_000_000), "usd": (290, 30, 1500),
}  # fmt: skip
# Merchants' countries where the fee of a dispute comes back when it is won: country, currency.
DISPUTE_FEE_RETURNED = (("MX", "mxn"),)


def seed_reference(conn: psycopg.Connection) -> dict[str, int]:
    """Insert currencies, countries and what the books need where missing, in the caller's transaction; rows by table.

    For databases without a reference beside them (drills, documents), as the owner: elsewhere the copier writes these.
    """
    currencies = conn.execute(
        "insert into oltp.currencies (code, name, stripe_exponent, iso_exponent, payout_multiple)"
        " select * from unnest(%s::text[], %s::text[], %s::smallint[], %s::smallint[], %s::integer[])"
        " on conflict (code) do nothing",
        [
            list(CURRENCIES),
            [c[0] for c in CURRENCIES.values()],
            [exponent(code) for code in CURRENCIES],
            [c[1] for c in CURRENCIES.values()],
            [c[2] for c in CURRENCIES.values()],
        ],
    ).rowcount
    countries = conn.execute(
        "insert into oltp.countries (code, name, region, currency)"
        " select * from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) on conflict (code) do nothing",
        [list(COUNTRIES), *([c[i] for c in COUNTRIES.values()] for i in range(3))],
    ).rowcount
    seed_books(conn)
    return {"currencies": currencies, "countries": countries}


def seed_books(conn: psycopg.Connection) -> None:
    """Posting rules and fees where they are missing, of the currencies that stand; owned by the OLTP."""
    conn.execute("select ledger.seed()")
    conn.execute("select payments.seed_billing()")
    policies = [("charge", code, "*", fee[0], fee[1], False) for code, fee in FEES.items()]
    policies += [("dispute", code, "*", 0, fee[2], False) for code, fee in FEES.items()]
    policies += [("dispute", code, country, 0, FEES[code][2], True) for country, code in DISPUTE_FEE_RETURNED]
    conn.execute(
        "insert into oltp.fee_policies (kind, currency, country, basis_points, fixed, returned_when_won, multiple)"
        " select p.* from unnest(%s::text[], %s::text[], %s::text[], %s::integer[], %s::bigint[], %s::boolean[],"
        " %s::smallint[]) as p (kind, currency, country, basis_points, fixed, returned_when_won, multiple)"
        " join oltp.currencies c on c.code = p.currency on conflict do nothing",
        [*([policy[i] for policy in policies] for i in range(6)),
         [10 if exponent(policy[1]) == 3 else 1 for policy in policies]],
    )

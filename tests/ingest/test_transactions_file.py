"""Files of transactions: good records arrive, each bad one is named with file, row and rule."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

from stripe_platform.feeds import FeedSpec, current_feed
from stripe_platform.ingest.reading import FileError, read_transactions
from stripe_platform.ingest.rules import judge
from stripe_platform.ingest.transactions_file import FileFeed
from stripe_platform.oltp.feed import DayLoad
from stripe_platform.settings import Settings

DAY = dt.date(2018, 6, 11)


def records(**changes: Any) -> pd.DataFrame:
    """Six records on two days; `changes` replace whole columns."""
    frame = pd.DataFrame({
        "TRANSACTION_ID": [10, 11, 12, 13, 14, 15],
        "TX_DATETIME": pd.to_datetime([f"2018-06-11 0{i}:00:0{i}" for i in range(3)]
                                      + [f"2018-06-12 0{i}:00:0{i}" for i in range(3)]),
        "CUSTOMER_ID": [1, 2, 1, 2, 1, 3], "TERMINAL_ID": [7, 7, 8, 9, 40, 41],
        "TX_AMOUNT": [57.16, 0.0, 1.1, 220.5, 9.99, 3.0], "TX_FRAUD": [0, 1, 0, 0, 1, 0],
    })  # fmt: skip
    return frame.assign(**changes)


def spoiled(column: str, row: int, value: Any) -> pd.DataFrame:
    """The six records as text with one value replaced."""
    frame = records().astype(object)
    frame["TX_DATETIME"] = records()["TX_DATETIME"].astype(str)
    frame.loc[row - 1, column] = value
    return frame.astype("string")


def parquet(folder: Path, frame: pd.DataFrame, name: str = "some.parquet") -> Path:
    frame.to_parquet(folder / name)
    return folder / name


def csv(folder: Path, frame: pd.DataFrame, name: str = "some.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


def bring(settings: Settings, *files: Path, **options: Any) -> list[DayLoad]:
    feed = FileFeed(settings, files, **options)
    return [feed.bring(day) for day in feed.calendar()]


def quarantined(settings: Settings) -> list[tuple[str, str, str]]:
    with psycopg.connect(settings.need("oltp_dsn")) as conn:
        query = "select record, rule, reason from ops.quarantine order by length(record), record"
        return conn.execute(query).fetchall()


def rows(settings: Settings, query: str) -> Sequence[tuple[Any, ...]]:
    with psycopg.connect(settings.need("oltp_dsn")) as conn:
        return conn.execute(query).fetchall()  # type: ignore[arg-type]


def test_every_good_record_arrives_to_the_cent_zero_amounts_among_them(oltp: Settings, tmp_path: Path):
    loads = bring(oltp, parquet(tmp_path, records()))
    assert sum(load.rows.get("charges", 0) for load in loads) == 6
    assert rows(oltp, "select amount, currency, status from oltp.charges order by created") == [
        (minor, "eur", "succeeded") for minor in (5716, 0, 110, 22050, 999, 300)]
    assert rows(oltp, "select count(*) from oltp.payment_intents") == [(6,)]
    assert rows(oltp, "select count(*) from oltp.charge_outcomes") == [(6,)]
    assert rows(oltp, "select count(distinct account_id), count(distinct terminal_id) from oltp.charges") == [(1, 5)]


def test_a_label_becomes_a_dispute_exactly_seven_days_later(oltp: Settings, tmp_path: Path):
    loads = bring(oltp, parquet(tmp_path, records()))
    assert [load.day for load in loads] == [DAY + dt.timedelta(days=i) for i in range(2 + 7)]
    found = rows(oltp, "select c.amount, d.created - c.created, d.reason, c.disputed, d.amount = c.amount"
                       " from oltp.charges c join oltp.disputes d on d.charge_id = c.id order by c.created")
    assert found == [(0, dt.timedelta(days=7), "fraudulent", True, True),
                     (999, dt.timedelta(days=7), "fraudulent", True, True)]
    assert {load.day: load.rows.get("disputes", 0) for load in loads if load.rows.get("disputes")} == {
        dt.date(2018, 6, 18): 1, dt.date(2018, 6, 19): 1}
    assert rows(oltp, "select count(*) from oltp.charges where disputed") == [(2,)]


def test_stamps_without_zone_are_utc_and_others_are_converted(oltp: Settings, tmp_path: Path):
    stamps = ["2018-06-11T02:00:00+02:00", "2018-06-11 01:00:00", "2018-06-11 02:00:00.5", "2018-06-10T22:00-0500",
              "2018-06-11T04:00:00Z", "2018-06-11"]  # fmt: skip
    bring(oltp, csv(tmp_path, records().assign(TX_DATETIME=stamps)))
    found = rows(oltp, "select extract(epoch from created - '2018-06-11T00:00Z')::float from oltp.charges order by 1")
    assert [row[0] for row in found] == [0, 0, 3600, 7200.5, 3 * 3600, 4 * 3600]


def test_csv_and_parquet_of_the_same_records_give_the_same_charges(oltp: Settings, tmp_path: Path):
    feeds = [FileFeed(oltp, [parquet(tmp_path, records())]), FileFeed(oltp, [csv(tmp_path, records())])]
    ids = [feed._ids[1].to_pylist() for feed in feeds]
    assert ids[0] == ids[1]


def test_a_window_takes_its_days_only(oltp: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    loads = bring(oltp, file, start=dt.date(2018, 6, 12), days=1)
    assert loads[0].rows["charges"] == 3
    assert [load.day for load in loads] == [dt.date(2018, 6, 12) + dt.timedelta(days=i) for i in range(8)]
    with pytest.raises(FileError, match="no transaction in the 3 days from 2019-01-01: move --start"):
        bring(oltp, file, start=dt.date(2019, 1, 1), days=3)


def test_a_second_run_brings_nothing_new(oltp: Settings, tmp_path: Path):
    file = parquet(tmp_path, records(TX_AMOUNT=[1.0, 2.0, -3.0, 4.0, 5.0, 6.0]))
    before = bring(oltp, file)
    after = bring(oltp, file)
    assert all(load.skipped for load in after)
    assert [load.quarantined for load in before] == [load.quarantined for load in after]
    assert len(quarantined(oltp)) == 1
    assert rows(oltp, "select count(*) from oltp.charges") == [(5,)]


BAD = [
    ("TX_AMOUNT", "nan", "amount_is_a_number", "the amount is missing or no number"),
    ("TX_AMOUNT", None, "amount_is_a_number", "the amount is missing or no number"),
    ("TX_AMOUNT", "1,00", "amount_is_a_number", "the amount is missing or no number"),
    ("TX_AMOUNT", "-0.01", "amount_not_negative", "the amount is negative"),
    ("TX_AMOUNT", "-Infinity", "amount_is_finite", "the amount is infinite"),
    ("TX_AMOUNT", "1e309", "amount_is_a_number", "the amount is missing or no number"),
    ("TX_AMOUNT", "1e17", "amount_in_range", "too large"),
    ("TX_AMOUNT", "1.005", "amount_decimals", "more decimals than its currency carries"),
    ("TX_DATETIME", "tomorrow", "time_readable", "the time cannot be read"),
    ("TX_DATETIME", "2018-13-45 00:00:00", "time_readable", "the time cannot be read"),
    ("TX_DATETIME", None, "time_readable", "the time cannot be read"),
    ("TX_FRAUD", "2", "label_is_0_or_1", "neither 0 nor 1"),
    ("TRANSACTION_ID", None, "transaction_named", "the transaction id is missing"),
    ("TRANSACTION_ID", "10", "transaction_unique", "came before"),
    ("CUSTOMER_ID", None, "customer_named", "the customer id is missing"),
    ("TERMINAL_ID", None, "terminal_named", "the terminal id is missing"),
]


@pytest.mark.parametrize(("column", "value", "rule", "sentence"), BAD)
@pytest.mark.parametrize("write", [parquet, csv])
def test_a_bad_record_gets_one_sentence_with_file_row_and_rule_and_the_good_ones_stay(
    tmp_path: Path, write: Any, column: str, value: Any, rule: str, sentence: str
):
    file = write(tmp_path, spoiled(column, 3, value))
    judged = judge(read_transactions([file]), "eur")
    assert len(judged.good) == 5
    (bad,) = judged.bad
    assert (bad.record, bad.rule) == (f"{file.name} row 3", rule)
    assert bad.reason.startswith(f"{file.name} row 3: ")
    assert sentence in bad.reason
    assert bad.reason.endswith(f"(rule {rule})")
    assert value is None or str(value) not in bad.reason.split(": ", 1)[1].replace(f"(rule {rule})", "")


def test_all_bad_records_of_a_file_stand_in_quarantine_and_their_values_are_ciphertext(oltp: Settings, tmp_path: Path):
    frames = [spoiled(column, 3, value) for column, value, _, _ in BAD]
    for number, frame in enumerate(frames):
        frame["TRANSACTION_ID"] = [None if pd.isna(t) else str(int(t) + 100 * number) for t in frame["TRANSACTION_ID"]]
        if BAD[number][2] == "transaction_unique":
            frame.loc[2, "TRANSACTION_ID"] = "10"
    file = csv(tmp_path, pd.concat(frames, ignore_index=True))
    loads = bring(oltp, file)
    assert sum(load.rows.get("charges", 0) for load in loads) == 5 * len(BAD)
    assert sum(load.quarantined for load in loads) == len(BAD)
    assert sorted(rule for _, rule, _ in quarantined(oltp)) == sorted(rule for _, _, rule, _ in BAD)
    assert {r for r, _, _ in quarantined(oltp)} == {f"some.csv row {6 * i + 3}" for i in range(len(BAD))}
    payloads = rows(oltp, "select payload_ciphertext from ops.quarantine")
    assert not [p for (p,) in payloads if b"TX_AMOUNT" in bytes(p)]


def test_nan_and_infinity_in_a_column_of_doubles_are_quarantined_too(oltp: Settings, tmp_path: Path):
    amounts = [1.0, float("nan"), float("inf"), float("-inf"), 2.0, -1.0]
    loads = bring(oltp, parquet(tmp_path, records(TX_AMOUNT=amounts)))
    assert [(r[0], r[1]) for r in quarantined(oltp)] == [
        ("some.parquet row 2", "amount_is_a_number"), ("some.parquet row 3", "amount_is_finite"),
        ("some.parquet row 4", "amount_is_finite"), ("some.parquet row 6", "amount_not_negative")]
    assert sum(load.rows.get("charges", 0) for load in loads) == 2


def test_of_repeated_ids_the_first_good_record_stays_across_files_too(oltp: Settings, tmp_path: Path):
    one = parquet(tmp_path, records(TX_AMOUNT=[-1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "one.parquet")
    two = parquet(tmp_path, records(TRANSACTION_ID=[10, 11, 21, 22, 23, 24]), "two.parquet")
    bring(oltp, one, two)
    assert [(r[0], r[1]) for r in quarantined(oltp)] == [
        ("one.parquet row 1", "amount_not_negative"), ("two.parquet row 2", "transaction_unique")]
    assert rows(oltp, "select count(*) from oltp.charges") == [(10,)]


def test_a_transaction_that_stands_already_is_quarantined_by_a_later_source(oltp: Settings, tmp_path: Path):
    bring(oltp, parquet(tmp_path, records(TX_FRAUD=[0] * 6)), start=DAY, days=1)
    late = records(TRANSACTION_ID=[10, 11, 12, 30, 31, 32])
    # A later source repeats the first day's records: their day is closed, so they come beside a new day's.
    feed = FileFeed(oltp, [parquet(tmp_path, late, "late.parquet")], start=DAY, days=2)
    refused: list = []
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        tables = feed._charge_rows(conn, 0, 6, refused)
    assert tables["charges"].num_rows == 3
    assert [(r.record, r.rule) for r in refused] == [(f"late.parquet row {i}", "transaction_new") for i in (1, 2, 3)]


def test_an_unknown_currency_in_the_column_costs_its_record_and_as_option_the_file(oltp: Settings, tmp_path: Path):
    with pytest.raises(FileError, match=r"some\.parquet: currency 'zzz' is unknown: name one of"):
        FileFeed(oltp, [parquet(tmp_path, records())], currency="zzz")
    frame = records(CURRENCY=["eur", "usd", "zzz", "JPY", None, "kwd"], TX_AMOUNT=[1.0, 2.5, 3.0, 400.0, 5.0, 1.25])
    bring(oltp, parquet(tmp_path, frame))
    assert [(r[0], r[1]) for r in quarantined(oltp)] == [("some.parquet row 3", "currency_known")]
    assert rows(oltp, "select amount, currency from oltp.charges order by created") == [
        (100, "eur"), (250, "usd"), (400, "jpy"), (500, "eur"), (1250, "kwd")]
    assert {r[0] for r in rows(oltp, "select from_currency from oltp.exchange_rates")} == {"usd", "jpy", "kwd"}


def test_the_currency_option_decides_the_minor_unit(oltp: Settings, tmp_path: Path):
    bring(oltp, parquet(tmp_path, records(TX_AMOUNT=[57.0, 0.0, 1.5, 2.0, 3.0, 4.0])), currency="jpy")
    assert [(r[0], r[1]) for r in quarantined(oltp)] == [("some.parquet row 3", "amount_decimals")]
    assert rows(oltp, "select sum(amount), min(currency) from oltp.charges") == [(66, "jpy")]


def test_a_missing_column_an_empty_file_and_what_is_no_file_are_refused_in_one_sentence(oltp: Settings, tmp_path: Path):
    cases = {
        r"lacks\.parquet lacks column TX_AMOUNT: it needs": parquet(
            tmp_path, records().drop(columns="TX_AMOUNT"), "lacks.parquet"),
        r"lacks\.csv lacks column TERMINAL_ID: it needs": csv(
            tmp_path, records().drop(columns="TERMINAL_ID"), "lacks.csv"),
        r"norows\.parquet holds no records": parquet(tmp_path, records().head(0), "norows.parquet"),
        r"norows\.csv holds no records": csv(tmp_path, records().head(0), "norows.csv"),
        r"empty\.parquet is empty": tmp_path / "empty.parquet",
        r"empty\.csv is empty": tmp_path / "empty.csv",
        r"text\.parquet is no Parquet file": tmp_path / "text.parquet",
        "absent.parquet cannot be read": tmp_path / "absent.parquet",
    }
    for name in ("empty.parquet", "empty.csv"):
        (tmp_path / name).touch()
    (tmp_path / "text.parquet").write_text("no parquet at all\n")
    for message, file in cases.items():
        with pytest.raises(FileError, match=message) as refused:
            bring(oltp, file)
        assert "\n" not in str(refused.value)
    assert rows(oltp, "select count(*) from ops.day_ledger") == [(0,)]


def test_a_file_of_bad_records_only_is_refused_and_names_the_first(oltp: Settings, tmp_path: Path):
    with pytest.raises(FileError, match=r"no record of some\.parquet can be used; the first: some\.parquet row 1"):
        bring(oltp, parquet(tmp_path, records(TX_AMOUNT=[-1.0] * 6)))


def test_a_csv_line_with_too_many_fields_costs_its_record_only(oltp: Settings, tmp_path: Path):
    file = csv(tmp_path, records())
    lines = file.read_text().splitlines()
    lines[2] += ",surplus"
    file.write_text("\n".join(lines) + "\n")
    bring(oltp, file)
    assert [(r[0], r[1]) for r in quarantined(oltp)] == [("some.csv row 2", "record_complete")]
    assert rows(oltp, "select count(*) from oltp.charges") == [(5,)]


def test_a_file_is_remembered_as_the_folders_feed(oltp: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    calendar = FeedSpec.file([file]).remember(oltp)
    assert (calendar.first, calendar.days, calendar.tail) == (DAY, 2, 7)
    feed = current_feed(oltp)
    assert feed.name == "file"
    assert feed.bring(DAY).rows["charges"] == 3


def test_the_same_file_gives_the_same_rows_in_every_clean_run(oltp: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    with psycopg.connect(oltp.need("oltp_dsn")) as conn:
        one, other = (FileFeed(oltp, [file])._rows(conn, DAY).tables for _ in range(2))
    assert one.keys() == other.keys()
    assert all(one[name].equals(other[name]) for name in one)

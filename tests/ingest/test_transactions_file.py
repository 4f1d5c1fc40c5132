"""Files of transactions: good records arrive, each bad one is named with file, row and rule."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
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


def test_every_good_record_arrives_to_the_cent_zero_amounts_among_them(both: Settings, tmp_path: Path):
    loads = bring(both, parquet(tmp_path, records()))
    assert sum(load.rows.get("charges", 0) for load in loads) == 6
    assert rows(both, "select amount, currency, status from oltp.charges order by created") == [
        (minor, "eur", "succeeded") for minor in (5716, 0, 110, 22050, 999, 300)]
    assert rows(both, "select count(*) from oltp.payment_intents") == [(6,)]
    assert rows(both, "select count(*) from oltp.charge_outcomes") == [(6,)]
    assert rows(both, "select count(distinct account_id), count(distinct terminal_id) from oltp.charges") == [(1, 5)]


def test_a_label_becomes_a_dispute_exactly_seven_days_later(both: Settings, tmp_path: Path):
    loads = bring(both, parquet(tmp_path, records()))
    assert [load.day for load in loads] == [DAY + dt.timedelta(days=i) for i in range(2 + 7)]
    found = rows(both, "select c.amount, d.created - c.created, d.reason, c.disputed, d.amount = c.amount"
                       " from oltp.charges c join oltp.disputes d on d.charge_id = c.id order by c.created")
    assert found == [(0, dt.timedelta(days=7), "fraudulent", True, True),
                     (999, dt.timedelta(days=7), "fraudulent", True, True)]
    assert {load.day: load.rows.get("disputes", 0) for load in loads if load.rows.get("disputes")} == {
        dt.date(2018, 6, 18): 1, dt.date(2018, 6, 19): 1}
    assert rows(both, "select count(*) from oltp.charges where disputed") == [(2,)]


def test_stamps_without_zone_are_utc_and_others_are_converted(both: Settings, tmp_path: Path):
    stamps = ["2018-06-11T02:00:00+02:00", "2018-06-11 01:00:00", "2018-06-11 02:00:00.5", "2018-06-10T22:00-0500",
              "2018-06-11T04:00:00Z", "2018-06-11"]  # fmt: skip
    bring(both, csv(tmp_path, records().assign(TX_DATETIME=stamps)))
    found = rows(both, "select extract(epoch from created - '2018-06-11T00:00Z')::float from oltp.charges order by 1")
    assert [row[0] for row in found] == [0, 0, 3600, 7200.5, 3 * 3600, 4 * 3600]


def test_csv_and_parquet_of_the_same_records_give_the_same_charges(both: Settings, tmp_path: Path):
    feeds = [FileFeed(both, [parquet(tmp_path, records())]), FileFeed(both, [csv(tmp_path, records())])]
    ids = [feed._ids[1].to_pylist() for feed in feeds]
    assert ids[0] == ids[1]


def test_a_window_takes_its_days_only(both: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    loads = bring(both, file, start=dt.date(2018, 6, 12), days=1)
    assert loads[0].rows["charges"] == 3
    assert [load.day for load in loads] == [dt.date(2018, 6, 12) + dt.timedelta(days=i) for i in range(8)]
    with pytest.raises(FileError, match="no transaction in the 3 days from 2019-01-01: move --start"):
        bring(both, file, start=dt.date(2019, 1, 1), days=3)


def test_a_second_run_brings_nothing_new(both: Settings, tmp_path: Path):
    file = parquet(tmp_path, records(TX_AMOUNT=[1.0, 2.0, -3.0, 4.0, 5.0, 6.0]))
    before = bring(both, file)
    after = bring(both, file)
    assert all(load.skipped for load in after)
    assert [load.quarantined for load in before] == [load.quarantined for load in after]
    assert len(quarantined(both)) == 1
    assert rows(both, "select count(*) from oltp.charges") == [(5,)]


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


def test_all_bad_records_of_a_file_stand_in_quarantine_and_their_values_are_ciphertext(both: Settings, tmp_path: Path):
    frames = [spoiled(column, 3, value) for column, value, _, _ in BAD]
    for number, frame in enumerate(frames):
        frame["TRANSACTION_ID"] = [None if pd.isna(t) else str(int(t) + 100 * number) for t in frame["TRANSACTION_ID"]]
        if BAD[number][2] == "transaction_unique":
            frame.loc[2, "TRANSACTION_ID"] = "10"
    file = csv(tmp_path, pd.concat(frames, ignore_index=True))
    loads = bring(both, file)
    assert sum(load.rows.get("charges", 0) for load in loads) == 5 * len(BAD)
    assert sum(load.quarantined for load in loads) == len(BAD)
    assert sorted(rule for _, rule, _ in quarantined(both)) == sorted(rule for _, _, rule, _ in BAD)
    assert {r for r, _, _ in quarantined(both)} == {f"some.csv row {6 * i + 3}" for i in range(len(BAD))}
    payloads = rows(both, "select payload_ciphertext from ops.quarantine")
    assert not [p for (p,) in payloads if b"TX_AMOUNT" in bytes(p)]


def test_nan_and_infinity_in_a_column_of_doubles_are_quarantined_too(both: Settings, tmp_path: Path):
    amounts = [1.0, float("nan"), float("inf"), float("-inf"), 2.0, -1.0]
    loads = bring(both, parquet(tmp_path, records(TX_AMOUNT=amounts)))
    assert [(r[0], r[1]) for r in quarantined(both)] == [
        ("some.parquet row 2", "amount_is_a_number"), ("some.parquet row 3", "amount_is_finite"),
        ("some.parquet row 4", "amount_is_finite"), ("some.parquet row 6", "amount_not_negative")]
    assert sum(load.rows.get("charges", 0) for load in loads) == 2


def test_of_repeated_ids_the_first_good_record_stays_across_files_too(both: Settings, tmp_path: Path):
    one = parquet(tmp_path, records(TX_AMOUNT=[-1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "one.parquet")
    two = parquet(tmp_path, records(TRANSACTION_ID=[10, 11, 21, 22, 23, 24]), "two.parquet")
    bring(both, one, two)
    assert [(r[0], r[1]) for r in quarantined(both)] == [
        ("one.parquet row 1", "amount_not_negative"), ("two.parquet row 2", "transaction_unique")]
    assert rows(both, "select count(*) from oltp.charges") == [(10,)]


def test_a_transaction_that_stands_already_is_quarantined_by_a_later_source(both: Settings, tmp_path: Path):
    bring(both, parquet(tmp_path, records(TX_FRAUD=[0] * 6)), start=DAY, days=1)
    late = records(TRANSACTION_ID=[10, 11, 12, 30, 31, 32])
    # A later source repeats the first day's records: their day is closed, so they come beside a new day's.
    feed = FileFeed(both, [parquet(tmp_path, late, "late.parquet")], start=DAY, days=2)
    refused: list = []
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        tables = feed._charge_rows(conn, 0, 6, refused)
    assert tables["charges"].num_rows == 3
    assert [(r.record, r.rule) for r in refused] == [(f"late.parquet row {i}", "transaction_new") for i in (1, 2, 3)]


def test_an_unknown_currency_in_the_column_costs_its_record_and_as_option_the_file(both: Settings, tmp_path: Path):
    with pytest.raises(FileError, match=r"some\.parquet: currency 'zzz' is unknown: name one of"):
        FileFeed(both, [parquet(tmp_path, records())], currency="zzz")
    frame = records(CURRENCY=["eur", "usd", "zzz", "JPY", None, "kwd"], TX_AMOUNT=[1.0, 2.5, 3.0, 400.0, 5.0, 1.25])
    bring(both, parquet(tmp_path, frame))
    assert [(r[0], r[1]) for r in quarantined(both)] == [("some.parquet row 3", "currency_known")]
    assert rows(both, "select amount, currency from oltp.charges order by created") == [
        (100, "eur"), (250, "usd"), (400, "jpy"), (500, "eur"), (1250, "kwd")]
    assert {r[0] for r in rows(both, "select from_currency from oltp.exchange_rates")} == {"usd", "jpy", "kwd"}


def test_the_currency_option_decides_the_minor_unit(both: Settings, tmp_path: Path):
    bring(both, parquet(tmp_path, records(TX_AMOUNT=[57.0, 0.0, 1.5, 2.0, 3.0, 4.0])), currency="jpy")
    assert [(r[0], r[1]) for r in quarantined(both)] == [("some.parquet row 3", "amount_decimals")]
    assert rows(both, "select sum(amount), min(currency) from oltp.charges") == [(66, "jpy")]


def test_a_missing_column_an_empty_file_and_what_is_no_file_are_refused_in_one_sentence(both: Settings, tmp_path: Path):
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
            bring(both, file)
        assert "\n" not in str(refused.value)
    assert rows(both, "select count(*) from ops.day_ledger") == [(0,)]


def test_a_file_of_bad_records_only_is_refused_and_names_the_first(both: Settings, tmp_path: Path):
    with pytest.raises(FileError, match=r"no record of some\.parquet can be used; the first: some\.parquet row 1"):
        bring(both, parquet(tmp_path, records(TX_AMOUNT=[-1.0] * 6)))


def test_a_csv_line_with_too_many_fields_costs_its_record_only(both: Settings, tmp_path: Path):
    file = csv(tmp_path, records())
    lines = file.read_text().splitlines()
    lines[2] += ",surplus"
    file.write_text("\n".join(lines) + "\n")
    bring(both, file)
    assert [(r[0], r[1]) for r in quarantined(both)] == [("some.csv row 2", "record_complete")]
    assert rows(both, "select count(*) from oltp.charges") == [(5,)]


def test_a_file_is_remembered_as_the_folders_feed(both: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    calendar = FeedSpec.file([file]).remember(both)
    assert (calendar.first, calendar.days, calendar.tail) == (DAY, 2, 7)
    feed = current_feed(both)
    assert feed.name == "file"
    assert feed.bring(DAY).rows["charges"] == 3


def test_the_same_file_gives_the_same_rows_in_every_clean_run(both: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    with psycopg.connect(both.need("oltp_dsn")) as conn:
        one, other = (FileFeed(both, [file])._rows(conn, DAY).tables for _ in range(2))
    assert one.keys() == other.keys()
    assert all(one[name].equals(other[name]) for name in one)


def lines(folder: Path, *changed: tuple[int, str], note: str | None = None, end: str = "\n") -> Path:
    """The six records as CSV, some lines replaced (0 is the header), with a last column of prose if `note` is given."""
    text = csv(folder, records() if note is None else records(NOTE="")).read_text().splitlines()
    if note is not None:
        text[3] = text[3].removesuffix('""') + note
    for number, line in changed:
        text[number] = line
    (folder / "some.csv").write_bytes((end.join(text) + end).encode())
    return folder / "some.csv"


def reasons(file: Path) -> tuple[int, list[tuple[str, str]]]:
    judged = judge(read_transactions([file]), "eur")
    return len(judged.good), [(bad.record, bad.rule) for bad in judged.bad]


@pytest.mark.parametrize("line", [
    '12,2018-06-11 02:00:02,1,8,"1.1,0', '"12,2018-06-11 02:00:02,1,8,1.1,0', '12,2018-06-11 02:00:02,1,8,1.1,"0',
    '12,2018-06-11 02:00:02,1,8,1.1,"0""', '12,"2018-06-11 02:00:02",1,"8,1.1,0', '12,"2018-06-11',
])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quote_that_is_never_closed_costs_its_record_only(tmp_path: Path, line: str, end: str):
    assert reasons(lines(tmp_path, (3, line), end=end)) == (5, [("some.csv row 3", "quote_closed")])


def test_an_unclosed_quote_is_not_closed_by_the_quote_of_a_later_record(tmp_path: Path):
    later = [(3, '12,2018-06-11 02:00:02,1,8,1.1,"0'), (5, '14,"2018-06-12 01:00:01",1,40,9.99,1')]
    assert reasons(lines(tmp_path, *later)) == (5, [("some.csv row 3", "quote_closed")])
    two = [(3, '12,2018-06-11 02:00:02,1,8,1.1,"0'), (5, '14,2018-06-12 01:00:01,1,40,9.99,"1')]
    assert reasons(lines(tmp_path, *two)) == (4, [(f"some.csv row {n}", "quote_closed") for n in (3, 5)])
    # Closed at the end of another field: neither a number nor an id holds a line break.
    ended = [(3, '12,2018-06-11 02:00:02,1,8,"1.1,0'), (4, '13,2018-06-12 00:00:00,2,9",220.5,0')]
    good, bad = reasons(lines(tmp_path, *ended))
    assert (good, bad) == (5, [("some.csv row 3", "quote_closed")])


def test_a_quoted_line_break_in_prose_is_part_of_its_field(tmp_path: Path):
    note = '"two\nlines, ""quoted"",\n\n99,2018-06-11 00:00:00,1,7,5.0,0,"'
    assert reasons(lines(tmp_path, note=note)) == (6, [])
    spoilt = (5, "14,2018-06-12 01:00:01,1,40,-9.99,1,")
    assert reasons(lines(tmp_path, spoilt, note=note)) == (5, [("some.csv row 5", "amount_not_negative")])
    # Unclosed prose that a later quote seems to close, with too many fields then.
    assert reasons(lines(tmp_path, (5, '14,2018-06-12 01:00:01,1,40,9.99,1,x",y'), note='"open')) == (
        4, [("some.csv row 3", "quote_closed"), ("some.csv row 5", "record_complete")])


def test_every_line_of_a_large_file_with_many_open_quotes_is_good_or_bad(tmp_path: Path):
    file = tmp_path / "large.csv"
    good = [f'{i},2018-06-11 00:00:00,"{i % 9}",7,"1.50",0,"a\nb"' for i in range(60_000)]
    for i in range(100, 60_000, 700):
        good[i] = f'{i},2018-06-11 00:00:00,"{i % 9},7,1.50,0,x'
    file.write_text("\n".join([",".join(records().columns) + ",NOTE", *good]) + "\n")
    judged = judge(read_transactions([file]), "eur")
    assert [(bad.record, bad.rule) for bad in judged.bad] == [
        (f"large.csv row {i + 1}", "quote_closed") for i in range(100, 60_000, 700)]
    assert len(judged.good) + len(judged.bad) == 60_000


def test_an_unclosed_quote_in_the_header_is_refused(tmp_path: Path):
    header = '"TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD'
    with pytest.raises(FileError, match=r"some\.csv: a quote opened in its header is never closed: close it"):
        read_transactions([lines(tmp_path, (0, header))])


def test_a_record_of_the_future_is_quarantined_and_does_not_stretch_the_calendar(both: Settings, tmp_path: Path):
    stamps = records()["TX_DATETIME"].copy()
    stamps[5] = pd.Timestamp("2150-01-01")
    loads = bring(both, parquet(tmp_path, records(TX_DATETIME=stamps)))
    assert [load.day for load in loads] == [DAY + dt.timedelta(days=i) for i in range(2 + 7)]
    assert quarantined(both) == [("some.parquet row 6", "time_not_in_the_future",
        "some.parquet row 6: the time lies more than a day in the future (rule time_not_in_the_future)")]  # fmt: skip
    assert rows(both, "select count(*) from oltp.charges") == [(5,)]


def test_an_instant_within_a_day_from_now_is_no_future(tmp_path: Path):
    now = pd.Timestamp.now("UTC")
    stamps = [now + pd.Timedelta(hours=h) for h in (-1, 0, 1, 23, 25, 49)]
    assert reasons(parquet(tmp_path, records(TX_DATETIME=stamps))) == (
        4, [(f"some.parquet row {n}", "time_not_in_the_future") for n in (5, 6)])


def test_bad_records_outside_the_computed_window_come_with_its_first_day(both: Settings, tmp_path: Path):
    stamps = records()["TX_DATETIME"].copy()
    stamps[0], stamps[5] = pd.Timestamp("2018-05-01"), pd.Timestamp("2018-09-01")
    file = parquet(tmp_path, records(TX_DATETIME=stamps, TX_AMOUNT=[-1.0, 2.0, 3.0, 4.0, 5.0, -6.0]))
    assert sum(load.quarantined for load in bring(both, file)) == 2
    assert [record for record, _, _ in quarantined(both)] == ["some.parquet row 1", "some.parquet row 6"]


def test_a_computed_window_of_more_than_ten_years_is_refused(both: Settings, tmp_path: Path):
    stamps = records()["TX_DATETIME"].copy()
    stamps[0] = pd.Timestamp("1999-01-01")
    file = parquet(tmp_path, records(TX_DATETIME=stamps))
    with pytest.raises(FileError, match="spans 7,103 days from 1999-01-01, more than 3,660: give --start and --days"):
        FeedSpec.file([file]).remember(both)
    assert not (both.home / "feed.json").exists()
    assert FileFeed(both, [file], start=DAY, days=2).calendar().days == 2


@pytest.mark.parametrize(("start", "days"), [("2019-01-01", None), ("2019-01-01", 3), ("2018-06-13", None)])
def test_a_window_without_transactions_is_refused_before_it_is_remembered(
    both: Settings, tmp_path: Path, start: str, days: int | None
):
    spec = FeedSpec.file([parquet(tmp_path, records())], start=dt.date.fromisoformat(start), days=days)
    with pytest.raises(FileError, match=rf"some\.parquet has no transaction in the .*days from {start}: move --start"):
        spec.remember(both)
    assert not (both.home / "feed.json").exists()
    assert not (both.home / "calendar.env").exists()


@pytest.mark.parametrize("column", ["TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID"])
@pytest.mark.parametrize("char", ["\0", "\x1b", "\t", "\n", "\x7f"])
def test_a_control_character_in_an_id_costs_its_record_only(tmp_path: Path, column: str, char: str):
    file = parquet(tmp_path, spoiled(column, 3, f"4{char}2"))
    assert reasons(file) == (5, [("some.parquet row 3", "id_without_control_characters")])
    if char != "\n":
        file = csv(tmp_path, spoiled(column, 3, f"4{char}2"))
        assert reasons(file) == (5, [("some.csv row 3", "id_without_control_characters")])


def damaged(folder: Path) -> Path:
    file = parquet(folder, records(), "damaged.parquet")
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    return file


def test_files_in_another_encoding_damaged_or_of_odd_types_are_refused_in_one_sentence(both: Settings, tmp_path: Path):
    csv(tmp_path, records(), "utf16.csv").write_bytes((tmp_path / "utf16.csv").read_text().encode("utf-16"))
    (tmp_path / "utf16le.csv").write_bytes((tmp_path / "utf16.csv").read_bytes()[2:])
    latin = csv(tmp_path, records(NOTE=["", "", "caf\xe9", "", "", ""]), "latin.csv")
    latin.write_bytes(latin.read_text().encode("latin-1"))
    doubled = csv(tmp_path, records(), "doubled.csv")
    doubled.write_text("\n".join(line + (",TX_AMOUNT" if n == 0 else ",1.0")
                                 for n, line in enumerate(doubled.read_text().splitlines())) + "\n")  # fmt: skip
    table = pa.Table.from_pandas(records())
    pq.write_table(table.append_column("TX_AMOUNT", table["TX_AMOUNT"]), tmp_path / "doubled.parquet")
    cases = {
        r"utf16\.csv line 1 is not in UTF-8: save the file": tmp_path / "utf16.csv",
        r"utf16le\.csv line 1 is not in UTF-8: save the file": tmp_path / "utf16le.csv",
        r"latin\.csv line 4 is not in UTF-8: save the file": latin,
        r"damaged\.parquet is damaged behind its Parquet schema: copy or write": damaged(tmp_path),
        r"doubled\.csv has column TX_AMOUNT more than once: keep": doubled,
        r"doubled\.parquet has column TX_AMOUNT more than once: keep": tmp_path / "doubled.parquet",
    }
    odd: dict[str, list[Any]] = {"binary": [b"1"] * 6, "list": [[1]] * 6, "struct": [{"a": 1}] * 6}
    for name, values in odd.items():
        cases[rf"{name}\.parquet: column CUSTOMER_ID holds {name}.*: write it as text or numbers"] = parquet(
            tmp_path, records(CUSTOMER_ID=values), f"{name}.parquet")
    cases[r"date\.parquet: column TX_AMOUNT holds date32.*: write it as text or numbers"] = parquet(
        tmp_path, records(TX_AMOUNT=[DAY] * 6), "date.parquet")
    for message, file in cases.items():
        with pytest.raises(FileError, match=message) as refused:
            bring(both, file)
        assert "\n" not in str(refused.value)
    assert rows(both, "select count(*) from ops.day_ledger") == [(0,)]


def test_columns_as_other_writers_make_them_are_read_by_their_values(tmp_path: Path):
    index = records().set_index("TRANSACTION_ID")
    index.to_parquet(tmp_path / "index.parquet")
    assert reasons(tmp_path / "index.parquet") == (6, [])
    frame = records(CURRENCY=pd.Categorical(["usd"] * 5 + [None]), TX_FRAUD=records()["TX_FRAUD"].astype("boolean"))
    assert reasons(parquet(tmp_path, frame)) == (6, [])
    far = pa.array([0, 17_000, -1, 2**31 - 1, -(2**31), 17_000], pa.int32()).cast(pa.date32())
    table = pa.Table.from_pandas(records())
    pq.write_table(table.set_column(1, "TX_DATETIME", far), tmp_path / "far.parquet")
    assert reasons(tmp_path / "far.parquet") == (3, [(f"far.parquet row {n}", "time_readable") for n in (3, 4, 5)])
    number = records(TX_DATETIME=pd.array([20180611, None] * 3, "Int64"))
    assert reasons(parquet(tmp_path, number))[0] == 0, "a number is no date, beside a null neither"


def test_the_currency_option_in_upper_case_is_the_same_source(both: Settings, tmp_path: Path):
    file = parquet(tmp_path, records())
    upper, lower = (FileFeed(both, [file], currency=currency) for currency in ("USD", "usd"))
    assert upper.digest == lower.digest
    upper.bring(DAY)
    assert lower.bring(DAY).skipped
    assert rows(both, "select distinct currency from oltp.charges") == [("usd",)]


def test_a_transaction_keeps_its_ids_whatever_else_its_file_holds(both: Settings, tmp_path: Path):
    def ids(file: Path) -> list[str]:
        return FileFeed(both, [file])._ids[1].to_pylist()

    expected = ids(parquet(tmp_path, records()))
    floats = records(TRANSACTION_ID=[10.0, 11.0, 12.0, 13.0, 14.0, 15.5])
    objects = records(TRANSACTION_ID=["10", "11", "12", "13", "14", "T-15"])
    nulls = records(TRANSACTION_ID=pd.array([10, 11, 12, 13, 14, None], "Int64"))
    decimals = records(TRANSACTION_ID=[Decimal(n).scaleb(-2) for n in (1000, 1100, 1200, 1300, 1400, 1550)])
    for frame in (floats, objects, nulls, decimals):
        assert ids(parquet(tmp_path, frame))[:5] == expected[:5]
    assert ids(csv(tmp_path, objects))[:5] == expected[:5]
    assert len(set(ids(parquet(tmp_path, floats)))) == 6


def test_large_whole_numbers_stay_apart_beside_a_null(tmp_path: Path):
    big = 2**60
    ids = pd.array([big, big + 1, big + 2, big + 3, big + 4, None], "Int64")
    assert reasons(parquet(tmp_path, records(TRANSACTION_ID=ids))) == (5, [("some.parquet row 6", "transaction_named")])


def test_terminals_are_labelled_in_the_order_of_first_use_and_no_number_of_the_file_stands_in_clear(
    both: Settings, tmp_path: Path
):
    card = "4242424242424242"
    bring(both, csv(tmp_path, records(TERMINAL_ID=["T9", card, "T9", "T1", card, "T5"])))
    labels = rows(both, "select t.label from oltp.terminals t join oltp.charges c on c.terminal_id = t.id"
                        " group by t.id, t.label order by min(c.created)")  # fmt: skip
    assert labels == [(f"Terminal {n}",) for n in (1, 2, 3, 4)]
    for table in ("accounts", "terminals", "customers", "payment_methods", "payment_intents", "charges"):
        assert rows(both, f"select count(*) from oltp.{table} t where t::text like '%{card}%'") == [(0,)]

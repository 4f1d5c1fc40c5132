"""Violations to plant, by table: (where, what is changed, the rule that must break)."""

OLTP = [
    ("payment_intents", "set amount = -5, amount_received = -5", "no_negative_amounts"),
    ("payment_intents", "set amount_received = amount + 1", "no_received_beyond_amount"),
    ("charges", "set amount = -5, amount_captured = -5, amount_refunded = -5", "no_negative_amounts"),
    ("charges", "set currency = 'zzz'", "no_unknown_currencies"),
    ("charges", "set amount_captured = amount + 1", "no_captured_beyond_amount"),
    ("charges", "set amount_refunded = amount_captured + 1", "no_refunded_beyond_capture"),
    ("charges", "set status = 'failed', amount_captured = 1", "no_failed_but_captured"),
    ("charges", "set created = created + interval '40 days'", "no_misdated_ids"),
    ("refunds", "set amount = amount + 100000000", "no_beyond_capture"),
    ("refunds", "set currency = 'kwd'", "no_other_currency"),
    ("refunds", "set charge_id = 'ch_none'", "no_without_charge"),
    ("disputes", "set amount = -1", "no_negative_amounts"),
    ("disputes", "set currency = 'kwd'", "no_other_currency"),
    ("disputes", "set charge_id = 'ch_none'", "no_without_charge"),
]

RAW = "update raw.{0} set {1} where ctid = (select min(ctid) from raw.{0})"
FACT = "update marts.{0} set {1} where ctid = (select min(ctid) from marts.{0})"
WAREHOUSE = [
    ("raw/charges", RAW.format("charges", "amount = -1"), "no_negative_amounts"),
    ("raw/charges", RAW.format("charges", "currency = 'EURO'"), "no_odd_currencies"),
    ("raw/charges", RAW.format("charges", "amount_captured = amount + 1"), "no_captured_beyond_amount"),
    ("raw/charges", RAW.format("charges", "amount_refunded = amount_captured + 1"), "no_refunded_beyond_capture"),
    *((f"raw/{table}", RAW.format(table, change), "no_days_altered") for table, change in (
        ("charges", "amount = amount + 1, amount_captured = amount_captured + 1"), ("charges", "status = 'pending'"),
        ("charges", "created = created + interval '1 microsecond'"), ("charges", "disputed = not disputed"),
        ("charges", "device_type = null"), ("charges", "device_type = ''"), ("charges", "_deleted = true"),
        ("charges", "id = 'ch_other'"), ("charges", "_ord = _ord + 1"), ("charge_outcomes", "risk_score = 100"),
        ("terminals", "latitude = latitude + 0.00001"), ("exchange_rates", "rate = rate + 0.0000000001"),
        ("exchange_rates", "day = day - 1"), ("customers", "country = 'XX'"), ("currencies", "name = name || ' '"))),
    ("raw/charges", ("with two as (select id, amount, lead(amount) over (order by id) as other, lead(id) over "
     "(order by id) as next from raw.charges where _ledger_day = '2026-06-02'), pair as (select * from two where "
     "amount < other limit 1) update raw.charges c set amount = case when c.id = p.id then p.other else p.amount end "
     "from pair p where c.id in (p.id, p.next)"), "no_days_altered"),
    ("raw/charges", ("delete from raw.charges where id = (select min(id) from raw.charges "
     "where _ledger_day = '2026-06-02')"), "rows_scanned_equals_keys_in_the_log"),
    ("raw/payment_intents", ("insert into raw.payment_intents "
     "select (jsonb_populate_record(p, '{\"id\": \"pi_x\"}')).* from raw.payment_intents p limit 1"),
     "rows_scanned_equals_keys_in_the_log"),
    ("raw/refunds", RAW.format("refunds", "amount = -1"), "no_negative_amounts"),
    ("raw/disputes", RAW.format("disputes", "currency = null"), "no_odd_currencies"),
    ("raw/exchange_rates", RAW.format("exchange_rates", "rate = 'NaN'"), "no_odd_rates"),
    ("raw/charge_outcomes", "alter table raw.charge_outcomes drop constraint charge_outcomes_pkey; alter table "
     "raw.charge_outcomes alter column charge_id drop not null; " + RAW.format("charge_outcomes", "charge_id = null"),
     "no_null_keys"),
    ("marts/fct_charges", ("delete from marts.fct_charges where charge_id = (select min(charge_id) from "
     "marts.fct_charges where event_day = '2026-06-02')"), "rows_scanned_equals_raw_rows"),
    ("marts/fct_charges", FACT.format("fct_charges", "amount = amount + 1"), "no_currencies_with_other_sums"),
    ("marts/fct_charges", FACT.format("fct_charges", "customer_token = null"), "no_gaps"),
    ("marts/fct_refunds", FACT.format("fct_refunds", "amount = amount - 1"), "no_currencies_with_other_sums"),
    ("marts/fct_disputes", FACT.format("fct_disputes", "charge_created = null"), "no_gaps"),
    ("marts/agg_daily_revenue", FACT.format("agg_daily_revenue", "gross = gross + 1, net = net + 1"),
     "no_currencies_with_other_sums"),
    ("marts/agg_daily_revenue", FACT.format("agg_daily_revenue", "net = net + 1"), "no_wrong_nets"),
    ("features/charge", ("delete from features.charge where charge_id = (select min(charge_id) from features.charge "
     "where event_day = '2026-06-02')"), "rows_scanned_equals_charges"),
    ("features/charge", ("update features.charge set customer_nb_tx_1d = customer_nb_tx_7d + 1 where charge_id = "
     "(select min(charge_id) from features.charge where event_day = '2026-06-02')"), "no_shrinking_windows"),
    ("features/charge", ("update features.charge set customer_nb_tx_30d = null where charge_id = "
     "(select min(charge_id) from features.charge where event_day = '2026-06-02')"), "no_null_counts"),
    ("features/charge", ("update features.charge set terminal_risk_7d = 'NaN' where charge_id = "
     "(select min(charge_id) from features.charge where event_day = '2026-06-02' and terminal_id is not null)"),
     "no_shares_outside"),
    *((f"marts/{mart}", FACT.format(mart, change), "no_currencies_with_altered_rows") for mart, change in (
        ("fct_charges", "amount_captured = amount_captured + 1"), ("fct_charges", "status = 'pending'"),
        ("fct_charges", "amount_refunded = amount_refunded + 1"), ("fct_charges", "ip_country = 'XX'"),
        ("fct_refunds", "status = 'canceled'"), ("fct_disputes", "reason = null"))),
    *((f"marts/{mart}", FACT.format(mart, change), "no_altered_rows") for mart, change in (
        ("dim_customer", "country = 'XX'"), ("dim_customer", "account_token = 'other'"),
        ("dim_customer", "created = null"), ("dim_account", "mcc = '0000'"),
        ("dim_account", "charges_enabled = not charges_enabled"), ("dim_account", "account_id = 'acct_other'"))),
    ("marts/dim_account", "alter table marts.dim_account add nickname text", "no_columns_not_compared"),
    ("marts/dim_customer", "insert into marts.dim_customer select * from marts.dim_customer limit 1",
     "no_repeated_tokens"),
    ("marts/dim_account", "alter table marts.dim_account add name_ciphertext bytea", "no_ciphertext_columns"),
    ("marts/dim_date", "delete from marts.dim_date where date_day = '2026-06-02'",
     "rows_scanned_equals_days_spanned"),
]

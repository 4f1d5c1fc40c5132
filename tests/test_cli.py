"""What a person meets at the command line: help with an example, one sentence per error, a table, or JSON."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pytest
from typer.testing import CliRunner

from stripe_platform import cli, progress, tables

RUNNER = CliRunner()
WITH_EXAMPLE = ("up", "env", "checks", "demo", "simulate", "freshness")


@pytest.mark.parametrize("command", WITH_EXAMPLE)
def test_help_gives_an_example(command):
    said = RUNNER.invoke(cli.app, [command, "--help"]).output
    assert "Example" in said or 'eval "' in said


def test_an_error_is_one_sentence_with_the_remedy_and_no_traceback(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STRIPE_PLATFORM_HOME", str(tmp_path / "empty"))
    for name in ("OLTP_DSN", "WAREHOUSE_DSN"):
        monkeypatch.delenv(f"STRIPE_PLATFORM_{name}", raising=False)
    monkeypatch.setattr("sys.argv", ["stripe-platform", "checks"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert said.count("\n") == 0
    assert "STRIPE_PLATFORM_WAREHOUSE_DSN is not set" in said
    assert "stripe-platform up" in said


def test_the_json_line_is_one_object(capsys):
    cli.emit({"b": 1, "a": None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": 1}


def test_a_table_of_nothing_says_so(capsys):
    tables.show("Servers", [])
    assert "nothing to show" in capsys.readouterr().out


def test_numbers_have_thousands_separators(capsys):
    tables.show("Rows", [{"layer": "oltp", "rows": 905743}])
    assert "905,743" in capsys.readouterr().out


def test_stages_are_silent_without_a_command_line(capsys):
    with progress.stage("work", total=2) as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_stages_are_drawn_for_a_command(capsys):
    with progress.enabled(), progress.stage("capture changes", total=2) as advance:
        advance(2)
    assert "capture changes" in capsys.readouterr().err


def test_a_folder_name_is_a_word_of_the_shell_and_not_a_command(monkeypatch, tmp_path):
    home = tmp_path / "a b;touch pwned;"
    monkeypatch.setenv("STRIPE_PLATFORM_HOME", str(home))
    exports = RUNNER.invoke(cli.app, ["env"]).output
    shown = subprocess.run(["sh", "-c", f'{exports} printf %s "$DAGSTER_HOME"'], cwd=tmp_path, check=True,
                           capture_output=True, text=True).stdout
    assert shown == str(home / "dagster")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("command", [
    ["checks", "--fail-on", "eror"], ["freshness", "--fail-on", "error"], ["checks", "--day", "2026-06-10"],
])
def test_a_mistyped_gate_is_no_open_gate(command):
    assert RUNNER.invoke(cli.app, command).exit_code == 2


def test_a_store_that_does_not_answer_is_one_sentence_with_the_remedy():
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect("postgresql://nobody:secret@127.0.0.1:1/none")
    said = cli.sentence(refused.value)
    assert "run `stripe-platform up`" in said
    assert "secret" not in said
    assert "\n" not in said


def test_zero_days_are_refused_and_not_taken_for_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("STRIPE_PLATFORM_HOME", str(tmp_path / "home"))
    refused = RUNNER.invoke(cli.app, ["demo", "--days", "0"])
    assert "days must be at least 1" in str(refused.exception)
    assert not (tmp_path / "home").exists(), "nothing is started for a mistyped option"

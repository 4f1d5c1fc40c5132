"""What a person meets at the command line: help with an example, one sentence per error, a table, or JSON."""

from __future__ import annotations

import json

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

"""How every command ends: a short table, or one machine-readable object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="One machine-readable object as the last line.")]


def emit(payload: object) -> None:
    """The machine-readable last line of a command."""
    typer.echo(json.dumps(payload, default=str, sort_keys=True))


def show(title: str, rows: Sequence[Mapping[str, object]], *, note: str | None = None) -> None:
    """Print rows (same keys) as a table; integers right-aligned with thousands separators."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    names = list(rows[0]) if rows else ["nothing to show"]
    for name in names:
        numeric = bool(rows) and all(isinstance(r[name], int | float) and not isinstance(r[name], bool) for r in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_text(row[name]) for name in names))
    console = Console()
    console.print(table)
    if note:
        console.print(note, highlight=False)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)

"""Pictures as run metadata carries them: small PNGs, inline in Markdown."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 60_000  # bytes of PNG that run metadata may carry
INK, ACCENT, CALM, ALARM = "#32325d", "#635bff", "#8898aa", "#e25950"


def drawn(figure: Figure) -> bytes:
    """The figure as PNG; `ValueError` when it is larger than metadata may carry."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    png = buffer.getvalue()
    if len(png) > LARGEST:
        raise ValueError(f"the plot takes {len(png)} bytes, metadata may carry {LARGEST}: draw less")
    return png


def as_markdown(png: bytes, text: str) -> str:
    """The picture inline, as Dagster's Markdown metadata shows it."""
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode()})"

"""Pictures as run metadata carries them: small PNGs, inline in Markdown."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = 48
LARGEST = 60_000  # bytes of PNG that run metadata may carry
INK, ACCENT, CALM, ALARM = "#32325d", "#635bff", "#8898aa", "#e25950"


def drawn(figure: Figure) -> bytes:
    """The figure as PNG; `ValueError` when it is larger than metadata may carry."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette: few colours are used, and a quarter of the bytes says the same.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    png = buffer.getvalue()
    if len(png) > LARGEST:
        raise ValueError(f"the plot takes {len(png)} bytes, metadata may carry {LARGEST}: draw less")
    return png


def as_markdown(png: bytes, text: str) -> str:
    """The picture inline, as Dagster's Markdown metadata shows it."""
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode()})"

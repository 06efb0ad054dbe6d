"""The look of figures, and their conversion to text that a page can hold."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

INK = "#22303a"
MUTED = "#7b8790"
ACCENT = "#3d7290"
WARM = "#c0653b"
# White to the surface's blue.
SEQUENTIAL = "Blues"

_STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    # Text stays text: it takes the page's font and can be searched.
    "svg.fonttype": "none",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Context in which figures have the report's look, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        with matplotlib.rc_context(_STYLE):
            yield


def new_figure(width: float, height: float, **settings: Any) -> Figure:
    """Figure of a size in inches, independent of pyplot's state."""
    return Figure(figsize=(width, height), layout="constrained", **settings)


def as_svg(figure: Figure, name: str) -> str:
    """SVG element of a figure; the name keeps its identifiers apart from other figures' on the page."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    # The XML declaration does not belong into HTML.
    return svg[svg.index("<svg") :]


def as_data_uri(image: NDArray[np.uint8]) -> str:
    """PNG of an image (rows, columns[, 3 or 4]) as the ``src`` of an ``img``."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    data = io.BytesIO()
    # An empty text in place of matplotlib's version.
    imsave(data, image, format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")

"""What a lesson's kernel shows while it runs for the site: a page has no kernel, and two themes.

A picture comes twice, for a light and a dark page; an explorer as the offline page that it would
save; other controls as what they show, with a word on what is missing.
"""

import base64
import html
import io
from typing import Any

import numpy as np
from IPython import get_ipython
from PIL import Image

__all__ = ["install"]

SAMPLES = 16  # of an explorer's page, beside the one that the lesson shows
NO_KERNEL = (
    '<p class="note">These controls need a kernel: open the lesson in JupyterLab or on Colab to'
    " use them.</p>"
)


def install() -> None:
    """Register all of them; classes go by name, so that nothing is imported before its lesson does."""
    formatters = get_ipython().display_formatter
    as_html, bundles = formatters.formatters["text/html"], formatters.mimebundle_formatter
    as_html.for_type_by_name("course_lib.pictures.base", "Picture", picture)
    bundles.for_type_by_name("course_lib.explorer.widget", "_Viewer", explorer)
    bundles.for_type_by_name("ipywidgets.widgets.widget", "Widget", controls)


# ---- pictures ------------------------------------------------------------------------------------


def picture(shown: Any) -> str:
    """The picture for a light page and for a dark one, with its description and its caption."""
    from course_lib.pictures.base import SHARP, dark, drawn

    pixels, coloured = drawn(shown.figure)
    alternative, caption = html.escape(shown.description), html.escape(shown.caption)
    images = [
        f'<img class="on-{theme}" alt="{alternative}" width="{round(image.shape[1] / SHARP)}"'
        f' src="{as_url(image)}">'
        for theme, image in (("light", pixels), ("dark", dark(pixels, coloured)))
    ]
    return f"<figure>{''.join(images)}<figcaption>{caption}</figcaption></figure>"


def as_url(pixels: np.ndarray) -> str:
    """The pixels as a WebP inside its own address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- widgets -------------------------------------------------------------------------------------


def explorer(widget: Any, **kwargs: Any) -> tuple[dict, dict]:
    """The widget's page, opened at the state that it has now."""
    state = {name: getattr(widget, name) for name in widget.state_names()}
    samples = range(min(SAMPLES, len(widget.explorer.dataset)))
    chosen = [state["sample"], *(k for k in samples if k != state["sample"])]
    page = widget.explorer.page(chosen, **state)
    return {"text/html": frame(page, widget.explorer.title), "text/plain": ""}, {}


def frame(page: str, title: str) -> str:
    """A page inside the one that shows it."""
    return f'<div><iframe srcdoc="{html.escape(page)}" title="{title}" height="900"></iframe></div>'


def controls(widget: Any, **kwargs: Any) -> tuple[dict, dict] | dict:
    """The pictures and the text among the controls; a widget that brings its own page shows that."""
    own = widget._repr_mimebundle_(**kwargs)
    data = own[0] if isinstance(own, tuple) else own or {}
    if "text/html" in data:
        return own
    shown = [part for part in _parts(widget) if type(part).__name__ in ("HTML", "HTMLMath")]
    text = NO_KERNEL + "".join(f"<div>{part.value}</div>" for part in shown)
    return {"text/html": text, "text/plain": ""}, {}


def _parts(widget: Any) -> list[Any]:
    parts = [widget]
    for part in parts:  # grows: boxes have boxes inside
        parts += getattr(part, "children", ())
    return parts

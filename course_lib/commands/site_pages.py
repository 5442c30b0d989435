"""Notebooks and Markdown as pages: sanitised, readable in light and dark and on a telephone,
loading nothing remote.
"""

import base64
import hashlib
import html
import io
import json
import posixpath
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["Places", "lesson_page", "page", "text_page"]

PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
TAGS = {
    "a",
    "blockquote",
    "br",
    "caption",
    "code",
    "del",
    "details",
    "div",
    "em",
    "figcaption",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "hr",
    "iframe",
    "img",
    "kbd",
    "li",
    "ol",
    "p",
    "pre",
    "span",
    "strong",
    "sub",
    "summary",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
}
ATTRIBUTES = {
    "a": ["href", "title"],
    "img": ["src", "alt", "width"],
    "iframe": ["src", "title", "height"],
    "ol": ["start"],
    "details": ["open"],
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>[[title]]</title>
<link rel="stylesheet" href="site.css">
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><nav aria-label="Lessons">[[steps]]</nav></header>
<main id="content">
[[content]]
</main>
<footer><nav aria-label="Lessons, again">[[steps]]</nav></footer>
[[script]]
</body>
</html>
"""
DRAW = """<script defer src="plotly.min.js"></script>
<script type="module">
for (const place of document.querySelectorAll(".plotly")) {
  const figure = JSON.parse(place.querySelector("script").textContent);
  place.replaceChildren();
  Plotly.newPlot(place, figure);
}
</script>"""


@dataclass(frozen=True)
class Places:
    """Where the site is written, which page each notebook and text has on it, and the repository
    for what has none.
    """

    output: Path
    pages: Mapping[str, str]
    repository: str


def page(name: str, content: str, contents: Mapping[str, str]) -> str:
    """A whole page around its content, with links to those before and after it."""
    names, titles = list(contents), {other: _title(text) for other, text in contents.items()}
    at = names.index(name)
    steps = ['<a href="index.html">All lessons</a>']
    steps += [
        f'<a rel="prev" href="{other}">← {titles[other]}</a>'
        for other in names[max(1, at - 1) : at]
    ]
    steps += [
        f'<a rel="next" href="{other}">{titles[other]} →</a>' for other in names[at + 1 : at + 2]
    ]
    fields = {
        "title": titles[name] + (" · " + titles["index.html"]) * bool(at),
        "content": content,
        "steps": "\n".join(steps),
        "script": DRAW * ('class="plotly"' in content),
    }
    return re.sub(r"\[\[(title|steps|content|script)\]\]", lambda place: fields[place[1]], PAGE)


def _title(content: str) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", content, re.DOTALL)
    return re.sub(r"<[^>]+>", "", found[1]).strip() if found else "Untitled"


def text_page(path: Path, places: Places) -> str:
    """A Markdown file whose links lead to pages of the site and, where there is none, to the
    repository.
    """
    return _markdown(path.read_text(encoding="utf-8"), path, places, path.stem.lower())


def lesson_page(
    notebook: Mapping[str, Any], path: Path, places: Places, saved: Sequence[Path] = ()
) -> str:
    """The content of a lesson's page: prose, code, outputs, and the pages that the lesson has
    `saved`.
    """
    # pictures of an earlier run
    shutil.rmtree(own := places.output / path.stem, ignore_errors=True)
    own.mkdir(parents=True)
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_markdown(source, path, places, path.stem))
        elif source.strip():
            outputs = "\n".join(_output(output, own) for output in _joined(cell["outputs"]))
            parts.append(
                '<div class="cell"'
                f' id="cell-{html.escape(cell["id"])}">\n{_code(source)}\n{outputs}</div>'
            )
    for file in saved:
        shutil.copy(file, own)
    if saved:
        items = "".join(
            f'<li><a href="{own.name}/{file.name}">{file.stem}</a></li>' for file in saved
        )
        parts.append(f'<h2 id="saved-pages">Pages that this lesson saves</h2>\n<ul>{items}</ul>')
    content = "\n".join(parts)
    listed = "".join(
        f'<li><a href="#{anchor}">{text}</a></li>'
        for anchor, text in re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', content)
    )
    return content.replace(
        "</h1>", f"</h1>\n<details><summary>On this page</summary><ul>{listed}</ul></details>", 1
    )


def _markdown(source: str, path: Path, places: Places, stem: str) -> str:
    """Markdown as clean HTML: remote pictures become links, headings get anchors, wide tables
    scroll.
    """
    import mistune

    def anchored(found: re.Match) -> str:
        name = (
            re.sub(r"\W+", "-", html.unescape(re.sub(r"<[^>]+>", "", found[2]))).strip("-").lower()
        )
        return f'<h{found[1]} id="{name}">{found[2]}</h{found[1]}>'

    # in a badge, the words of its link
    source = re.sub(r"!\[([^\]]*)\]\(https?://[^)]*\)", r"\1", source)
    text = _clean(mistune.create_markdown(escape=False, plugins=["table", "strikethrough"])(source))
    text = re.sub(r"<h([2-4])>(.*?)</h\1>", anchored, text)
    text = text.replace(
        "<table>", '<div class="wide" role="group" aria-label="table" tabindex="0"><table>'
    )
    text = text.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">')
    text = re.sub(
        r'href="(?!https?:|#|mailto:)([^"]*)"',
        lambda link: f'href="{_target(link[1], path, places)}"',
        text,
    )
    return re.sub(
        r'src="(?!https?:|data:)([^"]*)"',
        lambda link: f'src="{_copied(link[1], path, places, stem)}"',
        text,
    )


def _clean(text: str) -> str:
    """Only what prose and pictures need; a script that someone writes into a lesson is shown, not
    run.
    """
    import bleach

    return bleach.clean(text, TAGS, ATTRIBUTES, protocols={"http", "https", "mailto", "data"})


def _target(link: str, path: Path, places: Places) -> str:
    """Where a relative link leads: to a page of the site, or else to the file in the repository."""
    name, hash_sign, anchor = link.partition("#")
    if place := places.pages.get(Path(name).name):
        return place + hash_sign + anchor
    folder = "notebooks" if path.suffix == ".ipynb" else ""
    return f"{places.repository}/blob/main/{posixpath.normpath(posixpath.join(folder, link))}"


def _copied(source: str, path: Path, places: Places, stem: str) -> str:
    """The place of a picture of the repository on the site."""
    (folder := places.output / stem).mkdir(parents=True, exist_ok=True)
    shutil.copy(path.parent / source, folder)
    return f"{stem}/{Path(source).name}"


def _code(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    coloured = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip(
        "\n"
    )
    return f'<pre class="code" tabindex="0"><code>{coloured}</code></pre>'


def _joined(outputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a cell printed piece by piece as one piece, so that a progress bar can write over
    itself.
    """
    joined: list[Mapping[str, Any]] = []
    for output in outputs:
        if (
            joined
            and output["output_type"] == "stream"
            and joined[-1].get("name") == output["name"]
        ):
            joined[-1] = {**joined[-1], "text": [*joined[-1]["text"], *output["text"]]}
        else:
            joined.append(output)
    return joined


def _output(output: Mapping[str, Any], own: Path) -> str:
    """One output of a cell: a figure to explore, HTML, a picture, or text."""
    if output["output_type"] == "stream":
        # what a progress bar has written over
        text = re.sub(r"[^\n]*\r(?!\n)", "", "".join(output["text"]))
        return _plain(text) if text.strip() else ""
    data = {
        kind: value if isinstance(value, Mapping) else "".join(value)
        for kind, value in output.get("data", {}).items()
    }
    text = data.get("text/plain", "\n".join(output.get("traceback", [])))
    if PLOTLY in data:
        return _figure(data[PLOTLY], text)
    if WIDGET in data:
        return (
            '<p class="note">Here is a widget, which needs a kernel: open the lesson in JupyterLab'
            " or on Colab. Pictures on this page, and pages that the lesson saves, show the same"
            " without one.</p>"
        )
    if "text/html" in data:
        return _calm(_clean(_filed(data["text/html"], own)))
    if "image/png" in data:
        return _filed(
            f'<img alt="{html.escape(text)}"'
            f' src="data:image/png;base64,{data["image/png"].strip()}">',
            own,
        )
    return _plain(text)


def _plain(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()
    return f'<pre class="output" tabindex="0">{html.escape(text)}</pre>'


def _figure(figure: Mapping[str, Any], description: str) -> str:
    """A plotly figure, to be drawn by the site's own copy of plotly; without JavaScript there is
    its sentence.
    """
    told = html.escape(description)
    data = json.dumps(figure).replace("<", "\\u003c")
    height = figure.get("layout", {}).get("height") or 450
    return (
        '<div class="wide" role="group" aria-label="figure" tabindex="0"><div class="plotly"'
        f' role="img" aria-label="{told}" style="height:{int(height)}px"><script'
        f' type="application/json">{data}</script></div></div><noscript><p'
        f' class="note">{told}</p></noscript>'
    )


def _filed(text: str, own: Path) -> str:
    """The same HTML, its embedded pictures and frames in files of their own."""

    def name(content: bytes, kind: str) -> str:
        file = own / f"{hashlib.sha256(content).hexdigest()[:16]}.{kind}"
        file.write_bytes(content)
        if kind == "gif":
            Image.open(io.BytesIO(content)).convert("RGB").save(file.with_suffix(".png"))
        return f"{own.name}/{file.name}"

    text = re.sub(r"</?picture>|<source [^>]*>", "", text)  # `_calm` makes its own stills
    text = re.sub(
        r'src="data:image/(png|gif|jpeg);base64,([^"]+)"',
        lambda found: f'src="{name(base64.b64decode(found[2]), found[1])}"',
        text,
    )
    return re.sub(
        r'srcdoc="([^"]*)"',
        lambda found: f'src="{name(html.unescape(found[1]).encode(), "html")}"',
        text,
    )


def _calm(text: str) -> str:
    """Pictures and frames load when they come into view, and nothing moves for who asked the system
    for less motion.
    """
    text = re.sub(r"<(img|iframe) ", r'<\1 loading="lazy" ', text)
    return re.sub(
        r'<img ([^>]*src="([^"]+)\.gif"[^>]*)>',
        r'<picture><source media="(prefers-reduced-motion: reduce)" '
        r'srcset="\2.png"><img \1></picture>',
        text,
    )

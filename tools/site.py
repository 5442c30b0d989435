"""The lessons as a static site, by nbconvert: no server, no network; each page is sanitised.

python -m tools.site --lessons 04,08
"""

import asyncio
import hashlib
import json
import os
import posixpath
import re
import shutil
import signal
import sys
import tomllib
from contextlib import suppress
from pathlib import Path

import bleach
import jinja2
import nbformat
import plotly
from bs4 import BeautifulSoup
from jsonargparse import auto_cli
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from plotly.offline import get_plotlyjs

from course_lib import files, runtime

from .site_check import problems

SECONDS_A_CELL = 600  # ten times what any may take on two cores
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
NO_KERNEL = (
    '<p class="note">Here is a widget, which needs a kernel: open the lesson in JupyterLab or on'
    " Colab. Pictures on this page, and pages that the lesson saves, show the same without one.</p>"
)
TAGS = bleach.ALLOWED_TAGS | {
    *("br", "del", "div", "h1", "h2", "h3", "h4", "hr", "kbd", "p", "pre", "span", "sub", "sup"),
    *("details", "summary", "input", "caption", "table", "tbody", "td", "th", "thead", "tr"),
    *("figcaption", "figure", "iframe", "img", "picture", "source"),
}
ATTRIBUTES = {
    "*": ["class", "id"],
    "a": ["href", "title"],
    "details": ["open"],
    "div": ["role", "aria-label"],
    "iframe": ["srcdoc", "title", "height"],
    "img": ["src", "alt", "width"],
    "input": ["type", "checked", "disabled"],  # of a list to tick
    "ol": ["start"],
    "source": ["media", "srcset"],
}
TEMPLATE = Path(__file__).with_suffix(".html")


def site(output: str = "site", lessons: str = "") -> list[Path]:
    """Run the lessons that have changed, and write each as a page beside an index made of the
    README; return the paths. Stopped at any moment, the same command goes on with the lesson it
    was at.

    Args:
        output: the folder to write to
        lessons: which to write, such as 04,08; default: all
    """
    root = runtime.assets().parent
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    chosen = lessons.split(",") if lessons else [path.name[:2] for path in notebooks]
    if missing := set(chosen) - {path.name[:2] for path in notebooks}:
        raise ValueError(
            f"there is no lesson {min(missing)}; --lessons takes their two-digit numbers: 04,08"
        )
    return build(root, [path for path in notebooks if path.name[:2] in chosen], Path(output))


def build(root: Path, lessons: list[Path], output: Path) -> list[Path]:
    """Run the lessons and write the site of the repository at `root`.

    Raises `ValueError` naming the cell that fails, or what on a page is not fit to be published.
    """
    sources = [root / "README.md", *lessons]
    sources += [path for path in sorted(root.glob("*.md")) if path.name != "README.md"]
    pages = {path.name: f"{path.stem.lower()}.html" for path in sources}
    pages["README.md"] = "index.html"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    contents = []  # of each page: its cells, its figures, and the pages that the lesson saved
    for path in sources:
        folder = output / path.stem
        shutil.rmtree(folder, ignore_errors=True)
        if path in lessons:
            notebook, saved = executed(root, path, folder)
        else:
            text = new_markdown_cell(path.read_text(encoding="utf-8"))
            notebook, saved = new_notebook(cells=[text]), []
        figures = prepare(notebook)
        content = converted(notebook, path.parent)
        follow_links(content, path.parent.relative_to(root), pages, project["urls"]["Repository"])
        contents.append((content, figures, saved))
    with files.atomic(output / "plotly.min.js") as temporary:
        temporary.write_text(get_plotlyjs(), encoding="utf-8")
    shutil.copy(Path(__file__).with_suffix(".css"), output)
    names = list(pages.values())
    titles = [
        content.h1.get_text() if content.h1 else name
        for name, (content, _, _) in zip(names, contents, strict=True)
    ]
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    for at, (name, (content, figures, saved)) in enumerate(zip(names, contents, strict=True)):
        page = template.render(
            title=titles[at] + (f" · {titles[0]}" if at else ""),
            before=(names[at - 1], titles[at - 1]) if at > 1 else None,
            after=(names[at + 1], titles[at + 1]) if at + 1 < len(names) else None,
            parts=content("h2") if sources[at] in lessons else [],
            content=content,
            saved=saved,
            # no text in it can end the script
            figures=json.dumps(figures).replace("<", "\\u003c") if figures else "",
        )
        with files.atomic(output / name) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if faults := problems(output):
        raise ValueError(
            f"{len(faults)} things on the pages are not fit to be published:"
            f" {'; '.join(faults[:5])}"
        )
    print(f"{len(names)} pages in {output}; open {output / 'index.html'}")
    return [output / name for name in names]


# ---- running -------------------------------------------------------------------------------------


def executed(root: Path, path: Path, target: Path) -> tuple[NotebookNode, list[Path]]:
    """The notebook with its outputs, and the HTML pages that it wrote into its cache folder, copied
    to `target`. Both are kept in `build/site` until the notebook, the library or the assets change.
    """
    results = root / "build" / "site"
    folder, cache = results / f"{path.stem}-{_key(root, path)}", results / "cache"
    if folder.exists():
        print(f"{path.stem}: unchanged")
    else:
        print(f"{path.stem}: running", flush=True)
        saved = cache / f"lesson_{path.name[:2]}"
        shutil.rmtree(saved, ignore_errors=True)
        notebook = _run(path, cache)
        for outdated in results.glob(f"*{path.stem}-*"):
            shutil.rmtree(outdated)
        new = results / f"new-{folder.name}"
        new.mkdir(parents=True)
        nbformat.write(notebook, new / path.name)
        for page in saved.rglob("*.html"):
            shutil.copy(page, new)
        new.rename(folder)
    pages = sorted(folder.glob("*.html"))
    if pages:
        target.mkdir(parents=True)
    copies = [Path(shutil.copy(page, target)) for page in pages]
    return nbformat.read(folder / path.name, 4), copies


def _key(root: Path, path: Path) -> str:
    """A hash of the notebook, the library (its commands aside), the assets and plotly's version."""
    used = [
        file
        for folder in (root / "course_lib", root / "assets")
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.parent.name not in ("commands", "__pycache__")
    ]
    digest = hashlib.sha256(plotly.__version__.encode())
    for file in [path, *used]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _run(path: Path, cache: Path) -> NotebookNode:
    """The notebook after running it; raises `ValueError` naming the cell that fails."""
    notebook, cells = nbformat.read(path, 4), []
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: cells.append(cell.id),
        on_notebook_start=_leave_ctrl_c_alone,
    )
    try:  # a relative folder, because notebooks say where they save
        client.execute(env=os.environ | {"COURSE_CACHE": os.path.relpath(cache, path.parent)})
    except (CellControlSignal, DeadKernelError) as error:
        name = getattr(error, "ename", type(error).__name__)
        raise ValueError(
            f"{path.name} fails at cell {cells[-1]!r}: {name}: {getattr(error, 'evalue', error)};"
            " mend it and run the same command, which goes on from this lesson"
        ) from error
    return notebook


def _leave_ctrl_c_alone(notebook: NotebookNode) -> None:
    """Take back the signal that nbclient has taken for itself: it would report a dead kernel and go
    on from there.
    """
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


# ---- pages ---------------------------------------------------------------------------------------


def prepare(notebook: NotebookNode) -> list[dict]:
    """Put a place for each plotly figure, and a note for each widget that needs a kernel; return the
    figures' data.

    The place holds the figure's sentence, which stays where there is no JavaScript.
    """
    figures = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = bleach.clean(data.get("text/plain", "")).replace('"', "&quot;")
            if PLOTLY in data:
                figures.append(data[PLOTLY])
                place = f'<div class="plotly" role="img" aria-label="{text}">{text}</div>'
                output.data = NotebookNode({"text/html": f'<div class="wide">{place}</div>'})
            elif WIDGET in data:
                # some can be shown without a kernel, and say how
                output.data = NotebookNode({"text/html": data.get("text/html", NO_KERNEL)})
            elif "image/png" in data:
                output.metadata["image/png"] = {"alt": data.get("text/plain", "")}
    return figures


def converted(notebook: NotebookNode, folder: Path) -> BeautifulSoup:
    """The cells as clean HTML with pictures inside; `folder` is where the text finds its own."""
    exporter = HTMLExporter(
        template_name="basic",
        sanitize_html=True,
        embed_images=True,
        exclude_anchor_links=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],
        filters={"clean_html": clean},
    )
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(folder)}})
    content = BeautifulSoup(text, "html.parser")
    for heading in content(["h2", "h3", "h4"]):
        heading["id"] = re.sub(r"\W+", "-", heading.get_text()).strip("-").lower()
    for wide in content("pre"):
        wide["tabindex"] = 0
    for table in content("table"):
        table.wrap(content.new_tag("div", attrs={"class": "wide"}))
    for wide in content(class_="wide"):
        wide.attrs |= {"role": "group", "aria-label": "wide content", "tabindex": 0}
    for frame in content("iframe"):
        frame.attrs |= {"loading": "lazy", "sandbox": "allow-scripts allow-downloads"}
    return content


def clean(text: str | bytes) -> str:
    """Only what prose and pictures need; a script that someone writes into a lesson is shown, not
    run. A frame has a page of its own, which cannot reach out of it.
    """
    text = text.decode() if isinstance(text, bytes) else str(text)
    return bleach.clean(text, TAGS, ATTRIBUTES, protocols={"http", "https", "mailto", "data"})


def follow_links(content: BeautifulSoup, folder: Path, pages: dict, repository: str) -> None:
    """Let relative links lead to pages of the site and, where there is none, to the repository; of
    a remote picture, such as a badge, its words are left.
    """
    for picture in content("img"):
        if re.match("https?:", picture.get("src", "")):
            picture.replace_with(picture.get("alt", ""))
    for link in content("a"):
        address = link.get("href", "")
        if re.match("https?:|mailto:|#", address):
            continue
        name, _, anchor = address.partition("#")
        if page := pages.get(Path(name).name):
            link["href"] = page + (f"#{anchor}" if anchor else "")
        else:
            path = posixpath.normpath(posixpath.join(folder.as_posix(), address))
            link["href"] = f"{repository}/blob/main/{path}"


if __name__ == "__main__":
    try:
        auto_cli(site, as_positional=False)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

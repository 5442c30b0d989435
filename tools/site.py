"""The lessons as a static site, by nbconvert: no server, no network; each page is sanitised.

python -m tools.site 04 08
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import posixpath
import re
import shutil
import signal
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from urllib.parse import unquote

import bleach
import jinja2
import nbformat
import plotly
from bs4 import BeautifulSoup, NavigableString
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from plotly.offline import get_plotlyjs

from course_lib import files, runtime
from course_lib.pictures import player_script
from course_lib.pictures.base import BY_THEME

from .chosen import chosen, run
from .site_check import problems
from .site_math import draw_formulas

SECONDS_A_CELL = 600  # ten times what any may take on two cores
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
NO_KERNEL = (
    '<p class="note">Here is a widget, which needs a kernel: open the lesson in JupyterLab or on'
    " Colab to use it.</p>"
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
    "figure": ["data-film"],
    "iframe": ["srcdoc", "title", "height"],
    "img": ["src", "alt", "width"],
    "input": ["type", "checked", "disabled"],  # of a list to tick
    "ol": ["start"],
    "source": ["media", "srcset"],
}
TOOLS = Path(__file__).resolve().parent
# in the kernel before a lesson's first cell, and not on its page
INSTALL = '__import__("tools.site_kernel", fromlist=["install"]).install()'
SAYS = (
    "Point at an attribute: the coloured squares are where the model looks on this face, and the"
    " outline is where it should look."
)
COLAB = "colab.research.google.com"
FACES = 24  # on the first page


def site(output: str = "site", lessons: Sequence[str] = ()) -> list[Path]:
    """Run the lessons that have changed (all, or these numbers), and write each as a page beside an
    index made of the README; return the paths. Stopped at any moment, the same command goes on with
    the lesson it was at.
    """
    root = runtime.assets().parent
    return build(root, chosen(lessons), Path(output), live_explorer)


def build(root: Path, lessons: list[Path], output: Path, explorer: Callable[[], str]) -> list[Path]:
    """Run the lessons and write the site of the repository at `root`, with the page of an
    `explorer` on its first one.

    Raises `ValueError` naming the cell that fails, or what on a page is not fit to be published.
    """
    sources = [root / "README.md", *lessons]
    sources += [path for path in sorted(root.glob("*.md")) if path.name != "README.md"]
    pages = {path.name: f"{path.stem.lower()}.html" for path in sources}
    pages["README.md"] = "index.html"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"]
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
        follow_links(content, path.parent.relative_to(root), pages, repository)
        unpack(content, folder)
        contents.append((content, figures, saved))
    names = list(pages.values())
    titles = [
        content.h1.get_text() if content.h1 else name
        for name, (content, _, _) in zip(names, contents, strict=True)
    ]
    every = list(zip(names, ["Overview", *titles[1:]], strict=True))
    with files.atomic(output / "search.js") as temporary:
        temporary.write_text(search_index(every, [content for content, _, _ in contents]), "utf-8")
    with files.atomic(output / "plotly.min.js") as temporary:
        temporary.write_text(get_plotlyjs(), encoding="utf-8")
    with files.atomic(output / "explorer.html") as temporary:
        temporary.write_text(framed(_kept(root, explorer)), encoding="utf-8")
    for name in ("site.css", "site.js"):
        shutil.copy(TOOLS / name, output)
    first = contents[0][0]
    first.h1.decompose()  # the page has it above the explorer,
    if film := first.find("img", alt=re.compile("^The attention explorer")):
        film.parent.decompose()  # which takes the film's place
    template = jinja2.Template((TOOLS / "site.html").read_text(encoding="utf-8"), autoescape=True)
    for at, (name, (content, figures, saved)) in enumerate(zip(names, contents, strict=True)):
        page = template.render(
            at=name,
            course=titles[0],
            every=every,
            title=titles[at] + (f" · {titles[0]}" if at else ""),
            says=titles[at] if at else SAYS,
            live="" if at else "explorer.html",
            launch=_launch(repository, sources[at].name) if sources[at] in lessons else [],
            before=every[at - 1] if at else None,
            after=every[at + 1] if at + 1 < len(names) else None,
            parts=content("h2"),
            content=content,
            saved=saved,
            player=player_script() if content.find(attrs={"data-film": True}) else "",
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


def _launch(repository: str, name: str) -> list[tuple[str, str]]:
    """Where a lesson can be opened, and the words for it."""
    place = f"{repository.removeprefix('https://github.com/')}/blob/main/notebooks/{name}"
    return [
        (f"https://colab.research.google.com/github/{place}", "Open in Colab"),
        (f"https://github.com/{place}", "Notebook on GitHub"),
    ]


def live_explorer() -> str:
    """The page of the shipped attribute model on drawn faces, which runs the model by itself."""
    import torch

    from course_lib.data import hard_faces
    from course_lib.explorer import ImbalanceAwareAttentionExplorer
    from course_lib.training import course_attribute_predictor
    from course_lib.world import CELEBA_RATES

    predictor = course_attribute_predictor(tokens=196)
    explorer = ImbalanceAwareAttentionExplorer(
        predictor,
        hard_faces("test", FACES, regions=True, size=112),
        torch.tensor(CELEBA_RATES),
        thresholds=predictor.thresholds,
    )
    return explorer.page(FACES)


def _kept(root: Path, explorer: Callable[[], str]) -> str:
    """The explorer's page, made again when the library or the assets have changed."""
    path = root / "build" / "site" / f"explorer-{_key(root, TOOLS / 'site.py')}.html"
    if not path.exists():
        for outdated in path.parent.glob("explorer-*.html"):
            outdated.unlink()
        with files.atomic(path) as temporary:
            temporary.write_text(explorer(), encoding="utf-8")
    return path.read_text(encoding="utf-8")


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
    for file in [path, TOOLS / "site_kernel.py", *used]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _run(path: Path, cache: Path) -> NotebookNode:
    """The notebook after running it; raises `ValueError` naming the cell that fails."""
    notebook, cells = nbformat.read(path, 4), []
    notebook.cells.insert(0, new_code_cell(INSTALL, id="site"))
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: cells.append(cell.id),
        on_notebook_start=_leave_ctrl_c_alone,
    )
    try:  # a relative folder, because notebooks say where they save
        found = os.pathsep.join([str(TOOLS.parent), os.environ.get("PYTHONPATH", "")])
        client.execute(
            env=os.environ
            | {"COURSE_CACHE": os.path.relpath(cache, path.parent), "PYTHONPATH": found}
        )
    except (CellControlSignal, DeadKernelError) as error:
        name = getattr(error, "ename", type(error).__name__)
        raise ValueError(
            f"{path.name} fails at cell {cells[-1]!r}: {name}: {getattr(error, 'evalue', error)};"
            " mend it and run the same command, which goes on from this lesson"
        ) from error
    del notebook.cells[0]
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
            elif 'class="overview"' in data.get("text/html", ""):
                # its script and its style stay in a page of its own
                page = escape(
                    f'<!doctype html><html lang="en"><title>{text}</title>'
                    f"<style>:root {{ color-scheme: light dark }}</style>{data['text/html']}"
                )
                frame = f'<iframe srcdoc="{page}" title="{text}" height="900"></iframe>'
                output.data = NotebookNode({"text/html": f"<div>{frame}</div>"})
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
        exclude_anchor_links=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],
        filters={"clean_html": clean},
    )
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(folder)}})
    content = BeautifulSoup(text, "html.parser")
    draw_formulas(content)
    for source in content("source", media="(prefers-color-scheme: dark)"):
        light = source.parent.img.extract()  # the page has a switch for its theme
        dark = content.new_tag("img", attrs=light.attrs | {"src": source["srcset"]})
        light["class"], dark["class"] = "on-light", "on-dark"
        source.parent.name, source.parent.attrs = "figure", {}
        source.replace_with(light, dark)
    for picture in content("img"):
        file = folder / unquote(picture.get("src", ""))
        if not re.match("[a-z]+:", picture.get("src", "")) and file.is_file():
            data = base64.b64encode(file.read_bytes()).decode()
            picture["src"] = f"data:image/{file.suffix[1:]};base64,{data}"
        if picture.parent.name == "p" and len(picture.parent.contents) == 1:
            picture.parent.name = "figure"
    for heading in content(["h2", "h3", "h4"]):
        heading["id"] = re.sub(r"\W+", "-", heading.get_text()).strip("-").lower()
    for wide in content("pre") + content("figure") + content("math", display="block"):
        wide["tabindex"] = 0  # which scrolls where there is no room, by the keys too
    for head in content("th"):
        if not head.get_text(strip=True):
            head.name = "td"  # it heads nothing
    for table in content("table"):
        table.wrap(content.new_tag("div", attrs={"class": "wide"}))
    for wide in content(class_="wide"):
        wide.attrs |= {"role": "group", "aria-label": "wide content", "tabindex": 0}
    for box in content("input", type="checkbox"):  # of a list of things to do
        box["aria-label"] = box.parent.get_text(" ", strip=True)
    for frame in content("iframe"):
        frame.attrs |= {"loading": "lazy", "sandbox": "allow-scripts allow-downloads"}
    return content


def clean(text: str | bytes) -> str:
    """Only what prose and pictures need; a script that someone writes into a lesson is shown, not
    run. A frame has a page of its own, which cannot reach out of it.
    """
    text = text.decode() if isinstance(text, bytes) else str(text)
    # the page has both once
    text = text.replace(f"<script>{player_script()}</script>", "")
    text = text.replace(f"<style>{BY_THEME}</style>", "")
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
        if COLAB in address and content.h1 and link.parent.find_previous_sibling() == content.h1:
            link.parent.decompose()  # a lesson's page has a button for it
            continue
        if re.match("https?:|mailto:|#", address):
            continue
        name, _, anchor = address.partition("#")
        if page := pages.get(Path(name).name):
            link["href"] = page + (f"#{anchor}" if anchor else "")
        else:
            path = posixpath.normpath(posixpath.join(folder.as_posix(), address))
            link["href"] = f"{repository}/blob/main/{path}"


# ---- files beside a page -------------------------------------------------------------------------


def unpack(content: BeautifulSoup, folder: Path) -> None:
    """Put pictures and framed pages into files of their own, which are loaded when they come into
    view.
    """
    for picture in content(["img", "source"]):
        name = "src" if picture.name == "img" else "srcset"
        found = re.match(r"data:image/(\w+);base64,(.*)", picture[name], re.DOTALL)
        if not found:
            continue
        data = base64.b64decode(found[2])
        path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.{found[1]}"
        with files.atomic(path) as temporary:
            temporary.write_bytes(data)
        picture[name] = f"{folder.name}/{path.name}"
        if picture.name == "img":
            wide, high = Image.open(io.BytesIO(data)).size
            width = int(picture.get("width", wide))
            picture.attrs |= {"width": width, "height": round(width * high / wide)}
            picture.attrs |= {"loading": "lazy", "decoding": "async"}
    for number, frame in enumerate(content("iframe", srcdoc=True), 1):
        path = folder / f"frame-{number}.html"
        with files.atomic(path) as temporary:
            temporary.write_text(framed(frame.attrs.pop("srcdoc")), encoding="utf-8")
        frame["src"] = f"{folder.name}/{path.name}"


def framed(page: str) -> str:
    """A page that tells the one around it how tall it is, and takes its theme."""
    script = (TOOLS / "site_frame.js").read_text(encoding="utf-8")
    beginning = f'<meta charset="utf-8"><script>{script}</script>'
    start = re.search(r"<head[^>]*>|<html[^>]*>|<!doctype[^>]*>|^", page, re.IGNORECASE).end()
    return page[:start] + beginning + page[start:]


def search_index(every: list[tuple[str, str]], contents: list[BeautifulSoup]) -> str:
    """A script with the text of all sections: page, place on it, title of the page, title, text."""
    sections = []
    for (name, title), content in zip(every, contents, strict=True):
        sections.append([name, "", title, title, []])
        for piece in content.descendants:
            if getattr(piece, "name", None) in ("h2", "h3"):
                sections.append([name, piece["id"], title, piece.get_text(), []])
            elif isinstance(piece, NavigableString) and not piece.find_parent(["h2", "h3", "math"]):
                sections[-1][-1].append(piece)
    for section in sections:
        section[-1] = " ".join("".join(section[-1]).split())
    return f"window.SECTIONS = {json.dumps(sections, ensure_ascii=False)};\n"


if __name__ == "__main__":
    run(site)

"""The lessons as a static site: run each notebook that has changed, then write its page; no server,
no network.
"""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm.std import tqdm

from .. import files, runtime
from .settings import Site
from .site_check import site_problems
from .site_pages import Places, lesson_page, page, text_page

__all__ = ["executed", "site"]

PACKAGE = Path(__file__).parent.parent
PATIENCE = 600  # seconds for one cell, ten times what any may take on two cores


def site(settings: Site) -> list[Path]:
    """Write a page for each lesson, an index made of the README, and other texts beside it; return
    their paths.

    Raises `ValueError` naming the cell that fails, or what on a page is not fit to be published.
    """
    root, output = runtime.assets().parent, Path(settings.output)
    wanted = settings.lessons.split(",")
    lessons = [
        path
        for path in sorted((root / "notebooks").glob("*.ipynb"))
        if not settings.lessons or path.name[:2] in wanted
    ]
    if missing := {*wanted} - {"", *(path.name[:2] for path in lessons)}:
        raise ValueError(
            f"there is no lesson {min(missing)}; --lessons takes their two-digit numbers: 04,08"
        )
    return build(root, lessons, output)


def build(root: Path, lessons: list[Path], output: Path) -> list[Path]:
    """Run the lessons and write the site of the repository at `root`."""
    from plotly.offline import get_plotlyjs

    notebooks = [executed(path, root / "build" / "site") for path in lessons]
    with files.atomic(output / "plotly.min.js") as temporary:
        temporary.write_text(get_plotlyjs(), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("site.css"), output)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [path for path in sorted(root.glob("*.md")) if path.name != "README.md"]
    pages = {"README.md": "index.html"} | {
        path.name: f"{path.stem.lower()}.html" for path in [*lessons, *texts]
    }
    places = Places(output, pages, project["urls"]["Repository"])
    contents = {"index.html": text_page(root / "README.md", places)}
    for path, notebook in zip(lessons, notebooks, strict=True):
        saved = sorted((root / "build" / "site" / path.stem).glob("*.html"))
        contents[places.pages[path.name]] = lesson_page(notebook, path, places, saved)
    contents |= {places.pages[path.name]: text_page(path, places) for path in texts}
    paths = []
    for name, content in contents.items():
        with files.atomic(output / name) as temporary:
            temporary.write_text(page(name, content, contents), encoding="utf-8")
        paths.append(output / name)
    if problems := site_problems(output):
        raise ValueError(
            f"{len(problems)} things on the pages are not fit to be published:"
            f" {'; '.join(problems[:5])}"
        )
    print(f"{len(paths)} pages in {output}; open {paths[0]}")
    return paths


def executed(path: Path, folder: Path) -> dict[str, Any]:
    """The notebook with its outputs, kept in `folder` until the notebook or what it uses changes.

    HTML pages that it writes into its cache folder are kept beside it, in a folder of its name.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    kept, key = folder / path.name, _key(path)
    if kept.exists() and (notebook := files.read_json(kept))["metadata"].get("made_from") == key:
        print(f"{path.stem}: unchanged")
        return notebook
    notebook, cache, now = nbformat.read(path, 4), folder / "cache", {}
    shutil.rmtree(saved := cache / f"lesson_{path.name[:2]}", ignore_errors=True)
    with tqdm(total=len(notebook.cells), desc=path.stem, unit="cell", mininterval=5) as bar:

        def start(cell, cell_index):
            now.update(cell=cell.id, number=cell_index + 1)
            bar.update(cell_index - bar.n)

        client = NotebookClient(
            notebook,
            timeout=PATIENCE,
            kernel_name="python3",
            store_widget_state=False,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=start,
            on_notebook_start=_leave_ctrl_c_alone,
        )
        try:  # a relative folder, because notebooks say where they save
            client.execute(env=os.environ | {"COURSE_CACHE": os.path.relpath(cache, path.parent)})
        except (CellControlSignal, DeadKernelError) as error:
            said = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
            raise ValueError(
                "{} fails at cell {cell!r}, number {number}: {}: {}; mend it and run the same"
                " command, which goes on from this lesson".format(path.name, *said, **now)
            ) from error
        bar.update(len(notebook.cells) - bar.n)
    shutil.rmtree(pages := folder / path.stem, ignore_errors=True)
    for saved_page in sorted(saved.rglob("*.html")):
        pages.mkdir(parents=True, exist_ok=True)
        shutil.copy(saved_page, pages)
    notebook.metadata["made_from"] = key
    with files.atomic(kept) as temporary:
        temporary.write_text(json.dumps(notebook), encoding="utf-8")
    return files.read_json(kept)


def _leave_ctrl_c_alone(notebook: Any) -> None:
    """Take back the signal that nbclient has taken for itself: it would report a dead kernel and go
    on from there.
    """
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


def _key(path: Path) -> str:
    """A hash of the notebook, the library's code (its commands aside), the stored results, and
    plotly's version.
    """
    import plotly

    code = [
        file
        for kind in ("*.py", "*.js")
        for file in sorted(PACKAGE.rglob(kind))
        if file.parent.name != "commands"
    ]
    digest = hashlib.sha256(plotly.__version__.encode())
    for file in [path, *code, *sorted(runtime.assets().rglob("*.json"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()

"""Run the notebooks as Colab does: from their repository's address, in an environment that has no
course_lib.

    python tests/colab/run.py [00 04 …]

What is run is the last commit of this repository: each notebook starts in an empty folder, and its
first cell clones the library, from here instead of from the network. No cell may install anything.
The seconds are there to be read: those of the first cell, and of all.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

ROOT = Path(__file__).resolve().parents[2]
COLABS_PYTHON = (3, 13)
PATIENCE = 600  # seconds after which a cell is taken to hang


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def cloning_from(repository: Path, address: str) -> dict[str, str]:
    """The environment in which git takes `repository` for what lies at `address`."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }


def run_notebook(path: Path, folder: Path, environment: dict[str, str]) -> tuple[float, float, str]:
    """Seconds of the first code cell and of all, and what failed, with its cell; or nothing."""
    notebook, started, took = nbformat.read(path, 4), {}, {}
    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=lambda cell, cell_index: started.update({cell.id: time.perf_counter()}),
        on_cell_executed=lambda cell, cell_index, execute_reply: took.update(
            {cell.id: time.perf_counter() - started[cell.id]}
        ),
    )
    failure = ""
    try:
        client.execute(env={**os.environ, **environment})
    except (CellControlSignal, DeadKernelError) as error:
        said = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
        failure = f"cell {list(started)[-1]}: {said[0]}: {said[1]}"
    first = next(cell.id for cell in notebook.cells if cell.cell_type == "code")
    return took.get(first, 0.0), sum(took.values()), failure


def installed() -> str:
    return subprocess.run(
        [sys.executable, "-m", "pip", "freeze"], check=True, capture_output=True, text=True
    ).stdout


def which_python(version: tuple[int, ...] = sys.version_info[:3]) -> str:
    """The Python that runs the notebooks, and what to do where it is not Colab's."""
    name = "Python " + ".".join(map(str, version))
    if version[:2] == COLABS_PYTHON:
        return f"{name}, like Colab"
    return (
        f"{name}; Colab has 3.13: install that, delete this environment and run `make colab` again"
    )


def main(wanted: list[str]) -> int:
    there = {path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb")}
    if unknown := set(wanted) - there:
        sys.exit(f"there is no lesson {min(unknown)}; name two-digit numbers such as 04 08")
    if importlib.util.find_spec("course_lib"):
        sys.exit(
            "course_lib can be imported here, so nothing would be cloned; run this with `make"
            " colab`"
        )
    print(which_python())
    if changed := git("status", "--porcelain").splitlines():
        print(
            f"this runs the last commit, without the {len(changed)} files that have changed since"
        )
    sys.path.insert(0, str(ROOT))
    from retarget import configured

    sys.path.remove(str(ROOT))
    before, failures = installed(), 0
    with tempfile.TemporaryDirectory() as temporary:
        environment = cloning_from(ROOT, f"https://github.com/{configured()}") | {
            "COURSE_CACHE": f"{temporary}/cache"
        }
        subprocess.run(
            [
                "git",
                "clone",
                "--quiet",
                "--depth",
                "1",
                f"https://github.com/{configured()}",
                "commit",
            ],
            cwd=temporary,
            env={**os.environ, **environment},
            check=True,
        )
        notebooks = [
            path
            for path in sorted(Path(temporary, "commit", "notebooks").glob("*.ipynb"))
            if not wanted or path.name[:2] in wanted
        ]
        for path in notebooks:
            (folder := Path(temporary, path.stem)).mkdir()
            first, total, failure = run_notebook(path, folder, environment)
            if not failure and not (folder / "course_lib").is_symlink():
                failure = "the first cell has cloned nothing"
            failures += bool(failure)
            print(
                f"{path.stem:26} first cell {first:5.1f} s   all {total:6.1f} s  "
                f" {failure or 'passed'}",
                flush=True,
            )
    if installed() != before:
        failures += 1
        print(
            "a notebook has installed or changed a package; all that a lesson needs must be there"
            " before"
        )
    print(f"{len(notebooks)} notebooks, {failures} failures")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(print(__doc__) if "--help" in sys.argv else main(sys.argv[1:]))

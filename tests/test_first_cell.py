"""The first cell of every notebook, run as on Colab: in an empty folder, by a Python that has no
course_lib.
"""

import http.server
import json
import os
import shutil
import subprocess
import threading
import venv
from pathlib import Path

import nbformat
import numpy
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from test_notebooks import FIRST_CELL, NOTEBOOKS, REPOSITORY

from retarget import configured, retarget

ROOT = Path(__file__).parent.parent
HANGS = 600  # seconds


def cloning_from(address: str) -> dict[str, str]:
    """The environment in which git goes to `address` when the cell names the course's own."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{address}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The address of a repository with the smallest course_lib that the cell can use."""
    root = tmp_path_factory.mktemp("a course")
    (root / "course_lib").mkdir()
    (root / "course_lib" / "__init__.py").write_text("def setup():\n    print('set up')\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "One"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root.as_uri()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The folder of a kernel called bare, whose Python has all packages of this one but not the
    course.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "venv")
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # whose own .pth files are not read
    (site / "packages.pth").write_text(str(Path(numpy.__file__).parent.parent))
    python = str(folder / "venv" / "bin" / "python")
    specification = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "bare",
    }
    (folder / "kernels" / "bare").mkdir(parents=True)
    (folder / "kernels" / "bare" / "kernel.json").write_text(json.dumps(specification))
    return folder


@pytest.fixture
def run_cell(kernel, tmp_path, monkeypatch):
    """Run the first cell in a new kernel, so many times, in one folder; returns what it printed."""
    monkeypatch.setenv("JUPYTER_PATH", str(kernel))
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(address, times=1):
        notebook = new_notebook(cells=[new_code_cell(FIRST_CELL) for _ in range(times)])
        client = NotebookClient(
            notebook, timeout=HANGS, kernel_name="bare", resources={"metadata": {"path": tmp_path}}
        )
        client.execute(env={**os.environ, **cloning_from(address)})
        return "".join(output.text for cell in notebook.cells for output in cell.outputs)

    return run


NOWHERE = "file:///nowhere"


def test_it_clones_links_and_sets_up(run_cell, course, tmp_path):
    assert run_cell(course) == "set up\n"
    assert {path.name for path in tmp_path.iterdir()} == {"course_clone", "course_lib"}


def test_it_clones_once_also_after_a_restart(run_cell, course):
    assert run_cell(course, times=2) == "set up\n" * 2
    assert run_cell(NOWHERE) == "set up\n"  # a new kernel in the same folder needs no network


def half_finished(folder):
    """What a clone leaves that was killed while it wrote its files."""
    subprocess.run(["git", "init", "-q", "course_part"], cwd=folder, check=True)
    (folder / "course_part" / ".git" / "index.lock").touch()
    (folder / "course_part" / "course_lib").mkdir()


def dangling(folder):
    (folder / "course_lib").symlink_to("course_clone/course_lib")


def both(folder):
    half_finished(folder)
    shutil.rmtree(folder / "course_part" / "course_lib")
    dangling(folder)


def somebodys_own(folder):
    (folder / "course").mkdir()
    (folder / "course" / "essay.txt").touch()


@pytest.mark.parametrize("leave", [half_finished, dangling, both, somebodys_own])
def test_it_works_whatever_lies_there_and_deletes_nobodys_files(leave, run_cell, course, tmp_path):
    leave(tmp_path)
    assert run_cell(course) == "set up\n"
    assert run_cell(NOWHERE) == "set up\n"
    assert (tmp_path / "course" / "essay.txt").exists() == (leave is somebodys_own)


@pytest.fixture
def closed():
    """The address of a server that asks for a password, as GitHub does for a repository that is not
    there.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/course"
        httpd.shutdown()


@pytest.mark.parametrize("address", [NOWHERE, "closed"])
def test_an_address_that_cannot_be_reached_is_one_sentence(
    address, run_cell, course, closed, monkeypatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(CellExecutionError) as caught:
        run_cell(closed if address == "closed" else address)
    assert caught.value.ename == "ImportError"
    assert (
        caught.value.evalue
        == "the clone failed, see above; check the network and the address, then run this cell "
        "again"
    )
    assert run_cell(course) == "set up\n"  # and that remedy works


def test_it_is_short_and_retarget_rewrites_its_address(tmp_path):
    assert len(FIRST_CELL.splitlines()) <= 9
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOKS[0], tmp_path / "notebooks")
    retarget("ada/her-course", tmp_path)
    notebook = nbformat.read(tmp_path / "notebooks" / NOTEBOOKS[0].name, as_version=4)
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert first == FIRST_CELL.replace(configured(), "ada/her-course")

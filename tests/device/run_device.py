"""Every notebook, and the tests of this folder, on a device that is not the CPU: `make device`.

    python tests/device/run_device.py [00 04 … | tests]

That is a GPU where there is one, else the pretend device of this folder; `COURSE_DEVICE` chooses
another. Cells whose output is checked must print there what they print on the CPU. A table says
what share of each lesson's floating-point work was done there.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
AUTOLOAD = HERE / "autoload"
sys.path.insert(0, str(AUTOLOAD))
import pretend_device  # noqa: E402

PATIENCE = 900  # seconds: a cell that takes longer hangs
SHARE = 0.8  # of a lesson's work, that the device should do
LAST_CELL = "import pretend_device\nprint(pretend_device.work())"
# What only looks at videos and tables, without a model: it has no work to give to a device.
WITHOUT_A_MODEL = {"02"}


def prepare() -> dict[str, str]:
    """Build what is needed; the environment of the processes that run on the device."""
    device = os.environ.get("COURSE_DEVICE") or ("cuda" if torch.cuda.is_available() else "pretend")
    if device == "pretend":
        pretend_device.build("pretend")
    try:
        pretend_device.build("work")
    except FileNotFoundError as error:
        print(f"nobody counts the work: {error}")
    path = os.pathsep.join(filter(None, [str(AUTOLOAD), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "COURSE_DEVICE": device, "PYTHONPATH": path}
    if device == "pretend":
        environment["COURSE_SCALE"] = "cpu"  # it is no faster than the CPU
        environment.setdefault("OMP_NUM_THREADS", "1")  # a lesson for each core
    return environment


def run_notebook(path: Path, environment: dict[str, str]) -> dict:
    """What a notebook did: seconds, floating-point operations by device, and the cell that failed,
    or nothing.
    """
    notebook = nbformat.read(path, 4)
    expected = checked_outputs(notebook)
    notebook.cells.append(nbformat.v4.new_code_cell(LAST_CELL))
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    failure = ""
    try:
        client.execute(env=environment)
    except (CellControlSignal, DeadKernelError) as error:
        name = getattr(error, "ename", type(error).__name__)
        failure = f"{name}: {getattr(error, 'evalue', error)}"
    ran = [
        cell for cell in notebook.cells if cell.cell_type == "code" and cell.get("execution_count")
    ]
    result = {"lesson": path.stem, "seconds": time.perf_counter() - started, "failure": failure}
    if failure:
        return result | {"cell": ran[-1].source if ran else "", "cpu": 0, "device": 0}
    printed = checked_outputs(notebook)
    for identity, text in expected.items():
        if printed[identity] != text:
            result["failure"] = f"cell {identity} prints something else than on the CPU"
            return result | {"cell": printed[identity], "cpu": 0, "device": 0}
    cpu, device = json.loads(ran[-1].outputs[-1].text.replace("(", "[").replace(")", "]"))
    return result | {"cpu": cpu, "device": device}


def checked_outputs(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The text that each cell with a checked output printed."""
    return {
        cell.id: "".join(output.get("text", "") for output in cell.outputs).strip()
        for cell in notebook.cells
        if "nbval-check-output" in cell.metadata.get("tags", [])
    }


def enough(result: dict) -> bool:
    """Whether the device did its share; true where nothing could be counted, for want of a
    compiler.
    """
    total = result["cpu"] + result["device"]
    return result["lesson"][:2] in WITHOUT_A_MODEL or result["device"] >= SHARE * total


def passed(result: dict) -> bool:
    """Whether the notebook ran to its end, with enough of its work on the device."""
    return not result["failure"] and enough(result)


def describe(result: dict) -> str:
    """A line of the table."""
    total = result["cpu"] + result["device"]
    share = (
        f"{result['device'] / total:6.1%} of {total / 1e9:7.1f} GFLOP"
        if total
        else "no work counted"
    )
    verdict = result["failure"] or (
        "passed" if passed(result) else f"less than {SHARE:.0%} of the work on the device"
    )
    return f"{result['lesson']:26} {result['seconds']:5.0f} s  {share:>23}  {verdict}"


def run_tests(environment: dict[str, str]) -> bool:
    """Whether the tests of this folder pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(HERE),
        "-m",
        "not slow",
        "--numprocesses=auto",
        "--maxprocesses=4",
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main(wanted: list[str]) -> int:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if unknown := set(wanted) - {"tests", *(path.name[:2] for path in notebooks)}:
        print(f"there is no lesson {min(unknown)}; name two-digit numbers such as 04 08, or tests")
        return 2
    try:
        environment = prepare()
    except FileNotFoundError as error:
        print(f"skipped: {error}")
        return 0
    print(f"on the device {environment['COURSE_DEVICE']}", flush=True)
    failures = 0
    if not wanted or "tests" in wanted:
        failures += not run_tests(environment)
    if wanted:
        notebooks = [path for path in notebooks if path.name[:2] in wanted]
    alone = environment["COURSE_DEVICE"] != "pretend"
    with (
        tempfile.TemporaryDirectory() as cache,
        ThreadPoolExecutor(1 if alone else os.cpu_count()) as pool,
    ):
        environment.setdefault("COURSE_CACHE", cache)
        for result in pool.map(lambda path: run_notebook(path, environment), notebooks):
            print(describe(result), flush=True)
            if result["failure"]:
                print("    " + "\n    ".join(result["cell"].splitlines()))
            failures += not passed(result)
    print(f"{len(notebooks)} notebooks, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(print(__doc__) if "--help" in sys.argv else main(sys.argv[1:]))

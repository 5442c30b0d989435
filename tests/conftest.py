"""What all tests share: one cache folder, seeds, few threads per worker, and a browser."""

import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from chromium import find_chromium, install_chromium, launch

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:  # before torch is imported; the notebooks' kernels inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
TEMPORARY_CACHE = None
if "COURSE_CACHE" not in os.environ:
    TEMPORARY_CACHE = os.environ["COURSE_CACHE"] = tempfile.mkdtemp(prefix="course-cache-")

NOTEBOOK_SECONDS: dict[str, float] = {}


def pytest_configure(config):
    from hypothesis import settings

    settings.register_profile("course", deadline=None, derandomize=True)
    settings.load_profile("course")


def pytest_unconfigure(config):
    if TEMPORARY_CACHE:
        shutil.rmtree(TEMPORARY_CACHE, ignore_errors=True)


def pytest_runtest_logreport(report):
    """Add up what each notebook takes: its cells, and the start of its kernel."""
    path = report.nodeid.split("::")[0]
    if path.endswith(".ipynb"):
        NOTEBOOK_SECONDS[Path(path).stem] = (
            NOTEBOOK_SECONDS.get(Path(path).stem, 0) + report.duration
        )


def over_budget(
    seconds: dict[str, float], each: float = 120, together: float = 18 * 60
) -> list[str]:
    """Notebooks over their budget: two minutes each, eighteen together; reported only: a busy
    machine is no fault.
    """
    slow = [f"{name} took {taken:.0f} s" for name, taken in seconds.items() if taken > each]
    return slow + [f"all took {sum(seconds.values()):.0f} s"] * (sum(seconds.values()) > together)


def pytest_terminal_summary(terminalreporter):
    if NOTEBOOK_SECONDS:
        times = ", ".join(
            f"{name[:2]} {taken:.0f} s" for name, taken in sorted(NOTEBOOK_SECONDS.items())
        )
        terminalreporter.write_line(
            f"notebooks: {times}; together {sum(NOTEBOOK_SECONDS.values()) / 60:.1f} min"
        )
    for problem in over_budget(NOTEBOOK_SECONDS):
        terminalreporter.write_line(f"over the budget of 2 min each and 18 together: {problem}")
    if started := os.environ.get("COURSE_STARTED"):
        minutes, seconds = divmod(round(time.time() - int(started)), 60)
        terminalreporter.write_line(f"setting up and testing took {minutes} min {seconds} s")


@pytest.fixture(autouse=True)
def seeds():
    """Every test begins with the same random numbers, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright; installed if it is missing, the test skipped where that
    cannot be done.
    """
    from filelock import FileLock
    from playwright.sync_api import sync_playwright

    with FileLock(Path(tempfile.gettempdir()) / "course-chromium.lock"):
        path = find_chromium()
        if path is None:
            install_chromium()
            path = find_chromium()
    if path is None:
        pytest.skip("no chromium here and none could be installed")
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        yield browser
        browser.close()

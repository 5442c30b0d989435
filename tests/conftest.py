"""What all tests share: one cache folder, seeds, few threads per worker, and a browser."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:  # before torch is imported; the notebooks' kernels inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")
TEMPORARY_CACHE = None
if "COURSE_CACHE" not in os.environ:
    TEMPORARY_CACHE = os.environ["COURSE_CACHE"] = tempfile.mkdtemp(prefix="course-cache-")

NOTEBOOK_SECONDS: dict[str, float] = {}
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                  "--no-first-run"]


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
        NOTEBOOK_SECONDS[Path(path).stem] = NOTEBOOK_SECONDS.get(Path(path).stem, 0) + report.duration


def over_budget(seconds: dict[str, float], each: float = 2 * 120, together: float = 2 * 900) -> list[str]:
    """Notebooks over budget: two minutes each and fifteen together, doubled, because tests share the two cores."""
    slow = [f"{name} took {taken:.0f} s" for name, taken in seconds.items() if taken > each]
    return slow + [f"all took {sum(seconds.values()):.0f} s"] * (sum(seconds.values()) > together)


def pytest_sessionfinish(session):
    if not IS_WORKER and over_budget(NOTEBOOK_SECONDS) and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if NOTEBOOK_SECONDS:
        times = ", ".join(f"{name[:2]} {taken:.0f} s" for name, taken in sorted(NOTEBOOK_SECONDS.items()))
        terminalreporter.write_line(f"notebooks: {times}; together {sum(NOTEBOOK_SECONDS.values()) / 60:.1f} min")
    for problem in over_budget(NOTEBOOK_SECONDS):
        terminalreporter.write_line(f"OVER BUDGET: {problem}")
    if started := os.environ.get("COURSE_STARTED"):
        minutes, seconds = divmod(round(time.time() - int(started)), 60)
        terminalreporter.write_line(f"setting up and testing took {minutes} min {seconds} s")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


@pytest.fixture(autouse=True)
def seeds():
    """Every test begins with the same random numbers, whatever ran before it."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, the system's or Playwright's own."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install_chromium() -> None:
    """Debian's package where we are root, Playwright's own build elsewhere; a failure shows in ``find_chromium``."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        commands = [["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "--no-install-recommends", "chromium"]]
    else:
        commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for command in commands:
        subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=900, check=False)


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright; installed if it is missing, the test skipped where that cannot be done."""
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
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()

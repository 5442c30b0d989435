"""The Chromium that tests, benches and the film drive: how it is found, installed and started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 300_000  # ms after which a page is taken to hang: a busy machine takes a minute or two


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome, the system's or Playwright's own."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def launch(browser_type, *flags: str):
    """Playwright's browser, each page of which waits as long as a busy machine needs."""
    browser = browser_type.launch(executable_path=find_chromium(), args=[*CHROMIUM_FLAGS, *flags])
    browser.new_page, browser.new_context = map(_patient, (browser.new_page, browser.new_context))
    return browser


def _patient(opener):
    def opened(**options):
        page = opener(**options)
        page.set_default_timeout(PATIENCE)
        return page

    return opened


def install_chromium() -> None:
    """Debian's package where we are root, Playwright's own build elsewhere; a failure shows in
    `find_chromium`.
    """
    if shutil.which("apt-get") and os.geteuid() == 0:
        commands = [
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-qq", "--no-install-recommends", "chromium"],
        ]
    else:
        commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for command in commands:
        subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=900,
            check=False,
        )

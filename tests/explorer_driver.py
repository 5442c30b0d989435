"""What drives an explorer in Chromium: in a saved page, with this process as its kernel, in a real
notebook program.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from chromium import PATIENCE

ROOT = Path(__file__).parent.parent


@pytest.fixture
def open_page(browser):
    """Open a saved page with the network cut and wait until it is `ready`; any word on the console
    and any request fails the test.
    """
    opened, said = [], []

    def opener(
        path,
        scheme="light",
        width=1300,
        script=True,
        motion="reduce",
        ready="window.attention !== undefined",
    ):
        context = browser.new_context(
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
            offline=True,
            java_script_enabled=script,
            accept_downloads=True,
            reduced_motion=motion,
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: (
                said.append(request.url)
                if not request.url.startswith(("file:", "data:", "blob:"))
                else None
            ),
        )
        page.goto(f"file://{path}")
        if script:
            wait(page, ready)
            settle(page)  # at first a saved page says that it is loading
        opened.append(context)
        return page

    yield opener
    for context in opened:
        context.close()
    assert said == [], said


def wait(page, expression):
    """Until it is true; evaluated from outside, because the page's own policy forbids eval."""
    eventually(lambda: page.evaluate(expression))


def settle(page):
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def state(page, name):
    return page.evaluate(f"attention.get({name!r})")


def put(page, **values):
    page.evaluate(
        "values => { for (const k in values) attention.set(k, values[k]);"
        " attention.save_changes() }",
        values,
    )
    settle(page)
    settle(page)


def pixels(page, selector, index=0):
    """The pixels that a canvas holds, `height width 4`."""
    size, data = page.evaluate(
        """([selector, index]) => {
        const canvas = document.querySelectorAll(selector)[index], { width, height } = canvas;
        const copy = Object.assign(document.createElement("canvas"), { width, height });
        const brush = copy.getContext("2d", { willReadFrequently: true });
        brush.drawImage(canvas, 0, 0);
        return [[height, width], Array.from(brush.getImageData(0, 0, width, height).data)] }""",
        [selector, index],
    )
    return np.array(data, np.uint8).reshape(*size, 4)


def sentence(page):
    return page.locator(".sentence").inner_text()


# ---------------------------------------------------------------- the widget, with this process as its kernel

STUB = """
const values = VALUES, listeners = {};
const decode = (text) => text && new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const encode = (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
values.planes = decode(values.planes);
const announce = (name, ...rest) => (listeners[name] || []).slice().forEach((listener) => listener(...rest));
const put = (changed) => { for (const [name, value] of Object.entries(changed)) {
  if (JSON.stringify(values[name]) === JSON.stringify(value)) continue;
  values[name] = value;
  announce(`change:${name}`);
  announce("change");
} };
let dirty = {};
const tell = async (kind, content, buffers = []) => {
  const reply = await window.toKernel(kind, content, buffers);
  put(reply.state);
  for (const [message, planes] of reply.messages) announce("msg:custom", message, planes.map(decode));
};
window.attention = { get: (name) => values[name],
  set: (name, value) => { dirty[name] = value; put({ [name]: value }); },
  on: (name, listener) => (listeners[name] ||= []).push(listener),
  off: (name, listener) => { listeners[name] = (listeners[name] || []).filter((other) => other !== listener); },
  save_changes: () => { const changed = dirty; dirty = {}; tell("state", changed); },
  send: (content, callbacks, buffers) => {
    if (window.dead) throw new Error("no comm");
    tell("custom", content, (buffers || []).map(encode));
  } };
window.hear = put;
window.close_view = RENDER({ model: window.attention, el: document.body });
window.listening = () => Object.values(listeners).flat().length;
"""


def connect(page, widget, slow=()):
    """Show a widget in an empty page, with this process as its kernel, deaf to `slow` questions;
    what it was asked.
    """
    asked, messages = [], []
    names = [*widget.state_names(), *(["own"] if widget.has_trait("own") else [])]
    widget.send = lambda content, buffers=None: messages.append(
        [content, [base64.b64encode(bytes(buffer)).decode() for buffer in buffers or []]]
    )

    def to_kernel(kind, content, buffers):
        messages.clear()
        asked.append(content)
        before = {name: getattr(widget, name) for name in names} | (
            content if kind == "state" else {}
        )
        if kind == "state":
            widget.set_state(content)
        elif content["kind"] not in slow:
            widget._receive(widget, content, [base64.b64decode(buffer) for buffer in buffers])
        changed = {
            name: getattr(widget, name) for name in names if getattr(widget, name) != before[name]
        }
        return {"messages": list(messages), "state": changed}  # what Python did in answer, no more

    values = {name: getattr(widget, name) for name in (*names, "meta", "first")}
    values["planes"] = base64.b64encode(widget.planes).decode()
    page.expose_function("toKernel", to_kernel)
    render = re.search(r"export default { render: (\w+) };", widget._esm)[1]
    script = (
        f"{widget._esm}\n{STUB.replace('VALUES', json.dumps(values)).replace('RENDER', render)}"
    )
    page.set_content(f'<!doctype html><script type="module">{script}</script>')
    wait(page, "window.close_view !== undefined")
    return asked


@pytest.fixture
def open_widget(browser):
    """Show a widget whose kernel is this process; any word on the console fails the test."""
    opened, said = [], []

    def opener(widget, slow=()):
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        opened.append(page)
        page.asked = connect(page, widget, slow)
        return page

    yield opener
    for page in opened:
        page.close()
    assert said == [], said


def python_sets(page, widget, **changed):
    """What happens when a cell sets traits: the widget's, and then the page's."""
    for name, value in changed.items():
        setattr(widget, name, value)
    page.evaluate("values => hear(values)", changed)


# ---------------------------------------------------------------- the widget in real notebooks


def notebook(path, cells):
    """Write a notebook with these code cells."""
    path.write_text(
        json.dumps(
            {
                "nbformat": 4,
                "nbformat_minor": 5,
                "metadata": {
                    "kernelspec": {
                        "name": "python3",
                        "display_name": "Python 3",
                        "language": "python",
                    }
                },
                "cells": [
                    {
                        "cell_type": "code",
                        "id": f"cell-{index}",
                        "metadata": {},
                        "outputs": [],
                        "execution_count": None,
                        "source": source.replace("ROOT", str(ROOT)),
                    }
                    for index, source in enumerate(cells)
                ],
            }
        )
    )
    return path


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(command, folder, address):
    """Run a server in a session of its own until its address answers; end it and its kernels
    afterwards.
    """
    own = {
        name: str(folder / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    Path(own["JUPYTER_RUNTIME_DIR"]).mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | own | {"OMP_NUM_THREADS": "1"},
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=200).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield Path(own["JUPYTER_RUNTIME_DIR"])
    finally:
        for attempt in range(50):
            try:
                os.killpg(
                    server.pid,
                    signal.SIGKILL if attempt == 40 else signal.SIGTERM if attempt == 0 else 0,
                )
            except ProcessLookupError:
                break
            server.poll()
            time.sleep(0.1)


class Kernel:
    """The kernel of the notebook on screen, asked from outside."""

    def __init__(self, runtime):
        from jupyter_client import BlockingKernelClient

        newest = max(runtime.rglob("kernel-*.json"), key=lambda path: path.stat().st_mtime)
        self.client = BlockingKernelClient(connection_file=str(newest))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=200)

    def __call__(self, code):
        said = []
        reply = self.client.execute_interactive(
            code,
            timeout=200,
            output_hook=lambda message: said.append(
                message["content"].get("text", "") if message["msg_type"] == "stream" else ""
            ),
        )
        text = "".join(said).strip()
        assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
        return text

    def close(self):
        self.client.stop_channels()


def eventually(check):
    end = time.monotonic() + PATIENCE / 1000
    while True:
        found = check()
        if found or time.monotonic() > end:
            assert found
            return found
        time.sleep(0.05)


def watch(page, said):
    """Errors of the page, apart from what the notebook programs themselves say."""
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "console",
        lambda message: (
            said.append(message.text)
            if message.type == "error"
            and re.search("explorer|anywidget|widget", message.text, re.IGNORECASE)
            else None
        ),
    )


def program(name, notebook_name, port):
    """The command that serves a notebook, an address that answers when it is up, and the notebook's
    own.
    """
    root = f"http://localhost:{port}"
    if name == "voila":
        return (
            [
                sys.executable,
                "-m",
                "voila",
                notebook_name,
                "--no-browser",
                f"--port={port}",
                "--Voila.connection_dir_root=jupyter_runtime_dir",
            ],
            f"{root}/nothing",
            f"{root}/",
        )
    if name == "lab":
        return (
            [
                sys.executable,
                "-m",
                "jupyter",
                "lab",
                "--no-browser",
                f"--port={port}",
                "--allow-root",
                "--IdentityProvider.token=",
                "--ServerApp.password=",
                "--ServerApp.disable_check_xsrf=True",
            ],
            f"{root}/api",
            f"{root}/lab/tree/{notebook_name}",
        )
    old = os.environ.get("COURSE_CLASSIC_PYTHON")
    if old is None:
        pytest.skip(
            "COURSE_CLASSIC_PYTHON names no python with notebook 6 and ipywidgets 7 (see make"
            " colab)"
        )
    return (
        [
            old,
            "-m",
            "notebook",
            "--no-browser",
            f"--port={port}",
            "--allow-root",
            "--NotebookApp.token=",
            "--NotebookApp.password=",
        ],
        f"{root}/api",
        f"{root}/notebooks/{notebook_name}",
    )


@contextlib.contextmanager
def opened(browser, folder, name, cells, shown=".explorer"):
    """The notebook of these cells, run in a program until what they show is there: its page and its
    kernel; a complaint of the page is an error.
    """
    path, port, said = notebook(folder / "explorer.ipynb", cells), free_port(), []
    command, ready, address = program(name, path.name, port)
    with serving(command, folder, ready) as runtime:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        watch(page, said)
        page.root = f"http://localhost:{port}"
        page.goto(address)  # Voilà runs the notebook first
        if name != "voila":
            cell, idle = {
                "lab": (".jp-Notebook .jp-Cell", "text=| Idle"),
                "classic": ("#notebook-container .cell", "#kernel_indicator_icon.kernel_idle_icon"),
            }[name]
            page.locator(idle).wait_for()  # what runs before is dropped
            page.locator(cell).first.click()
            for _ in cells:
                page.keyboard.press("Shift+Enter")
        drawn = page.locator(shown).or_(page.get_by_text("Error displaying widget")).first
        try:
            drawn.wait_for()
            if name == "voila" and not page.locator(shown).count():
                # it gives a busy machine four seconds to send its widgets
                page.reload()
            page.locator(shown).first.wait_for()
            kernel = Kernel(runtime)
            yield page, kernel
            kernel.close()
        finally:
            if os.environ.get("SHOTS"):
                page.screenshot(path=f"{os.environ['SHOTS']}/{name}.png")
            page.close()
    assert said == [], said


LIVE = "given.flatMap((stream) => stream.getTracks()).filter((track) => track.readyState === 'live').length"


def watch_camera(page):
    """Keep what the page is given, so that a test can ask whether the camera is on."""
    page.evaluate("""() => {
      const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media);
      window.given = [];
      media.getUserMedia = async (wanted) => { const stream = await ask(wanted); given.push(stream); return stream; };
    }""")


# ---------------------------------------------------------------- every control, by mouse and by keyboard


def press(role, name, *pressed):
    """A control, found by what it is called, and keys."""

    def action(root):
        for key in pressed:
            root.get_by_role(role, name=name).first.press(key)

    return action


def click(role, name):
    return lambda root: root.get_by_role(role, name=name, exact=True).first.click()


def choose(label, value):
    return lambda root: root.get_by_role("combobox", name=label).select_option(value)


def keys(selector, *pressed):
    def action(root):
        for key in pressed:
            root.locator(selector).first.press(key)

    return action


def drive(root, controls, read):
    """Use each control and wait until `read`, what a side says a trait is, is what it should be;
    both sides if two.
    """
    for number, (action, expected) in enumerate(controls):
        settle(root.page)  # a control moves from what it shows
        action(root)
        for name, value in expected.items():
            for side in read:
                try:
                    eventually(lambda side=side, name=name, value=value: side(name) == value)
                except AssertionError:
                    raise AssertionError(
                        f"control {number}: {name} is {side(name)!r}, not {value!r}"
                    ) from None


def play(root, read):
    """After ATTRIBUTE_CONTROLS, what one does besides looking, and what is then on screen."""
    keyboard, canvas = root.page.keyboard, root.locator(".looking .picture canvas")

    def becomes(name, value):
        eventually(lambda: read(name) == value)

    def drawn():
        settle(root.page)
        return canvas.evaluate("e => e.toDataURL()")

    seen = [drawn()]
    for name in ("Untrained", "Mean map"):
        click("radio", name)(root)
        eventually(lambda: drawn() not in seen)
        seen.append(drawn())
    click("radio", "Trained")(root)
    eventually(lambda: drawn() == seen[0])
    root.get_by_label("heads in colour").check()
    eventually(lambda: drawn() not in seen)
    click("button", "undo")(root)
    eventually(lambda: drawn() == seen[0])
    becomes("together", False)

    click("button", "How this weight arose")(root)
    words = root.locator(".drawer.weight .all").inner_text()
    pattern = r"√d = (-?[\d.]+)\. .* is (\S+), of (\S+) in .* weight is (\S+),"
    score, power, total, weight = map(float, re.search(pattern, words).groups())
    assert power == pytest.approx(np.exp(score), rel=0.08)  # the score has one decimal
    assert weight == pytest.approx(power / total, rel=0.1, abs=0.002)
    click("button", "Share")(root)
    becomes("drawer", "share")
    line = root.get_by_label("a line of Python").input_value()
    for name in ("sample", "attribute", "drawer", "smooth"):
        value = read(name)
        assert f"{name}={value if value is True else json.dumps(value)}" in line

    root.get_by_role("button", name="By hand").press("Enter")
    root.locator(".looking .tokens").click(position={"x": 5, "y": 5})
    becomes("covered", [0])
    root.locator(".looking .tokens").press("ArrowRight")
    root.locator(".looking .tokens").press("Enter")
    becomes("covered", [0, 1])
    eventually(lambda: "without your 2" in root.locator(".effect").inner_text())
    assert root.locator(".effect .line").count() == 3
    assert root.locator(".entry small", has_text="was ").count() > 1
    click("button", "Uncover")(root)
    becomes("covered", [])
    click("button", "By hand")(root)
    eventually(lambda: root.locator(".masked i").count() == 0)

    click("radio", "Point first")(root)
    eventually(lambda: root.locator(".playing").get_attribute("data-sample"))
    root.locator(".looking .tokens").click(position={"x": 5, "y": 5})
    eventually(lambda: root.locator(".answers .fate").count() == 3)
    assert sorted(root.locator(".looking .spot").all_inner_texts()) == ["C", "M", "Y"]
    click("button", "Explore")(root)
    becomes("mode", "explore")

    click("radio", "Draw a face")(root)
    eventually(lambda: root.get_attribute("data-sample") == "-1 0")
    plain, numbers = read("drawing"), root.locator(".switch .number")
    before = numbers.all_inner_texts()
    root.get_by_role("checkbox", name="Eyeglasses").click()
    eventually(lambda: numbers.all_inner_texts() != before)
    assert ("Eyeglasses" in read("drawing")["attributes"]) != ("Eyeglasses" in plain["attributes"])
    click("button", "undo")(root)
    eventually(lambda: numbers.all_inner_texts() == before)
    becomes("drawing", plain)
    click("button", "Explore")(root)
    becomes("mode", "explore")

    card = root.locator(".tour")
    root.get_by_role("button", name="Tour").press("Enter")
    for number, key in enumerate(("Enter", "ArrowRight", "Escape"), 1):
        eventually(lambda number=number: f"{number} of 5" in card.inner_text())
        keyboard.press(key)
    eventually(lambda: card.count() == 0)


def of_kernel(kernel, widget):
    """What Python says of a widget's trait."""
    return lambda name: json.loads(kernel(f"import json; print(json.dumps({widget}.{name}))"))


def of_page(page):
    """What a page, or the stub of a widget's model, says of a trait."""
    return lambda name: page.evaluate(f"attention.get({name!r})")


ATTRIBUTE_CONTROLS = [  # from sample 2, attribute Smiling, layer 0, head -1
    (click("button", "next sample"), {"sample": 3}),
    (press("slider", "Sample", "ArrowRight"), {"sample": 4}),
    (press("button", "sample before", "Enter"), {"sample": 3}),
    (lambda root: root.get_by_label("Find a sample").fill("6"), {}),
    (click("button", "Find"), {"sample": 6}),
    (lambda root: root.get_by_label("Find a sample").fill("2"), {}),
    (lambda root: root.get_by_label("Find a sample").press("Enter"), {"sample": 2}),
    (click("button", "Rare"), {"rarity": "rare"}),
    (press("button", "Common", "Enter"), {"rarity": "common"}),
    (press("button", "All", "Space"), {"rarity": "all"}),
    (choose("Sort by", "error"), {"sort": "error"}),
    (choose("Sort by", "rarity"), {"sort": "rarity"}),
    (choose("Layer", "1"), {"layer": 1}),
    (click("radio", "layer 1, head 2"), {"head": 2}),
    (keys(".heads [aria-checked=true]", "ArrowUp"), {"layer": 0, "head": 2}),
    (lambda root: root.locator(".heads [role=radio]").first.click(), {"layer": 0, "head": -1}),
    (lambda root: root.locator("[role=option]", has_text="Bangs").click(), {"attribute": "Bangs"}),
    (keys("[role=listbox]", "Home"), {"attribute": "Bald"}),  # the rarest
    (keys("[role=listbox]", "ArrowRight"), {"sample": 3}),
    (lambda root: root.locator(".tokens").first.click(position={"x": 5, "y": 5}), {"patch": 0}),
    (keys(".tokens", "ArrowRight", "ArrowDown"), {"patch": 8}),
    (keys(".tokens", "Escape"), {"patch": -1}),
    (lambda root: root.get_by_label("faint weights").check(), {"lift": True}),
    (lambda root: root.get_by_label("faint weights").press("Space"), {"lift": False}),
    (lambda root: root.get_by_label("true region").uncheck(), {"outlined": False}),
    (lambda root: root.get_by_label("true region").press("Space"), {"outlined": True}),
    (lambda root: root.get_by_label("smooth").check(), {"smooth": True}),
    (lambda root: root.get_by_label("heads in colour").check(), {"together": True}),
    (lambda root: root.get_by_label("heads in colour").press("Space"), {"together": False}),
    (click("radio", "As the model sees it"), {"clear": False}),
    (press("radio", "As the model sees it", "ArrowLeft"), {"clear": True}),
    (click("radio", "Mean map"), {"maps": "mean map"}),
    (press("radio", "Mean map", "ArrowLeft"), {"maps": "untrained"}),
    (click("radio", "Trained"), {"maps": "trained"}),
    (press("slider", "Opacity", "Home"), {"strength": 0}),
    (press("slider", "Opacity", "End"), {"strength": 1}),
    (click("button", "Details"), {"drawer": "details"}),
    (press("button", "How this weight arose", "Enter"), {"drawer": "weight"}),
    (click("button", "How this weight arose"), {"drawer": ""}),
    (
        click("button", "Pin"),
        {"pinned": [{"sample": 3, "checkpoint": 0, "layer": 0, "head": -1, "attribute": "Bald"}]},
    ),
    (click("button", "Remove"), {"pinned": []}),
]
CLIP_CONTROLS = [  # from clip 0, attention, paused at step 0
    (click("button", "next clip"), {"sample": 1}),
    (press("slider", "Clip", "ArrowRight"), {"sample": 2}),
    (press("button", "clip before", "Enter"), {"sample": 1}),
    (choose("Head", "1"), {"head": 1}),
    (choose("Head", "-1"), {"head": -1}),
    (
        lambda root: root.locator(".steps [role=radio]").nth(5).click(),
        {"step": 5, "playing": False},
    ),
    (keys(".steps [aria-checked=true]", "ArrowLeft"), {"step": 4}),
    (press("slider", "Frame", "Home"), {"step": 0}),
    (press("slider", "Frame", "ArrowRight", "ArrowRight", "ArrowRight"), {"step": 0}),
    (press("slider", "Frame", "ArrowRight"), {"step": 1}),  # four frames are a step
    (keys(".play", ",", "."), {"step": 1, "playing": False}),
    (keys(".play", ","), {"step": 0}),
    (press("slider", "Frame", "End"), {"step": 7}),
    (choose("Speed", "2"), {"speed": 2}),
    (keys(".play", "<", "<"), {"speed": 0.5}),
    (keys(".play", ">"), {"speed": 1}),
    (lambda root: root.locator(".traits [role=radio]").nth(1).click(), {"trait": "Openness"}),
    (keys(".traits [aria-checked=true]", "ArrowDown"), {"trait": "Conscientiousness"}),
    (keys(".traits [aria-checked=true]", "ArrowUp"), {"trait": "Openness"}),
    (lambda root: root.locator(".tokens").click(position={"x": 5, "y": 5}), {"token": 0}),
    (keys(".tokens", "ArrowRight", "ArrowDown"), {"token": 8}),
    (keys(".tokens", "Escape"), {"token": -1}),
    (
        lambda root: root.locator(".face").nth(2).click(position={"x": 2, "y": 2}),
        {"token": 0, "step": 2, "playing": False},
    ),
    (click("button", "▶ Play"), {"playing": True}),
    (keys(".play", "Escape"), {"token": -1}),
    (press("button", "Pause", "Space"), {"playing": False}),
]

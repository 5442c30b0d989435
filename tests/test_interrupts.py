"""Cells that are interrupted at random moments and run again: the lesson goes on as if they had not
been.

`python tests/test_interrupts.py 10 20` interrupts lesson 10 twenty times, and prints where, and what
was left behind. The first cell is spared: Python cannot import torch twice. What a cell has computed
is counted in seconds of the processor, so that a busy machine changes nothing.
"""

import gc
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from IPython import get_ipython
from torch import nn

ROOT = Path(__file__).parent.parent
SHORTEST = 0.02  # seconds that a cell computes for; the timer ticks every 4 ms


# ---- in the kernel -------------------------------------------------------------------------------


def arm(shell, seconds: float) -> None:
    """Interrupt the next cell when it has computed for so many seconds."""

    def begin(*_):
        shell.events.unregister("pre_run_cell", begin)
        signal.setitimer(signal.ITIMER_PROF, seconds)

    def end(*_):
        signal.setitimer(signal.ITIMER_PROF, 0)
        shell.events.unregister("post_run_cell", end)

    signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    shell.events.register("pre_run_cell", begin)
    shell.events.register("post_run_cell", end)


def state(names: dict) -> str:
    """What an interrupt may not change, as JSON: PyTorch's switches, whether models train, what a
    recorder records, and the files.
    """
    from test_recorder import Attention, global_state

    from course_lib.recorder import AttentionRecorder

    model, stranger, x = Attention(), Attention(), torch.zeros(1, 3, 16)
    with AttentionRecorder(model) as recording:
        model(x)
        stranger(x)
    parts = Path(os.environ["COURSE_CACHE"]).rglob(f"*.{os.getpid()}.part*")
    switches = [*map(str, global_state()), torch.is_grad_enabled(), torch.get_num_threads()]
    return json.dumps(
        {
            "switches": [*switches, torch.is_inference_mode_enabled(), torch.is_autocast_enabled()],
            "records": len(recording.records),
            "parts": [path.name for path in parts],
            "training": training(names),
        }
    )


def training(names: dict) -> dict[str, list[bool]]:
    """Of each model among these names, and inside them, whether its modules train."""
    found = {}
    for name, value in list(names.items()):
        inside = [getattr(value, "model", None), *(getattr(value, "models", None) or [])]
        for number, model in enumerate([value, *inside]):
            if isinstance(model, nn.Module) and not name.startswith("_"):
                modules = model.modules()
                found[f"{name} {number} {id(model)}"] = [one.training for one in modules]
    return found


def memory() -> int:
    """The bytes of all tensors that are alive, without those in the last tracebacks."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    shown = get_ipython().InteractiveTB  # IPython keeps the last one too
    shown.tb = shown.value = None
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


# ---- outside -------------------------------------------------------------------------------------


class Kernel:
    """A notebook's kernel, which runs cells and tells what they show."""

    def __init__(self):
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(
            startup_timeout=600, kernel_name="python3", cwd=str(ROOT / "tests")
        )
        self.ask("0", "import sys; sys.path.insert(0, '.'); import test_interrupts as _probe")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def ask(self, expression: str, code: str = ""):
        """The value of an expression in the kernel."""
        reply = self.client.execute_interactive(
            code, silent=True, user_expressions={"asked": expression}, output_hook=lambda _: None
        )["content"]
        assert reply["status"] == "ok", reply
        asked = reply["user_expressions"]["asked"]
        assert asked["status"] == "ok", asked
        return eval(asked["data"]["text/plain"])

    def state(self) -> dict:
        return json.loads(self.ask("_probe.state(get_ipython().user_ns)"))

    def run(self, source: str) -> tuple[str, str, float]:
        """The name of what was raised or "", what was shown, and how long the cell computed."""
        shown, began = [], self.ask("__import__('time').process_time()")
        reply = self.client.execute_interactive(source, output_hook=shown.append)["content"]
        seconds = self.ask("__import__('time').process_time()") - began
        return reply.get("ename", ""), as_text(shown), seconds


def as_text(messages: list[dict]) -> str:
    """What a cell shows, without what differs from run to run: times and names of widgets."""
    texts = []
    for message in messages:
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            texts.append(content["text"])
        elif message["msg_type"] in ("display_data", "execute_result"):
            texts.append(json.dumps(content["data"], sort_keys=True))
    text = re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{32}\b|\b[0-9a-f-]{36}\b", "NAME", "".join(texts))
    return re.sub(r"\s*\b[\d.,]+ ?(ms|s|min|kB|MB)\b", " TIME", text)


def left_behind(before: dict, after: dict, whole: dict) -> list[str]:
    """What an interrupt has left in the kernel's state, that neither was there before nor is there
    after the whole cell; models that are new are no difference.
    """
    found = [
        f"{key}: {before[key]} → {after[key]}"
        for key in ("switches", "records", "parts")
        if after[key] not in (before[key], whole[key])
    ]
    for name, modes in before["training"].items():
        if after["training"].get(name, modes) != modes:
            found.append(f"{name} changed its mode")
    return found


def cells_of(lesson: int) -> dict[str, str]:
    """The sources of the lesson's code, by the names of the cells."""
    (path,) = (ROOT / "notebooks").glob(f"{lesson:02}_*.ipynb")
    return {
        cell.id: cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
    }


class Walk:
    """One run of a lesson from top to bottom, some of whose cells are interrupted first."""

    def __init__(self, lesson: int, interrupts: dict[str, list[float]]):
        self.cells = cells_of(lesson)
        self.shown, self.seconds, self.hit, self.problems = {}, {}, [], []
        self.kernel = Kernel()
        try:
            for name in self.cells:
                states = [self.interrupt(name, seconds) for seconds in interrupts.get(name, [])]
                self.go(name)
                whole = self.kernel.state() if states else {}
                for seconds, before, after in states:
                    found = left_behind(before, after, whole)
                    self.problems += [f"{name} after {seconds:.3f} s: {one}" for one in found]
            self.memory = self.kernel.ask("_probe.memory()")
        finally:
            self.kernel.close()

    def interrupt(self, name: str, seconds: float) -> tuple[float, dict, dict]:
        """Interrupt a cell; returns when, and the kernel's state before and after."""
        before = self.kernel.state()
        self.kernel.ask(f"_probe.arm(get_ipython(), {seconds})")
        error, _, _ = self.kernel.run(self.cells[name])
        if error == "KeyboardInterrupt":
            self.hit.append(f"{name} after {seconds:.3f} s")
        elif error:
            self.problems.append(f"{name} after {seconds:.3f} s: {error}")
        return seconds, before, self.kernel.state()

    def go(self, name: str) -> None:
        error, self.shown[name], self.seconds[name] = self.kernel.run(self.cells[name])
        if error:
            self.problems.append(f"{name}: {error}")


def interrupted(lesson: int, count: int, seed: int, each: int = 20) -> list[str]:
    """Interrupt a lesson so many times, `each` in a run of it; returns what was wrong, and prints."""
    rng, whole, hits, problems = random.Random(seed), Walk(lesson, {}), 0, []
    assert not whole.problems, whole.problems
    spared = {"setup"}
    names = [name for name, at in whole.seconds.items() if at > SHORTEST and name not in spared]
    print(f"lesson {lesson}: {sum(whole.seconds.values()):.0f} s, {whole.memory / 1e6:.1f} MB")
    while hits < count:
        plan = {}
        for name in rng.choices(names, k=min(each, count - hits)):
            plan.setdefault(name, []).append(rng.random() * whole.seconds[name])
        walk = Walk(lesson, plan)
        hits += len(walk.hit)
        print("\n".join(walk.hit))
        differ = [name for name in whole.shown if walk.shown[name] != whole.shown[name]]
        walk.problems += [f"{name} shows something else" for name in differ]
        if walk.memory > 1.05 * whole.memory:
            walk.problems.append(f"{walk.memory / 1e6:.1f} MB of tensors at the end")
        later = sum(walk.seconds[name] for name in names)
        ratio = later / sum(whole.seconds[name] for name in names)
        print(f"× {ratio:.2f} in time, {walk.memory / 1e6:.1f} MB; {walk.problems}", flush=True)
        problems += walk.problems
    return problems


@pytest.mark.slow
@pytest.mark.parametrize("lesson", range(15))
def test_a_cell_that_is_run_twice_shows_the_same(lesson):
    """But for hints, of which each call gives the next one."""
    kernel, differ = Kernel(), []
    try:
        for name, source in cells_of(lesson).items():
            first, again = kernel.run(source)[:2], kernel.run(source)[:2]
            if first != again and "hint(" not in source:
                differ.append(name)
    finally:
        kernel.close()
    assert not differ


@pytest.mark.slow
@pytest.mark.parametrize("lesson", [10, 14])
def test_interrupted_cells_run_again_as_if_they_had_not_been(lesson):
    assert not interrupted(lesson, 4, seed=1)


if __name__ == "__main__":
    began = time.perf_counter()
    wrong = interrupted(int(sys.argv[1]), int(sys.argv[2]), seed=int([*sys.argv, 0][3]))
    print(f"{len(wrong)} problems, {time.perf_counter() - began:.0f} s")
    print("\n".join(wrong))

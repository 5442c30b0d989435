"""A command killed at its every point, once each, and finished by the same line.

A point is an event of the training loop, once for each callback that has seen it, and for each file
that is written the moments before, when it is written under its temporary name, and when it has its
own. `python tests/kill_points.py train|preprocess FOLDER POINT …` tries these points (or `all`, or
the last of `each` kind, or so many moments with `random 50`), and prints a line for each that did
not end like a run left alone.

The commands run in forks of one process that has imported everything, so that a try takes a second.
"""

import contextlib
import csv
import importlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import skimage.data
import torch
from safetensors.torch import load_file

from course_lib import files
from course_lib.__main__ import main

for name in ("evaluate", "preprocess", "train", "visualize"):  # before any fork
    importlib.import_module(f"course_lib.commands.{name}")
preprocess = sys.modules["course_lib.commands.preprocess"]
fit = importlib.import_module("course_lib.training.fit")
counts: Counter[str] = Counter()


def tell(name: str, at: str, journal: Path) -> None:
    """Note that the process is at this point, and kill it if that is where it is to die."""
    counts[name] += 1
    point = f"{name} {counts[name]}"
    with journal.open("a") as file:
        file.write(point + "\n")
    if point == at:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(at: str, journal: Path) -> None:
    """Let every event and every file tell."""
    atomic, validate = files.atomic, fit.validate

    @contextlib.contextmanager
    def watched(path):
        name = Path(path).name
        tell(f"before {name}", at, journal)
        with atomic(path) as temporary:
            yield temporary
            tell(f"written {name}", at, journal)
        tell(f"renamed {name}", at, journal)

    def call(run, event):
        for callback in run.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(run)
                tell(f"{event} of {type(callback).__name__}", at, journal)

    def validated(run):
        scores = validate(run)
        tell("validation", at, journal)
        return scores

    files.atomic, fit.Run.call, fit.validate = watched, call, validated


def fork(arguments: list[str], log: Path, at: str = "") -> int:
    """Run the command in a process of its own, which is returned at once."""
    if child := os.fork():
        return child
    with log.open("w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    watch(at, log.with_suffix(".journal"))
    code = 70
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(child: int, log: Path) -> None:
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"exit {os.waitstatus_to_exitcode(status)}: {log.read_text()[-600:]}"


# ---- train ---------------------------------------------------------------------------------------


def features(folder: Path) -> list[str]:
    """The command that trains for two epochs of three batches, with a checkpoint after each step."""
    rng = np.random.default_rng(0)
    arrays = {
        "static_features": rng.normal(size=(28, 12)).astype(np.float32),
        "dynamic_features": rng.normal(size=(28, 8)).astype(np.float32),
        "labels": rng.random((28, 5), np.float32),
        "speakers": np.arange(28) // 4,
    }
    arguments = ["train", "--epochs", "2", "--batch_size", "8", "--minutes", "0"]
    arguments += ["--fusion_dim", "8", "--num_heads", "2"]
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        arguments += [f"--{name}", str(folder / f"{name}.npy")]
    return arguments


def untimed(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def of_training(folder: Path) -> dict:
    """What two runs must have in common: all but dates and seconds."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["seconds_data"]) >= 0 for row in rows)
    model = folder / "model" / "personality"
    metadata = files.read_json(model / "0001" / "metadata.json")
    states = {
        name: torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)
        for name in ("last", "best")
    }
    weights = {
        f"{where} {name}": values.tolist()
        for where, state in (
            states | {"model": {"model": load_file(model / "0001" / "model.safetensors")}}
        ).items()
        for name, values in state["model"].items()
    }
    return weights | {
        "log": [untimed(row) for row in rows],
        "scores": untimed(metadata["scores"]),
        "best": untimed(states["best"]["log"]),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")),
    }


# ---- preprocess ----------------------------------------------------------------------------------


def clips(folder: Path) -> list[str]:
    """The command that works through three short clips, with tokens that cost nothing."""
    face = skimage.data.astronaut()[10:138, 140:268]
    (folder / "films" / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.mp4", "deep/a.mp4", "b.mp4")):
        frames = np.stack([np.roll(face, step * (number + 1), axis=1) for step in range(7)])
        imageio.imwrite(
            folder / "films" / name, frames, plugin="FFMPEG", fps=25, ffmpeg_log_level="error"
        )
    table = "clip,openness,conscientiousness,extraversion,agreeableness,neuroticism,speaker\n"
    for name in ("a.mp4", "deep/a.mp4", "b.mp4"):
        table += f"{name},.1,.2,.3,.4,.5,{name[0]}\n"
    (folder / "labels.csv").write_text(table)

    def tokens(faces, flows, extractors, chunk):
        means = faces.mean((1, 2, 3))[:, None, None], flows.mean((1, 2, 3, 4))[:, None, None]
        return means[0].expand(-1, 49, 6).half(), means[1].expand(-1, 2, 4).half()

    preprocess._extractors, preprocess._tokens = lambda: (None, None), tokens
    options = ["--frames", "4", "--size", "32", "--on_missing", "centre"]
    options += ["--workers", "0", "--batch_size", "2"]
    return ["preprocess", str(folder / "films"), "--labels", str(folder / "labels.csv"), *options]


def of_preprocessing(folder: Path) -> dict:
    arrays = {path.name: np.load(path).tolist() for path in folder.glob("*.npy")}
    return arrays | {
        "clips": (folder / "clips.csv").read_text(),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")),
    }


# ---- killed and finished -------------------------------------------------------------------------

COMMANDS = {"train": (features, of_training), "preprocess": (clips, of_preprocessing)}


def tried(command: str, folder: Path, wanted: list[str]) -> tuple[int, int]:
    """How many kills were tried, and after how many the same line did not do; it prints why."""
    torch.set_num_threads(1)
    make, look = COMMANDS[command]
    folder.mkdir(parents=True)
    arguments, whole, log = make(folder), folder / "whole", folder / "output.txt"
    began = time.perf_counter()
    finish(fork([*arguments, "--output", str(whole)], log), log)
    seconds = time.perf_counter() - began
    expected, journal = look(whole), log.with_suffix(".journal")
    points = journal.read_text().splitlines()
    if wanted == ["all"]:
        wanted = points
    elif wanted == ["each"]:  # the last of each kind
        wanted = [f"{kind} {count}" for kind, count in Counter(kinds(points)).items()]
    elif wanted[0] == "random":
        wanted = [f"random {number}" for number in range(int(wanted[1]))]
    failures, rng = 0, random.Random(0)
    for point in wanted:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        child = fork([*arguments, "--output", str(run)], log, point)
        if point.startswith("random "):
            time.sleep(rng.uniform(0.05, seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        try:
            assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 0), log.read_text()[-300:]
            finish(fork([*arguments, "--output", str(run)], log), log)
            ended = look(run)
            assert ended == expected, [key for key in expected if ended.get(key) != expected[key]]
        except (AssertionError, OSError) as error:
            failures += 1
            print(f"{point}: {error}", flush=True)
    return len(wanted), failures


def kinds(points: list[str]) -> list[str]:
    return [point.rsplit(" ", 1)[0] for point in points]


if __name__ == "__main__":
    count, failures = tried(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    print(f"{count} kills, {count - failures} as if never killed")
    sys.exit(bool(failures))

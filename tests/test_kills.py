"""Killed at random moments and started again, a run ends with the weights and the log of one that
was left alone.

`python tests/test_kills.py FOLDER` is the run: dropout, batch norm, augmentation in two workers,
several callbacks.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

PARAMETERS, EPOCHS, PAUSE = 200_000, 10, 0.01  # large enough that a save takes as long as a step
WHERE = "where"  # the run notes what it is doing


def train(folder: Path) -> None:
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    from course_lib import files
    from course_lib.training import (
        Checkpoints,
        ClipGradients,
        EarlyStopping,
        MetricLog,
        WarmupCosine,
        fit,
    )

    torch.set_num_threads(1)

    class Noisy(Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, index):
            inputs = torch.sin(torch.arange(20.0) * (index + 1))
            return inputs + 0.1 * torch.randn(20), inputs[:2]

    class Noting:
        """Writes where the run is, and slows it down enough to be hit anywhere."""

        def batch_ready(self, run):
            self.note(f"epoch {run.epoch + 1}, step {run.step + 1}")
            time.sleep(PAUSE)

        def after_epoch(self, run):
            self.note(f"end of epoch {run.epoch}")

        @staticmethod
        def note(text):
            (folder / WHERE).write_text(text)

    class Noted(Checkpoints):
        def _save(self, run):
            Noting.note(f"saving after step {run.step}")
            super()._save(run)

    torch.manual_seed(0)
    wide = PARAMETERS // 22
    model = nn.Sequential(
        nn.Linear(20, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Dropout(0.3), nn.Linear(wide, 2)
    )
    run = fit(
        model,
        DataLoader(Noisy(), 8, shuffle=True, num_workers=2),
        DataLoader(Noisy(), 32),
        epochs=EPOCHS,
        accumulate=2,
        seed=11,
        callbacks=[
            Noting(),
            WarmupCosine(),
            ClipGradients(1.0),
            EarlyStopping(EPOCHS),
            Noted(folder, minutes=0),
            MetricLog(folder),
        ],
    )
    assert run.epoch == EPOCHS
    files.save_tensors(folder / "final.safetensors", model.state_dict())


def start(folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    (folder / WHERE).write_text("starting")
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def kill(process: subprocess.Popen, folder: Path, rng: random.Random) -> str:
    """Kill it a few notes after it began to work, somewhere within the next step; returns the last
    note.
    """
    last, left = "starting", rng.randrange(1, 10)
    while left and process.poll() is None:
        if (now := (folder / WHERE).read_text()) != last:
            last, left = now, left - 1
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 3 * PAUSE))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    return (folder / WHERE).read_text() or "noting"


def killed_and_resumed(tmp_path: Path, kills: int, seed: int) -> list[str]:
    began, rng, folder = time.perf_counter(), random.Random(seed), tmp_path / "killed"
    finish(start(tmp_path / "whole"))
    whole = time.perf_counter() - began
    table = [kill(start(folder), folder, rng) for _ in range(kills)]
    finish(start(folder))
    print(
        f"\n{kills} kills; an uninterrupted run takes {whole:.1f} s\n| kill | the run was at"
        " |\n|---|---|"
    )
    print("\n".join(f"| {number} | {where} |" for number, where in enumerate(table, start=1)))
    for name in ("final.safetensors", "log.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (
            f"{name} differs: {table}"
        )
    best, best_of_whole = (
        torch.load(path / "best.pt", weights_only=True) for path in (folder, tmp_path / "whole")
    )
    assert best["log"] == best_of_whole["log"]
    for name, weights in best_of_whole["model"].items():
        assert weights.equal(best["model"][name]), f"{name} differs: {table}"
    assert not list(folder.glob(".*.part.*"))
    return table


def test_two_kills_change_nothing(tmp_path):
    killed_and_resumed(tmp_path, 2, seed=1)


@pytest.mark.slow
def test_twenty_five_kills_change_nothing(tmp_path):
    table = killed_and_resumed(tmp_path, 25, seed=2)
    assert len(set(table)) > 12, f"the kills hit the same moments: {table}"


# ---- commands, killed at each point of theirs ----------------------------------------------------


def killed_at(tmp_path: Path, command: str, *points: str) -> str:
    script = Path(__file__).with_name("kill_points.py")
    tries = subprocess.run(
        [sys.executable, script, command, tmp_path / "tries", *points],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert tries.returncode == 0, tries.stdout + tries.stderr
    return tries.stdout


def test_train_killed_where_it_once_got_stuck_is_finished_by_the_same_line(tmp_path):
    points = ("written manifest.json 1", "validation 2", "renamed model.safetensors 1")
    assert "3 kills, 3 as if never killed" in killed_at(tmp_path, "train", *points)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "preprocess"])
def test_a_command_killed_at_each_point_is_finished_by_the_same_line(tmp_path, command):
    print(killed_at(tmp_path, command, "all"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "preprocess"])
def test_a_command_killed_at_random_is_finished_by_the_same_line(tmp_path, command):
    print(killed_at(tmp_path, command, "random", "25"))


if __name__ == "__main__":
    train(Path(sys.argv[1]))

"""Recipes: cut off anywhere they go on exactly; what is shipped is what the manifest says."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from course_lib import files, recipes, runtime


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    return tmp_path


def a_run(cut_at: int | None) -> tuple[nn.Module, int]:
    """Train a small model for 12 steps; `cut_at` kills it there once."""
    torch.manual_seed(0)
    model, data, calls = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), torch.randn(64, 4), 0

    def loss_at(step: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if step == cut_at:
            raise KeyboardInterrupt
        return model(data[torch.randint(0, 64, (8,))]).square().mean()

    recipes.train("tiny", model, loss_at, 12, 1e-2)
    return model, calls


def test_a_cut_off_recipe_goes_on_exactly(cache, monkeypatch):
    monkeypatch.setattr(recipes, "CHECKPOINT_SECONDS", -1)
    whole, _ = a_run(None)
    recipes.done("tiny")
    with pytest.raises(KeyboardInterrupt):
        a_run(cut_at=7)
    resumed, calls = a_run(None)
    assert calls == 5
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    recipes.done("tiny")
    assert not list((cache / "recipes").glob("*"))


def test_the_manifest_tells_the_truth():
    folder = runtime.assets("weights")
    manifest = files.read_json(folder / "manifest.json")
    assert set(manifest) == set(recipes.RECIPES)
    for name, entry in manifest.items():
        assert files.sha256(folder / entry["file"]) == entry["sha256"], name
        assert (folder / entry["file"]).stat().st_size == entry["bytes"]
        assert entry["recipe"] == name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 48e6


def test_the_shipped_model_beats_the_floor_and_stays_under_the_ceiling():
    scores = files.read_json(runtime.assets("weights/manifest.json"))["personality"]["scores"]
    assert scores["ccc_floor"] == 0 < scores["ccc_model"] <= scores["ccc_ceiling"]
    assert scores["accuracy_floor"] < scores["accuracy_model"] <= scores["accuracy_ceiling"]
    assert scores["top_moment_decides"] > 2 * scores["top_moment_chance"]


def test_unknown_recipes_are_refused(cache):
    with pytest.raises(ValueError, match="no recipe 'statik'"):
        recipes.make("statik")


def test_pictures_of_the_readme_can_be_made_again(tmp_path):
    recipes.write_pictures(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipeline.png", "world.jpg"]


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["assets"], 0, "static"), (["assets", "nope"], 2, "no recipe 'nope'"), ([], 2, "usage"),
    (["assets", "--help"], 0, "--folder"),
])
def test_the_command_line(arguments, code, words):
    run = subprocess.run([sys.executable, "-m", "course_lib", *arguments], capture_output=True, text=True)
    assert run.returncode == code
    assert words in run.stdout + run.stderr
    assert "Traceback" not in run.stderr

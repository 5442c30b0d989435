"""Recipes: what is shipped is what the manifest says, and what the README shows."""

import subprocess
import sys

import pytest

from course_lib import files, recipes, runtime


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


def test_unknown_recipes_are_refused():
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


def test_the_readme_shows_the_scores_of_the_shipped_weights():
    weights = runtime.assets("weights")
    assert recipes.score_table(weights) in (weights.parent.parent / "README.md").read_text()

"""Recipes: what is shipped is what the manifest says, and what the README shows."""

import subprocess
import sys

import pytest
import torch

from course_lib import files, parts_recipe, recipes, runtime
from course_lib.ablation import CLIPS, LESSON_CLIPS, ablation_table, principal_axes
from course_lib.pointing import pointing_table
from course_lib.training import SUMMARY, concordance, evolution_table, lesson_tokens


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


def test_principal_axes_are_those_of_most_variance():
    generator = torch.Generator().manual_seed(0)
    stretched = torch.randn(500, 6, generator=generator) * torch.tensor((1.0, 9, 1, 4, 1, 1)) + 3
    mean, axes, share = principal_axes(stretched, 2)
    _, singular, turned = torch.linalg.svd(stretched - stretched.mean(0), full_matrices=False)
    torch.testing.assert_close((axes.T @ turned[:2].T).abs(), torch.eye(2), rtol=0, atol=1e-3)
    assert share == pytest.approx(
        float(singular[:2].square().sum() / singular.square().sum()), rel=1e-3
    )
    torch.testing.assert_close(mean, stretched.mean(0))


def test_lesson_tokens_carry_the_answer_and_no_speaker_twice():
    train, valid, test = (lesson_tokens(part) for part in ("train", "valid", "test"))
    for part, data in (("train", train), ("valid", valid), ("test", test)):
        assert len(data["traits"]) == LESSON_CLIPS[part]
        whole = CLIPS[part].labels()  # the same clips as the ablation's, in order
        torch.testing.assert_close(data["traits"], whole["traits"][: len(data["traits"])])
    told, asked = (
        torch.cat(
            [
                data["face_tokens"][:, 0],
                data["motion_tokens"][range(len(data["moment"])), data["moment"]],
            ],
            1,
        )
        for data in (train, test)
    )
    told, asked = (torch.cat([values, torch.ones(len(values), 1)], 1) for values in (told, asked))
    answer = asked @ torch.linalg.lstsq(told, train["traits"]).solution
    ceiling = concordance(test["expected"], test["traits"]).mean()
    # once the deciding moment is known
    assert concordance(answer, test["traits"]).mean() > 0.85 * ceiling


def test_an_unknown_part_of_the_lesson_tokens_is_refused():
    with pytest.raises(ValueError, match="no part 'training'"):
        lesson_tokens("training")


def test_unknown_recipes_are_refused():
    with pytest.raises(ValueError, match="no recipe 'statik'"):
        recipes.make("statik")


def test_pictures_of_the_readme_can_be_made_again(tmp_path):
    recipes.write_pictures(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipeline.png", "world.jpg"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["assets"], 0, "static"),
        (["assets", "nope"], 2, "no recipe 'nope'"),
        ([], 2, "usage"),
        (["assets", "--help"], 0, "--folder"),
    ],
)
def test_the_command_line(arguments, code, words):
    run = subprocess.run(
        [sys.executable, "-m", "course_lib", *arguments], capture_output=True, text=True
    )
    assert run.returncode == code
    assert words in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_the_readme_shows_the_scores_of_the_shipped_weights():
    weights = runtime.assets("weights")
    readme = (weights.parent.parent / "README.md").read_text()
    assert recipes.score_table(weights) in readme
    assert (
        parts_recipe.parts_table(files.read_json(weights / "manifest.json")["parts"]["scores"])
        in readme
    )


@pytest.mark.parametrize(
    ("study", "table"),
    [
        ("ablation", ablation_table),
        ("evolution", lambda rows: evolution_table(rows, SUMMARY)),
        ("pointing", pointing_table),
    ],
)
def test_the_readme_shows_the_stored_results(study, table):
    results = runtime.assets("results")
    shown = table(files.read_json(results / f"{study}.json")["rows"])
    assert shown in (results.parent.parent / "README.md").read_text()

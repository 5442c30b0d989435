"""Recipes: what ships is what the manifest says and the README shows; a short run of each works,
ends alike each time, and goes on where it was cut off.
"""

import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assets.recipes import ablation, common, difficulty, dynamic, parts, run, static
from assets.recipes.run import RECIPES, Study, make, readme_tables
from course_lib import files, runtime
from course_lib.training import concordance, lesson_tokens
from course_lib.world import DIFFICULTIES

ROOT = Path(__file__).parent.parent
STUDIES = {name: recipe for name, recipe in RECIPES.items() if isinstance(recipe, Study)}


# ---- what ships ----------------------------------------------------------------------------------


def test_the_manifest_tells_the_truth():
    folder = runtime.assets("weights")
    manifest = files.read_json(folder / "manifest.json")
    assert set(manifest) == set(RECIPES) - set(STUDIES)
    for name, entry in manifest.items():
        assert files.sha256(folder / entry["file"]) == entry["sha256"], name
        assert (folder / entry["file"]).stat().st_size == entry["bytes"]
        assert entry["recipe"] == name
        assert entry["seed"] == RECIPES[name].seed
    assert sum(path.stat().st_size for path in folder.iterdir()) < 48e6


@pytest.mark.parametrize("name", STUDIES)
def test_stored_results_hold_every_setting(name):
    study, result = STUDIES[name], files.read_json(runtime.assets(f"results/{name}.json"))
    rows = result["rows"]
    stored = [{key: row[key] for key in study.settings[0]} for row in rows]
    assert [setting for setting in stored if setting not in study.settings] == []
    assert [setting for setting in study.settings if setting not in stored] == []
    assert len({str(row) for row in rows}) == len(rows)
    assert result["seed"] == study.seed


def test_the_difficulty_of_every_training_is_tested_on_every_other():
    rows = files.read_json(runtime.assets("results/difficulty.json"))["rows"]
    assert len(rows) == len(STUDIES["difficulty"].settings) * len(DIFFICULTIES)


@pytest.mark.parametrize("name", readme_tables())
def test_the_readme_shows_what_is_stored(name):
    table, readme = readme_tables()[name], (ROOT / "README.md").read_text()
    assert table.markdown() in readme
    assert table.caption in readme


def test_the_readme_names_the_command():
    readme = (ROOT / "README.md").read_text()
    assert "python -m assets.recipes NAME" in readme
    for name in STUDIES:
        assert f"assets.recipes {name}" in " ".join(readme.split()), name


def test_the_shipped_model_beats_the_floor_and_stays_under_the_ceiling():
    scores = files.read_json(runtime.assets("weights/manifest.json"))["personality"]["scores"]
    assert scores["ccc_floor"] == 0 < scores["ccc_model"] <= scores["ccc_ceiling"]
    assert scores["accuracy_floor"] < scores["accuracy_model"] <= scores["accuracy_ceiling"]
    assert scores["top_moment_decides"] > 2 * scores["top_moment_chance"]


def test_principal_axes_are_those_of_most_variance():
    generator = torch.Generator().manual_seed(0)
    stretched = torch.randn(500, 6, generator=generator) * torch.tensor((1.0, 9, 1, 4, 1, 1)) + 3
    mean, axes, share = ablation.principal_axes(stretched, 2)
    _, singular, turned = torch.linalg.svd(stretched - stretched.mean(0), full_matrices=False)
    torch.testing.assert_close((axes.T @ turned[:2].T).abs(), torch.eye(2), rtol=0, atol=1e-3)
    assert share == pytest.approx(
        float(singular[:2].square().sum() / singular.square().sum()), rel=1e-3
    )
    torch.testing.assert_close(mean, stretched.mean(0))


def test_lesson_tokens_carry_the_answer_and_no_speaker_twice():
    train, valid, test = (lesson_tokens(part) for part in ("train", "valid", "test"))
    for part, data in (("train", train), ("valid", valid), ("test", test)):
        assert len(data["traits"]) == ablation.LESSON_CLIPS[part]
        whole = ablation.CLIPS[part].labels()  # the same clips as the ablation's, in order
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


# ---- training on steps ---------------------------------------------------------------------------


class Killed(BaseException):
    """No error that anybody catches."""


class Knife(common.StepProgress):
    """Kills the run in the middle of a step, once."""

    steps = 0  # how many are still complete; 0: no kill

    def batch_ready(self, run):
        if Knife.steps and run.step == Knife.steps:
            Knife.steps = 0
            raise Killed


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A cache folder of the test's own, a checkpoint after each step, and a knife."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(common, "MINUTES", 0)
    monkeypatch.setattr(common, "StepProgress", Knife)
    monkeypatch.setattr(Knife, "steps", 0)
    return tmp_path / "cache" / "recipes"


def train_small(folder: Path, steps: int = 12) -> tuple[nn.Module, list[int]]:
    """A small model, and which steps were drawn."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    data, drawn = torch.randn(64, 4), []

    def draw(generator, step):
        drawn.append(step)
        batch = data[torch.randint(0, 64, (8,), generator=generator)]
        return batch, batch[:, :1]

    common.train_steps(model, draw, F.mse_loss, steps, 1e-2, folder, seed=3)
    return model, drawn


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("steps", [1, 7, 11])
def test_steps_that_were_cut_off_go_on_exactly(workplace, steps):
    whole, drawn = train_small(workplace / "whole")
    assert drawn == list(range(12))
    Knife.steps = steps
    with pytest.raises(Killed):
        train_small(workplace / "cut")
    resumed, _ = train_small(workplace / "cut")
    assert same(whole, resumed)
    done, drawn = train_small(workplace / "cut")  # one that is done takes no step
    assert same(whole, done)
    assert drawn == []


def test_the_learning_rate_takes_one_cycle(workplace, monkeypatch):
    rates, after_step = [], common.OneCycle.after_step

    def watched(self, run):
        rates.append(run.optimizer.param_groups[0]["lr"])
        after_step(self, run)

    monkeypatch.setattr(common.OneCycle, "after_step", watched)
    model, _ = train_small(workplace / "rates", 40)
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) == 5  # 15 % of 40, less one
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-6
    assert model(torch.randn(2, 4)).dtype == torch.float32  # no longer in half precision


def test_a_batch_depends_on_its_step_alone():
    steps = common.Steps(lambda generator, step: (torch.rand(2, generator=generator),), 5, seed=1)
    backwards = [steps[step] for step in range(4, -1, -1)][::-1]
    assert all(torch.equal(steps[step][0], batch) for step, (batch,) in enumerate(backwards))
    assert len({tuple(batch.tolist()) for (batch,) in backwards}) == len(steps) == 5


# ---- short runs ----------------------------------------------------------------------------------


def write_static(path):
    return static.write_static(path, faces=4, stills=2, steps=2, polish=2, batch=2, tested=4)


def write_dynamic(path):
    return dynamic.write_dynamic(path, clips=2, steps=2, batch=2, tested=2)


def write_parts(path):
    return parts.write_parts(path, faces=4, encoder_steps=2, steps=2, batch=2, tested=2)


def shapes(tensors):
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


SHORT = {"static": write_static, "dynamic": write_dynamic, "parts": write_parts}


@pytest.mark.parametrize("name", SHORT)
def test_a_recipe_ends_alike_each_time_even_if_it_is_cut_off(name, workplace, tmp_path):
    hashes = []
    for run_number in range(2):
        path = tmp_path / f"{run_number}" / f"{name}.safetensors"
        if run_number:  # in the second step
            torch.manual_seed(0)
            Knife.steps = 1
            with pytest.raises(Killed):
                SHORT[name](path)
        torch.manual_seed(0)
        scores = SHORT[name](path)
        hashes.append([files.sha256(file) for file in sorted(path.parent.iterdir())])
        assert not list(workplace.iterdir())  # what is done leaves no checkpoint
    assert hashes[0] == hashes[1]
    shipped = runtime.assets(f"weights/{name}.safetensors")
    ours, theirs = (files.load_tensors(file) for file in (path, shipped))
    assert shapes(ours[0]) == shapes(theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    assert path.stat().st_size == pytest.approx(shipped.stat().st_size, rel=0.01)
    stored = files.read_json(runtime.assets("weights/manifest.json"))[name]["scores"]
    assert scores.keys() == stored.keys()


def test_the_small_network_learns_and_is_scored_on_every_difficulty(workplace, monkeypatch):
    monkeypatch.setattr(difficulty, "SIZES", (60,))
    monkeypatch.setattr(difficulty, "UNSEEN", 800)  # some of each attribute in either half
    difficulty._drawn.cache_clear()
    rows = [difficulty.learn_faces("easy", 60, 0, steps=3, batch=8) for _ in range(2)]
    difficulty._drawn.cache_clear()
    assert rows[0] == rows[1]
    assert [row["tested"] for row in rows[0]] == list(DIFFICULTIES)
    assert all(0 <= value <= 1 for row in rows[0] for key, value in row.items() if key != "tested")


def test_perfect_logits_score_one_and_reversed_ones_do_not():
    truth = torch.rand(200, len(difficulty.RARE), generator=torch.Generator().manual_seed(0)) < 0.3
    perfect, reversed_ = (
        difficulty.score_groups(sign * (truth.float() - 0.5), truth.float()) for sign in (1, -1)
    )
    assert set(perfect.values()) == {1.0}
    assert reversed_["accuracy"] == reversed_["f1_rare"] == 0
    assert reversed_["ap_rare"] < 0.4


# ---- the runner ----------------------------------------------------------------------------------


def test_weights_are_entered_in_the_manifest(workplace, tmp_path, monkeypatch):
    def write(path):
        files.save_tensors(path, {"value": torch.randn(3)})
        return {"score": torch.tensor(0.123456)}

    monkeypatch.setitem(RECIPES, "noise", run.Weights(write, 1, seed=7))
    entries = [make("noise", tmp_path / folder) for folder in ("one", "two")]
    assert entries[0]["sha256"] == entries[1]["sha256"]  # of the same seed
    assert (entries[0]["seed"], entries[0]["torch"]) == (7, torch.__version__)
    assert entries[0]["scores"] == {"score": 0.1235}
    assert files.read_json(tmp_path / "one" / "manifest.json") == {"noise": entries[0]}


def test_a_cut_off_study_goes_on(workplace, tmp_path, monkeypatch):
    calls = []

    def square(number):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(number)
        return [{"square": number**2}]

    study = Study(square, tuple({"number": number} for number in range(3)), 1)
    monkeypatch.setitem(RECIPES, "squares", study)
    with pytest.raises(KeyboardInterrupt):
        make("squares", tmp_path)
    assert not (tmp_path / "squares.json").exists()
    calls[:] = calls[:1]  # the third setting may run now
    result = make("squares", tmp_path)
    assert calls == [0, 2]
    assert result["rows"] == [{"number": number, "square": number**2} for number in range(3)]
    assert (result["seed"], result["torch"]) == (30_000, torch.__version__)
    assert files.read_json(tmp_path / "squares.json") == result
    assert not (workplace / "squares").exists()  # the next run begins anew


def interrupted_or_asleep(number):
    if number == 0:
        raise KeyboardInterrupt
    time.sleep(3600)


def test_ctrl_c_ends_a_study_of_several_processes_at_once(tmp_path):
    study = Study(interrupted_or_asleep, (), 1, processes=2)
    settings = [(study, {"number": number}, tmp_path / f"{number}.json") for number in range(4)]
    others = set(active_children())
    with pytest.raises(KeyboardInterrupt):
        list(run._finished(2, settings))
    for process in set(active_children()) - others:
        process.join()


def test_only_what_a_stored_result_lacks_is_run(workplace, tmp_path, monkeypatch):
    calls = []

    def square(number):
        calls.append(number)
        return [{"square": number**2}]

    def study(*numbers):
        return Study(square, tuple({"number": number} for number in numbers), 1)

    monkeypatch.setattr(runtime, "assets", lambda name: tmp_path / Path(name).name)
    monkeypatch.setitem(RECIPES, "squares", study(0, 2))
    make("squares", tmp_path)
    monkeypatch.setitem(RECIPES, "squares", study(0, 1, 2))
    result = make("squares", tmp_path, add=True)
    assert calls == [0, 2, 1]
    assert [(row["number"], row["square"]) for row in result["rows"]] == [(0, 0), (1, 1), (2, 4)]
    make("squares", tmp_path)  # without it, all are run
    assert calls == [0, 2, 1, 0, 1, 2]


def cube(number):
    """What another process runs; it says how many threads it has."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    return [{"cube": number**3, "threads": torch.get_num_threads()}]


def test_settings_run_in_two_processes_and_what_one_raises_is_raised(
    workplace, tmp_path, monkeypatch
):
    broken = Study(cube, ({"number": 2}, {"number": -1}, {"number": 3}), 1, processes=2)
    monkeypatch.setitem(RECIPES, "cubes", broken)
    with pytest.raises(ValueError, match="-1 is negative"):
        make("cubes", tmp_path)
    mended = Study(cube, ({"number": 2}, {"number": 4}, {"number": 3}), 1, processes=2)
    monkeypatch.setitem(RECIPES, "cubes", mended)
    result = make("cubes", tmp_path)
    assert [(row["number"], row["cube"]) for row in result["rows"]] == [(2, 8), (4, 64), (3, 27)]
    assert {row["threads"] for row in result["rows"]} == {1}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 0, "about 50 minutes on two cores: weights/static.safetensors"),
        (["nope"], 2, "no recipe 'nope'; choose one of static, dynamic"),
        (["--help"], 0, "--folder"),
    ],
)
def test_the_command_line(arguments, code, words):
    result = subprocess.run(
        [sys.executable, "-m", "assets.recipes", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == code
    assert words in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_the_tables_of_the_readme_are_printed(capsys):
    assert run.main(["tables"]) == 0
    assert readme_tables()["ablation"].markdown() in capsys.readouterr().out


def test_pictures_of_the_readme_can_be_made_again(tmp_path):
    run.pictures.write_pictures(tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["pipeline-dark.png", "pipeline.png", "world.jpg"]

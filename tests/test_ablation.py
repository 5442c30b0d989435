"""The ablation: arms see what they claim to see, attention is scored by known answers, the stored
result holds.
"""

import pytest
import torch

from assets.recipes import ablation
from assets.recipes.ablation import ARMS, BASELINES, SEEDS
from course_lib import files, runtime
from course_lib.lessons.studies import ablation_table
from course_lib.models import SideBySideModel

# does face, does motion change the answer?
MOVED = {"static only": (True, False), "dynamic only": (False, True)}


@pytest.fixture
def clips():
    """24 random clips of 6 speakers, with the truth that an arm is scored against."""
    generator = torch.Generator().manual_seed(0)
    region = torch.zeros(24, 5, 112, 112, dtype=torch.bool)
    region[..., 32:48, 48:64] = True
    traits = torch.rand(24, 5, generator=generator)
    return {
        "face_tokens": torch.randn(24, 49, 2048, generator=generator).half(),
        "motion_tokens": torch.randn(24, 8, 1024, generator=generator).half(),
        "region": region,
        "moment": torch.randint(0, 8, (24,), generator=generator),
        "traits": traits,
        "expected": traits + 0.01,
        "speaker": torch.arange(24) // 4,
    }


def predict(arm, clips, **changed):
    torch.manual_seed(0)
    return ablation.predict(arm, ARMS[arm].build().eval(), clips | changed)["prediction"]


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_sees_what_its_name_says(arm, clips):
    moved = [
        not torch.allclose(
            predict(arm, clips), predict(arm, clips, **{key: clips[key].flip(0)}), atol=1e-5
        )
        for key in ("face_tokens", "motion_tokens")
    ]
    assert tuple(moved) == MOVED.get(arm, (True, True))


@pytest.mark.parametrize(
    "arm", ["dynamic only", "concatenation", "one-key attention", "per moment, then mean"]
)
def test_arms_that_average_over_time_do_not_know_the_order(arm, clips):
    shuffled = clips["motion_tokens"][:, torch.randperm(8)]
    torch.testing.assert_close(
        predict(arm, clips, motion_tokens=shuffled), predict(arm, clips), rtol=0, atol=1e-4
    )


def test_only_arms_that_meet_single_moments_see_more_than_their_average(clips):
    motion = clips["motion_tokens"].float()
    noise = torch.randn(motion.shape, generator=torch.Generator().manual_seed(1))
    same_mean = motion + 3 * (noise - noise.mean(dim=1, keepdim=True))
    for arm in ARMS:
        moved = (
            predict(arm, clips, motion_tokens=same_mean) - predict(arm, clips)
        ).abs().max() > 1e-3
        assert moved == (arm in ("per moment, then mean", "token attention")), arm


def test_side_by_side_averages_the_answers_of_single_moments(clips):
    torch.manual_seed(0)
    model = SideBySideModel(6, 4, fusion_dim=8).eval()
    model.head, model.fusion = torch.nn.Identity(), torch.nn.Identity()
    face, motion = torch.randn(3, 6), torch.randn(3, 5, 4)
    one_by_one = torch.stack([model(face, motion[:, moment]) for moment in range(5)]).mean(0)
    torch.testing.assert_close(model(face, motion), one_by_one)


def test_arms_are_of_comparable_size():
    sizes = {name: sum(p.numel() for p in arm.build().parameters()) for name, arm in ARMS.items()}
    assert sizes["concatenation"] == sizes["per moment, then mean"]
    assert max(sizes.values()) / sizes["concatenation"] < 1.7
    assert max(sizes, key=sizes.get) != "token attention"  # it does not win by size


@pytest.mark.parametrize("arm", ["static only", "per moment, then mean", "token attention"])
def test_training_is_reproducible_and_learns(arm, clips, monkeypatch):
    monkeypatch.setattr(ablation, "BATCH", 8)
    runs = [ablation.train_arm(arm, seed, clips, clips, epochs=15) for seed in (3, 3, 4)]
    assert runs[0][1] == runs[1][1] != runs[2][1]
    assert len(runs[0][1]) == 15
    assert not runs[0][0].training
    error = (
        (ablation.predict(arm, runs[0][0], clips)["prediction"] - clips["traits"]).square().mean()
    )
    assert error == pytest.approx(runs[0][1][-1], rel=1e-3)  # the curve is the validation loss
    assert error < 0.8 * clips["traits"].var()


def test_where_attention_lies_in_space_and_time_agree(clips):
    torch.manual_seed(0)
    answer = ablation.predict("token attention", ARMS["token attention"].build().eval(), clips)
    assert answer["places"].shape == (24, 49)
    torch.testing.assert_close(answer["moments"].sum(1), torch.ones(24))
    torch.testing.assert_close(
        answer["places"].sum(1), answer["moments"][range(24), clips["moment"]]
    )


def test_attention_is_scored_by_what_is_known(clips):
    there = torch.nn.functional.one_hot(clips["moment"], 8).float()
    place = torch.zeros(24, 49)
    place[:, 2 * 7 + 3] = 1  # rows 32 to 48, columns 48 to 64 of 112
    scores = ablation._looks(
        {
            "moments": there,
            "places": place,
            "untrained_moments": there.roll(1, 1),
            "untrained_places": place.roll(20, 1),
        },
        clips,
    )
    most = clips["moment"].bincount().max().item() / 24
    assert scores["moment"] == {
        "map": 1,
        "mean map": round(most, 4),
        "untrained": 0,
        "chance": 0.125,
    }
    for measure in ("pointing", "energy"):
        assert scores[measure]["map"] == 1
        assert scores[measure]["untrained"] == 0 < scores[measure]["chance"] < 0.1


def test_rows_pair_every_arm_with_the_same_resamples(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(ablation, "clip_tokens", lambda part: clips)
    calls = []

    def train(name, seed, *data):
        calls.append((name, seed))
        torch.manual_seed(seed)
        return ARMS[name].build().eval(), [0.5, 0.4]

    monkeypatch.setattr(ablation, "train_arm", train)
    rows = {
        arm: ablation.run_arm(arm)
        for arm in ("token attention", "concatenation", "ceiling", "floor")
    }
    # each run once
    assert calls == [(arm, seed) for arm in ("token attention", "concatenation") for seed in SEEDS]
    assert rows["token attention"][-1]["token_minus_this"] == {"mean": 0, "low": 0, "high": 0}
    other, token, ceiling = (
        rows[arm][-1] for arm in ("concatenation", "token attention", "ceiling")
    )
    assert other["token_minus_this"]["mean"] == pytest.approx(
        token["ccc"]["mean"] - other["ccc"]["mean"], abs=2e-4
    )
    assert ceiling["ccc"]["mean"] > 0.95
    assert rows["floor"][-1]["ccc"]["mean"] == 0
    for row in rows["concatenation"][:-1]:
        assert row["cccs"]["mean"] == pytest.approx(
            sum(list(row["cccs"].values())[:5]) / 5, abs=1e-4
        )
    assert "moment" in rows["token attention"][0]
    assert "moment" not in other


def test_lesson_tokens_are_the_first_clips_on_axes_of_the_training_clips(
    clips, tmp_path, monkeypatch
):
    data = {
        "train": clips,
        "valid": {name: values.flip(0) for name, values in clips.items()},
        "test": {name: values.clone() for name, values in clips.items()},
    }
    monkeypatch.setattr(ablation, "clip_tokens", data.get)
    monkeypatch.setattr(ablation, "LESSON_CLIPS", {"train": 20, "valid": 6, "test": 4})
    shares = ablation.write_lesson_tokens(tmp_path / "tokens.safetensors", width=12)
    tensors, _ = files.load_tensors(tmp_path / "tokens.safetensors")
    assert all(0 < share < 1 for share in shares.values())
    assert tensors["train.face_tokens"].shape == (20, 1, 12)
    assert tensors["test.motion_tokens"].shape == (4, 8, 12)
    for part, size in (("valid", 6), ("test", 4)):
        for name in ("traits", "expected", "speaker", "moment"):
            assert torch.equal(tensors[f"{part}.{name}"], data[part][name][:size])
    face = tensors["train.face_tokens"].float()[:, 0]
    torch.testing.assert_close(face.mean(0), torch.zeros(12), rtol=0, atol=1e-2)
    torch.testing.assert_close(tensors["test.face_tokens"], tensors["train.face_tokens"][:4])
    torch.testing.assert_close(
        tensors["valid.face_tokens"][4:], tensors["train.face_tokens"][[19, 18]]
    )


@pytest.fixture(scope="module")
def stored():
    return files.read_json(runtime.assets("results/ablation.json"))["rows"]


def test_the_stored_result_is_complete_and_consistent(stored):
    path = runtime.assets("results/ablation.json")
    assert path.stat().st_size < 120_000
    for arm in ARMS:
        runs = [row for row in stored if row["arm"] == arm and "seed" in row]
        assert [row["seed"] for row in runs] == list(SEEDS)
        (overall,) = (row for row in stored if row["arm"] == arm and "seeds" in row)
        assert overall["ccc"]["mean"] == pytest.approx(
            sum(row["cccs"]["mean"] for row in runs) / len(runs), abs=1e-3
        )
        assert overall["ccc"]["low"] <= overall["ccc"]["mean"] <= overall["ccc"]["high"]
        assert {row["parameters"] for row in runs} == {
            sum(p.numel() for p in ARMS[arm].build().parameters())
        }


def test_token_attention_leads_and_looks_at_the_deciding_moment(stored):
    overall = {row["arm"]: row for row in stored if "seeds" in row}
    token, ceiling = (overall[arm]["ccc"] for arm in ("token attention", "ceiling"))
    for arm in ("concatenation", "one-key attention"):
        assert overall[arm]["token_minus_this"]["low"] > 0.3
        assert token["low"] > overall[arm]["ccc"]["high"]
    assert token["mean"] > 0.85 * ceiling["mean"]
    for row in stored:
        if "moment" in row:
            assert row["moment"]["map"] > 0.9
            assert max(row["moment"][name] for name in ("mean map", "untrained", "chance")) < 0.3


def test_the_table_shows_every_arm_and_baseline(stored):
    table = ablation_table(stored)
    assert [row[0] for row in table.rows[1:]] == [*BASELINES, *ARMS]
    assert len({len(row) for row in table.rows}) == 1

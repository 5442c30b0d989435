"""The study of finer maps: what a grown model begins with, its rows and its table, and that what is
shipped points.
"""

import pytest
import torch
import torch.nn.functional as F

from assets.recipes import finer
from course_lib import files, runtime
from course_lib.data import gather, hard_faces
from course_lib.looking import pointing_game
from course_lib.training import course_attribute_predictor
from course_lib.world import ATTRIBUTES


@pytest.fixture(scope="module")
def faces():
    """Hard test faces of 112 pixels, and where the answers are."""
    dataset = hard_faces("test", 150, regions=True, size=112)
    items = gather(dataset, "image", "target", "regions", workers=0)
    items["regions"] &= items["target"].bool()[:, :, None, None]
    return items


def test_a_grown_model_begins_with_what_the_small_one_knows(faces):
    coarse = course_attribute_predictor().model
    fine, images = finer.grown(coarse).eval(), faces["image"][:20]
    half = F.avg_pool2d(images, 2)
    with torch.no_grad():
        before, after = (
            model.backbone.layers[:4](2 * values - 1)
            for model, values in ((coarse, half), (fine, images))
        )
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    maps = coarse.attention_maps(half), F.avg_pool2d(fine.attention_maps(images), 2)
    assert torch.stack([values.flatten() for values in maps]).corrcoef()[0, 1] > 0.8


def test_the_same_person_has_the_same_regions_at_any_size():
    small, large = (hard_faces("test", 3, regions=True, size=size)[2] for size in (56, 112))
    assert torch.equal(small["target"], large["target"])
    assert torch.equal(small["pose"], large["pose"])
    shrunk = F.avg_pool2d(large["regions"].float(), 2)
    assert (shrunk - small["regions"].float()).abs().mean() < 0.02


def test_a_run_gives_the_stored_row_and_the_recipe_ships_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    for name, size in (
        ("FACES", 40),
        ("VALID", 700),
        ("TEST", 700),
        ("WITH_REGIONS", 40),
        ("EPOCHS", 1),
    ):
        monkeypatch.setattr(finer, name, size)
    for kept in (finer._faces, finer._regions):
        kept.cache_clear()
    (row,) = finer.run_model("14×14", 0)
    (shipped,) = finer.run_model(finer.SHIPPED, 0)
    scores = finer.write_attributes_fine(tmp_path / "attributes_fine.safetensors")
    for kept in (finer._faces, finer._regions):
        kept.cache_clear()
    stored = files.read_json(runtime.assets("results/finer.json"))["rows"]
    assert row.keys() == stored[0].keys() - {"model", "seed"}
    assert row.keys() - shipped.keys() == {"seconds", "processor_seconds"}
    assert set(scores) == {"f1", "f1_rare", "average_precision"}
    ours, theirs = (
        files.load_tensors(folder / "attributes_fine.safetensors")
        for folder in (tmp_path, runtime.assets("weights"))
    )
    assert {key: (value.shape, value.dtype) for key, value in ours[0].items()} == {
        key: (value.shape, value.dtype) for key, value in theirs[0].items()
    }
    assert ours[1] == theirs[1]


def test_a_map_that_is_right_scores_more_than_all_baselines(faces):
    """The regions themselves, one place for all, and nothing, as maps."""
    regions = faces["regions"][:, [ATTRIBUTES.index("Eyeglasses")]]
    right = F.adaptive_avg_pool2d(regions.float(), 14)
    scores = finer._scores_of_one(right, torch.ones_like(right), regions)
    for measure in finer.MEASURES.values():
        assert scores[f"{measure} map"] > scores[f"{measure} mean map"]
        assert scores[f"{measure} map"] > scores[f"{measure} chance"]
    for pixels in finer.WITHIN:
        assert scores[f"within {pixels} px map"] == 1
        blind, chance = (scores[f"within {pixels} px {name}"] for name in ("untrained", "chance"))
        assert blind == pytest.approx(chance)
    assert scores["follows map"] > 0.9
    assert scores["energy untrained"] == pytest.approx(scores["energy chance"], rel=1e-4)
    assert scores["IoU untrained"] == pytest.approx(scores["energy chance"], rel=1e-4)


@pytest.mark.parametrize(("rows", "token", "centre"), [(14, 3, 28), (7, 1, 24)])
def test_a_pixel_is_as_far_away_on_any_grid(rows, token, centre):
    """The strongest token is centred 5 pixels from the only pixel of the region."""
    maps, regions = torch.zeros(1, 1, rows, rows), torch.zeros(1, 1, 112, 112, dtype=torch.bool)
    maps[..., token, token] = 1
    regions[..., centre + 5, centre] = True
    scores = finer._scores_of_one(maps, maps, regions)
    assert (scores["within 8 px map"], scores["within 4 px map"]) == (1, 0)


def test_the_fine_predictor_points_and_is_no_larger_than_it_may_be(faces):
    predictor = course_attribute_predictor(tokens=196)
    assert predictor.names == ATTRIBUTES
    maps = predictor.model.attention_maps(faces["image"])
    assert maps.shape == (150, len(ATTRIBUTES), 14, 14)
    regions = faces["regions"]
    shared = maps.mean(0).expand_as(maps)
    points, fixed = (
        pointing_game(values, regions, 1.0).nanmean(0).nanmean() for values in (maps, shared)
    )
    assert points > fixed + 0.03
    path = runtime.assets("weights/attributes_fine.safetensors")
    assert path.stat().st_size <= 1_000_000


def test_the_table_has_four_lines_a_model():
    rows = files.read_json(runtime.assets("results/finer.json"))["rows"]
    lines = finer.finer_table(rows).rows
    assert len(lines) == 1 + 4 * (len(finer.MODELS) + 1)
    assert [line[0] for line in lines[1::4]] == [f"**{m}**" for m in (*finer.MODELS, finer.SHIPPED)]

"""The pointing study: its rows and its table, and that what is shipped still points."""

import pytest
import torch

from assets.recipes import decoders
from course_lib import files, runtime
from course_lib.data import gather, hard_faces
from course_lib.lessons.studies import pointing_table
from course_lib.looking import follows, score_localisation
from course_lib.training import (
    DECODERS,
    course_attribute_predictor,
    score_attributes,
    shipped_decoders,
)
from course_lib.world import ATTRIBUTES


def test_a_run_gives_the_stored_row_and_the_recipe_ships_it(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    for name, size in (
        ("FACES", 70),
        ("VALID", 700),
        ("TEST", 700),
        ("WITH_REGIONS", 40),
        ("EPOCHS", 1),
    ):
        monkeypatch.setattr(decoders, name, size)
    for kept in (decoders.faces_of, decoders._regions):
        kept.cache_clear()
    (row,) = decoders.run_decoder("tokens that attend to each other", 1)
    scores = decoders.write_attributes(tmp_path / "attributes.safetensors")
    for kept in (decoders.faces_of, decoders._regions):
        kept.cache_clear()
    stored = files.read_json(runtime.assets("results/pointing.json"))["rows"]
    assert row.keys() == stored[0].keys() - {"decoder", "seed"}
    assert set(scores) == {"f1", "f1_rare", "average_precision"}
    shipped = runtime.assets("weights")
    for name in ("attributes.safetensors", "attributes_mixed.safetensors"):
        ours, theirs = (files.load_tensors(folder / name) for folder in (tmp_path, shipped))
        assert {key: (value.shape, value.dtype) for key, value in ours[0].items()} == {
            key: (value.shape, value.dtype) for key, value in theirs[0].items()
        }
        assert ours[1] == theirs[1]


@pytest.fixture(scope="module")
def looked():
    """Maps of both shipped decoders on 300 hard test faces, and where the answers are."""
    items = gather(hard_faces("test", 300, regions=True), "image", "target", "regions", workers=0)
    maps = {
        name: model.attention_maps(items["image"]) for name, model in shipped_decoders().items()
    }
    return maps, items["regions"] & items["target"].bool()[:, :, None, None], items


def test_the_shipped_decoder_points_where_the_mean_map_does_not(looked):
    maps, regions, _ = looked
    scores = score_localisation(maps["pointing"], regions)
    assert scores.mean("pointing") > 0.6
    assert scores.mean("pointing") > scores.mean("pointing", "mean map") + 0.03
    assert scores.mean("pointing", "chance") < 0.2
    mixed = score_localisation(maps["tokens that attend to each other"], regions)
    assert scores.mean("pointing") > mixed.mean("pointing")
    ours, theirs = (follows(values, regions).nanmean() for values in maps.values())
    assert ours > theirs + 0.1


def test_the_shipped_predictor_knows_the_attributes(looked):
    _, _, items = looked
    predictor = course_attribute_predictor()
    assert predictor.names == ATTRIBUTES
    with torch.no_grad():
        scores = score_attributes(predictor(items["image"]).sigmoid(), items["target"])
    common = items["target"].mean(0) > 0.2
    assert float(scores["roc_auc"][common].mean()) > 0.75


def test_the_table_names_both_decoders():
    rows = files.read_json(runtime.assets("results/pointing.json"))["rows"]
    assert [row[0] for row in pointing_table(rows).rows[1:]] == list(DECODERS)

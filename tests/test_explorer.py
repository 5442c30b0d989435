"""The explorer's data: what travels, is predicted, found and refused; figure and page, without a
browser.
"""

import io
import json
import re

import cv2
import numpy as np
import pytest
import torch
from explorer_model import small_clips, small_explorer, small_model
from PIL import Image
from torch import nn
from traitlets import TraitError

from course_lib.data import FaceDataset, hard_faces
from course_lib.explorer import (
    MEAN,
    OWN,
    AttentionExplorer,
    ImbalanceAwareAttentionExplorer,
    explorer_script,
    look,
    outline,
    pack_item,
    read_image,
    spaced,
    untrained_copy,
)
from course_lib.explorer.attributes import HELD
from course_lib.explorer.packing import as_labels
from course_lib.looking import energy, pointing_game
from course_lib.pictures import ExplorableFigure
from course_lib.training import course_attribute_predictor
from course_lib.world import ATTRIBUTES, CELEBA_RATES


@pytest.fixture(scope="module")
def explorer():
    return small_explorer()


class Photos(torch.utils.data.Dataset):
    """Images of which nothing is known; the third cannot be read."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2:
            raise OSError("disk on fire")
        return {"image": torch.full((3, 40, 40), index / 6)}


# ---------------------------------------------------------------- what travels


def test_every_weight_comes_back_within_the_stated_error(explorer):
    image = explorer.dataset[3]["image"]
    seen = look(explorer.model, image[None])
    with torch.no_grad():
        explorer.model(image[None], record=True)
    for layer, weights, shown in zip(
        explorer.model.decoder.layers, seen.weights.values(), explorer.weights(3), strict=True
    ):
        exact = layer.attention.last_attn_weights[0]
        torch.testing.assert_close(weights[0], exact)
        top = exact.amax(-1, keepdim=True).numpy()
        error = np.abs(shown - exact.numpy()) / top
        assert 0 < error.max() < 1 / 255
        assert (error < np.sqrt(exact.numpy() / top) / 255 + 1e-5).all()  # faint ones are closer


def test_the_regions_travel_as_shares_and_outlines(explorer):
    item, known = explorer.item(3), explorer.dataset[3]
    cover = np.frombuffer(item.planes, np.uint8)[-33 * 49 :].reshape(33, 7, 7) / 255
    regions = known["regions"] & known["target"].bool()[:, None, None]  # what is absent has none
    mean = regions.float().unflatten(1, (7, 8)).unflatten(3, (7, 8)).mean((2, 4)).numpy()
    assert np.abs(cover - mean).max() <= 1 / 255
    assert ((cover > 0) == (mean > 0)).all()
    empty = ~regions.flatten(1).any(1)
    assert [path == "" for path in item.header["outlines"]] == empty.tolist()
    assert item.header["truth"] == known["target"].int().tolist()


def test_a_token_that_a_region_barely_touches_counts_as_touched():
    regions = torch.zeros(2, 224, 224, dtype=torch.bool)
    regions[0, 33, 70] = True  # one of a token's 1024 pixels
    item = pack_item(
        torch.zeros(3, 224, 224), [torch.ones(1, 2, 49) / 49], torch.zeros(2), None, regions
    )
    cover = np.frombuffer(item.planes, np.uint8)[-2 * 49 :].reshape(2, 7, 7)
    assert np.argwhere(cover).tolist() == [[0, 1, 2]]
    assert cover.max() == 1


def test_an_outline_follows_the_border_of_its_region():
    mask = np.zeros((40, 40), np.uint8)
    mask[8:20, 10:30] = 1
    points = np.array(
        [[float(x), float(y)] for x, y in re.findall(r"([\d.]+) ([\d.]+)", outline(mask))]
    )
    assert np.abs(points.min(0) - (10, 8)).max() < 0.6
    assert np.abs(points.max(0) - (30, 20)).max() < 0.6
    drawn = cv2.fillPoly(np.zeros((40, 40), np.uint8), [points.round().astype(np.int32)], 1)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.85


def test_samples_are_computed_when_looked_at_and_the_cache_is_bounded(monkeypatch):
    explorer, read = small_explorer(n=HELD + 20), []

    class Counted:
        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            read.append(index)
            return FaceDataset(9)[index % 9]

    monkeypatch.setattr(explorer, "dataset", Counted())
    explorer.item(5)
    explorer.item(5)
    assert read == [5]
    for sample in range(HELD + 5):
        explorer.item(sample)
    assert len(explorer.held) == HELD
    assert (HELD + 4, 0) in explorer.held
    assert (0, 0) not in explorer.held


def test_the_model_keeps_its_mode_and_its_weights(explorer):
    before = {name: value.clone() for name, value in explorer.model.state_dict().items()}
    explorer.model.train()
    explorer.item(11)
    assert explorer.model.training
    for name, value in explorer.model.state_dict().items():
        assert torch.equal(value, before[name]), name


# ---------------------------------------------------------------- predictions, search, masks


def test_predictions_are_made_once_and_agree_with_single_samples(explorer, capsys):
    done = []
    predictions = explorer.predict(batch_size=7, told=done.append)
    assert done == [7, 14, 21, 24]
    assert explorer.predict() is predictions
    assert "predicting" in capsys.readouterr().err
    for sample in (0, 13):
        item, known = explorer.item(sample), explorer.dataset[sample]
        np.testing.assert_allclose(
            predictions.probabilities[sample], item.header["probabilities"], atol=1e-4
        )
        maps = look(explorer.model, known["image"][None]).weights
        expected = pointing_game(
            list(maps.values())[-1][0].mean(0).view(33, 7, 7),
            known["regions"] & known["target"].bool()[:, None, None],
        )
        torch.testing.assert_close(predictions.pointing[sample], expected, equal_nan=True)


def test_outcomes_are_the_four_fates(explorer):
    predictions, index = explorer.predict(), ATTRIBUTES.index("Smiling")
    threshold = float(predictions.probabilities[:, index].median())
    codes = predictions.outcomes(index, threshold)
    truth = predictions.truth[:, index].bool().numpy()
    predicted = (predictions.probabilities[:, index] >= threshold).numpy()
    assert set(codes & 7) == {1, 2, 3, 4}
    for code, present, found in (
        (1, True, True),
        (2, True, False),
        (3, False, True),
        (4, False, False),
    ):
        assert (((codes & 7) == code) == ((truth == present) & (predicted == found))).all()
    off = (predictions.pointing[:, index] < 0.5).numpy()
    # where it should look is a question for those who have it
    assert ((codes >= 8) == (off & truth)).all()
    assert predictions.pointing[:, index].isnan().numpy()[~truth].all()


def test_find_looks_for_what_is_there_and_what_is_not(explorer):
    targets = torch.stack([explorer.dataset[i]["target"] for i in range(24)]).bool()
    male, glasses = targets[:, ATTRIBUTES.index("Male")], targets[:, ATTRIBUTES.index("Smiling")]
    wanted = (male & ~glasses).nonzero().flatten().tolist()
    assert explorer.find("male -smiling") == wanted[0]
    assert explorer.find("male -smiling", wanted[0] + 1) == wanted[1]
    assert explorer.find("male -smiling", wanted[-1] + 1) == wanted[0]  # and round
    assert explorer.find("male -male") is None
    with pytest.raises(ValueError, match="no attribute has 'dog'"):
        explorer.find("dog")


class ByPatch(nn.Module):
    """Attends to each patch as much as it is bright; the only logit is the attention-weighted
    brightness.
    """

    def forward(self, images):
        light = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 8).flatten(2)  # batch 1 25
        self.weight = (light * 8)[:, None].softmax(-1)  # batch 1 1 25
        from course_lib.recorder import record

        return 10 * (record(self.weight) @ light[:, None].transpose(-1, -2)).flatten(1) - 5


def test_masking_what_is_attended_to_matters_more_than_masking_at_random():
    image = torch.zeros(3, 40, 40)
    image[:, 8:16, 24:32] = 1
    image[:, 32:, :8] = 0.9
    explorer = AttentionExplorer(ByPatch(), [{"image": image}], names=["light"])
    removal = explorer.remove(0, 0, 0, -1, 2)
    assert set(removal.patches) == {8, 20}
    assert removal.whole > 0.9
    assert removal.without < 0.1
    assert len(removal.random) == 16
    assert removal.random.mean() > 0.8
    assert explorer.remove(0, 0, 0, -1, 2).random.tolist() == removal.random.tolist()  # seeded


def test_find_knows_near_words(explorer):
    targets = torch.stack([explorer.dataset[i]["target"] for i in range(24)]).bool()
    for words, name, wanted in (
        ("woman", "Male", False),
        ("bearded", "No_Beard", False),
        ("-beard", "No_Beard", True),
        ("smile", "Smiling", True),
    ):
        having = (targets[:, ATTRIBUTES.index(name)] == wanted).nonzero().flatten().tolist()
        assert explorer.find(words) == having[0], words


# ---------------------------------------------------------------- what stands beside the trained maps


def test_the_clear_twin_is_the_same_person_without_damage():
    faces = FaceDataset(3, "test", difficulty="hard", size=56, images_per_person=2)
    for index in range(3):
        item, twin = faces[index], faces.clear_twin(index, 112)
        np.testing.assert_allclose(twin.pose, item["pose"], atol=1e-6)
        np.testing.assert_allclose(twin.expression, item["expression"], atol=1e-6)
        assert twin.image.shape == (112, 112, 3)
        small = np.stack([cv2.resize(r.astype(np.float32), (56, 56), interpolation=cv2.INTER_AREA)
                          for r in twin.regions]) > 0.5  # fmt: skip
        both = small & item["regions"].numpy()
        either = small | item["regions"].numpy()
        large = either.sum((1, 2)) > 40
        assert (both.sum((1, 2)) / either.sum((1, 2)).clip(1))[large].mean() > 0.7


def test_an_untrained_copy_shares_no_weight_and_the_same_shapes():
    model = small_model()
    fresh = untrained_copy(model)
    for (name, mine), other in zip(model.named_parameters(), fresh.parameters(), strict=True):
        constant = mine.std() == 0 if mine.numel() > 1 else True
        assert mine.shape == other.shape
        assert constant or not torch.equal(mine, other), name
    again = untrained_copy(model)
    assert all(map(torch.equal, fresh.parameters(), again.parameters()))  # seeded


def test_the_scores_before_the_softmax_give_the_weights(explorer):
    seen = look(explorer.model, explorer.read(4)["image"][None])
    assert list(seen.scores) == list(seen.weights)
    for name, scores in seen.scores.items():
        torch.testing.assert_close(scores.softmax(-1), seen.weights[name], atol=1e-5, rtol=1e-4)


def test_it_opens_on_something_rare_that_is_there_and_found():
    from course_lib.data import hard_faces
    from course_lib.training import course_attribute_predictor

    predictor = course_attribute_predictor()
    explorer = ImbalanceAwareAttentionExplorer(
        predictor,
        hard_faces("test", 120, regions=True),
        CELEBA_RATES,
        thresholds=predictor.thresholds,
    )
    view = explorer.first_view()
    index = explorer.names.index(view["attribute"])
    header, known = explorer.item(view["sample"]).header, explorer.read(view["sample"])
    assert explorer.frequencies[index] < 0.1
    assert header["truth"][index] == 1
    threshold = float(explorer.thresholds[index])
    assert header["probabilities"][index] > threshold + 0.4 * (1 - threshold)
    maps = look(predictor, known["image"][None]).maps()[0, index]
    assert pointing_game(maps, known["regions"][index]) > 0.5
    viewer = explorer.create_interactive_viewer()
    assert (viewer.sample, viewer.attribute) == (view["sample"], view["attribute"])
    smiling = explorer.create_interactive_viewer(attribute="Smiling")
    assert explorer.read(smiling.sample)["target"][explorer.names.index("Smiling")] == 1
    assert explorer.create_interactive_viewer(sample=3).sample == 3
    assert explorer.page(list(range(8))).count("found") > 0


def test_a_notebook_without_a_kernel_shows_a_still_and_a_sentence(explorer):
    from IPython.core.formatters import DisplayFormatter

    for viewer in (
        explorer.create_interactive_viewer(sample=2, attribute="Bangs"),
        small_clips(n=1).create_interactive_viewer(),
    ):
        data, _ = DisplayFormatter().format(viewer)  # what a cell that ends in it stores
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "<img" in data["text/html"]
        assert "data:image/" in data["text/html"]
        assert "object at 0x" not in data["text/plain"]
        assert data["text/plain"].endswith(".")
    shown = DisplayFormatter().format(
        explorer.create_interactive_viewer(sample=2, attribute="Bangs")
    )
    assert shown[0]["text/plain"].startswith("Sample 2. Bangs ")


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_show_each_state_and_leave_the_given_model_alone():
    model, faces = small_model(), FaceDataset(4, "test", size=56)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = {"start": small_model(seed=1).state_dict(), "end": small_model(seed=2)}
    explorer = AttentionExplorer(model, faces, checkpoints=states)
    for checkpoint, seed in ((0, 1), (1, 2), (0, 1)):
        expected = AttentionExplorer(small_model(seed=seed), faces).item(2).planes
        assert explorer.item(2, checkpoint).planes == expected
    assert explorer.item(2).planes == explorer.item(2, 1).planes  # the last is the default
    assert explorer.meta()["checkpoints"] == ["start", "end"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="expected 0 to 1"):
        explorer.item(2, 5)
    with pytest.raises(ValueError, match="'0' does not fit the model"):
        AttentionExplorer(model, faces, checkpoints=[small_model(heads=2).state_dict()])


# ---------------------------------------------------------------- what is refused


class Mute(nn.Module):
    def forward(self, images):
        return images.mean((2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AttentionExplorer(Mute(), FaceDataset(2)),
            "recorded no attention of its 3 attributes",
        ),
        (lambda: AttentionExplorer(small_model(), []), "is empty"),
        (
            lambda: AttentionExplorer(small_model(), FaceDataset(2), names=["a", "b"]),
            "there are 2 names",
        ),
        (
            lambda: AttentionExplorer(small_model(), FaceDataset(2), names=["a"] * 33),
            "1 different ones",
        ),
        (
            lambda: AttentionExplorer(small_model(), FaceDataset(2), thresholds=[0.5] * 3),
            "expected 33 values from 0 to 1",
        ),
        (lambda: AttentionExplorer(small_model(), FaceDataset(2), thresholds=1.5), "from 0 to 1"),
        (
            lambda: ImbalanceAwareAttentionExplorer(
                small_model(), FaceDataset(2), CELEBA_RATES * 100
            ),
            "from 0 to 1",
        ),
        (
            lambda: ImbalanceAwareAttentionExplorer(small_model(), FaceDataset(2), {"Bald": 0.02}),
            "frequencies lack",
        ),
        (
            lambda: AttentionExplorer(small_model(), [{"image": torch.zeros(1, 40, 40)}]),
            r"expected 3 height width",
        ),
        (lambda: AttentionExplorer(small_model(), FaceDataset(2)).read(-1), "no image of your own"),
        (
            lambda: AttentionExplorer(small_model(), FaceDataset(2)).figure(0, "Dog"),
            "no attribute is called 'Dog'",
        ),
        (lambda: AttentionExplorer(small_model(), FaceDataset(2)).figure(0, layer=4), "layer is 4"),
        (lambda: AttentionExplorer(small_model(), FaceDataset(2)).figure(0, head=3), "head is 3"),
        (lambda: AttentionExplorer(small_model(), FaceDataset(2)).page([]), "no sample was chosen"),
    ],
)
def test_bad_input_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert ";" in str(error.value) or ":" in str(error.value)


def test_a_sample_that_cannot_be_read_is_named_and_nothing_else_suffers():
    explorer = AttentionExplorer(small_model(), Photos())
    with pytest.raises(ValueError, match=r"sample 2 could not be loaded \(OSError: disk on fire\)"):
        explorer.item(2)
    assert explorer.item(3).header["truth"] is None
    assert explorer.item(3).header["outlines"] is None
    predictions = explorer.predict()
    assert list(predictions.failures) == [2]
    assert predictions.probabilities[2].isnan().all()
    assert not predictions.probabilities[3].isnan().any()
    assert set(predictions.outcomes(0, 0.5)) == {0}  # nothing is known
    assert "could not be loaded" in json.dumps(
        next(item for item in content_of(explorer.page(4))[0]["items"] if item["sample"] == 2)
    )


class AsPeopleHaveThem(FaceDataset):
    """The same faces: bytes, labels of 1 and -1, and the fourth of another size."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        image = (item["image"] * 255).round().to(torch.uint8)
        image = image[:, :40] if index == 3 else image
        return item | {"image": image, "target": self.target(index)}

    def target(self, index):
        return (2 * super().target(index) - 1).long()


def test_bytes_and_labels_of_minus_one_are_read_as_they_are_meant():
    ours, theirs = (
        AttentionExplorer(small_model(), kind(5, "test", size=56))
        for kind in (FaceDataset, AsPeopleHaveThem)
    )
    one, other = ours.item(1), theirs.item(1)
    assert set(other.header["truth"]) == {0, 1}
    assert one.header["truth"] == other.header["truth"]
    assert (
        np.abs(np.subtract(one.header["probabilities"], other.header["probabilities"])).max() < 0.01
    )
    assert ours.find("male -bald") == theirs.find("male -bald")
    predictions = theirs.predict()
    assert not predictions.failures
    assert ((predictions.truth == 0) | (predictions.truth == 1)).all()
    for sample in (1, 3):  # the third has another size
        of_one = torch.tensor(theirs.item(sample).header["probabilities"])
        torch.testing.assert_close(predictions.probabilities[sample], of_one, atol=1e-5, rtol=0)


def test_an_image_that_becomes_other_tokens_is_refused():
    class OfTwoSizes(FaceDataset):
        def __getitem__(self, index):
            return {"image": torch.rand(3, 48 + 16 * (index == 1), 48 + 16 * (index == 1))}

    class Grid(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.queries = nn.MultiheadAttention(3, 1, batch_first=True), 5

        def forward(self, images):
            tokens = nn.functional.avg_pool2d(images, 16).flatten(2).mT
            queries = tokens.mean(1, keepdim=True).expand(-1, self.queries, -1)
            return self.attend(queries, tokens, tokens)[0].mean(-1)

    explorer = AttentionExplorer(Grid(), OfTwoSizes(3), names=list("abcde"))
    assert explorer.item(2).header["size"] == [48, 48]
    with pytest.raises(ValueError, match="sample 1 becomes 16 tokens, and the first one 9; let"):
        explorer.item(1)


def test_labels_of_three_kinds_are_refused():
    with pytest.raises(ValueError, match="its target holds both -1 and 0; give 1 where present"):
        as_labels(torch.tensor([-1, 0, 1]))


def test_an_image_of_ones_own_is_cut_scaled_and_explored(explorer, tmp_path):
    picture = np.zeros((80, 200, 3), np.uint8)
    for kind, colour in (("PNG", (200, 30, 30)), ("JPEG", (30, 60, 200))):
        picture[:, 60:140] = colour
        Image.fromarray(picture).save(tmp_path / f"mine.{kind.lower()}", kind)
        explorer.show_image(tmp_path / f"mine.{kind.lower()}")
        assert explorer.own["image"].shape == (3, 56, 56)
        assert (explorer.own["image"].mean((1, 2)) - torch.tensor(colour) / 255).abs().max() < 0.02
        item = explorer.item(-1)
        expected = look(explorer.model, explorer.own["image"][None]).probabilities[0]
        np.testing.assert_allclose(item.header["probabilities"], expected, atol=1e-5)
        assert (item.header["truth"], item.header["outlines"]) == (None, None)


def encoded(picture, kind):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def test_an_image_of_ones_own_stands_upright():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 255
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    Image.fromarray(picture[::-1]).save(buffer, "PNG", exif=exif)
    assert torch.equal(
        read_image(buffer.getvalue(), (56, 56)), read_image(encoded(picture, "PNG"), (56, 56))
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "notes.png is no PNG or JPEG"),
        (encoded(np.zeros((64, 64, 3), np.uint8), "GIF"), "no PNG or JPEG"),
        (encoded(np.zeros((64, 64, 3), np.uint8), "PNG")[:60], "no PNG or JPEG"),
        (encoded(np.zeros((20, 90, 3), np.uint8), "PNG"), "has 90 × 20 px"),
        (b"0" * 20_000_001, "has 20 MB"),
    ],
)
def test_a_wrong_image_is_refused_in_a_sentence(content, message):
    with pytest.raises(ValueError, match=message):
        read_image(content, (56, 56), "notes.png")


# ---------------------------------------------------------------- the widget's state


@pytest.fixture(scope="module")
def viewer(explorer):
    return explorer.create_interactive_viewer()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"sample": 24}, "sample is 24, expected -1 to 23"),
        ({"sample": -2}, "sample is -2"),
        ({"layer": 2}, "layer is 2, expected 0 to 1"),
        ({"head": 3}, "head is 3, expected -1 to 2; layer 1 has 3 heads"),
        ({"attribute": "Dog"}, "no attribute is called 'Dog'"),
        ({"patch": 49}, "patch is 49, expected -1 to 48"),
        ({"mask": 50}, "mask is 50, expected 0 to 49 patches"),
        ({"covered": [49]}, "expected different patches from 0 to 48"),
        ({"covered": [3, 3]}, "expected different patches from 0 to 48"),
        ({"checkpoint": 1}, "checkpoint is 1"),
        ({"rarity": "scarce"}, "rarity"),
        ({"outcome": "odd"}, "outcome"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": 1.2}, "strength is 1.2, expected 0 to 1"),
        ({"maps": "fresh"}, "maps is 'fresh', expected one of trained, untrained, mean map"),
        ({"drawer": "top"}, "drawer is 'top', expected one of , details, weight, share"),
        ({"sample": "one"}, "sample"),
        ({"pinned": [{"sample": 1}]}, "cannot be pinned"),
        (
            {
                "pinned": [
                    {"sample": 1, "checkpoint": 0, "layer": 0, "head": 9, "attribute": "Bald"}
                ]
            },
            "cannot be pinned",
        ),
    ],
)
def test_an_impossible_state_is_a_trait_error(viewer, explorer, state, message):
    before = {name: getattr(viewer, name) for name in viewer.state_names()}
    with pytest.raises(TraitError, match=message):
        viewer.set_trait(*next(iter(state.items())))
    assert {name: getattr(viewer, name) for name in viewer.state_names()} == before
    with pytest.raises(TraitError):
        explorer.create_interactive_viewer(**state)


def test_a_misspelt_state_and_unknown_frequencies_are_refused(explorer):
    with pytest.raises(TraitError, match="has no state 'atribute'; it has"):
        explorer.create_interactive_viewer(atribute="Bald")
    plain = small_explorer(n=3, aware=False).create_interactive_viewer()
    assert plain.sort == "probability"
    for name, value in (("rarity", "rare"), ("sort", "rarity")):
        with pytest.raises(TraitError, match="frequencies are unknown"):
            plain.set_trait(name, value)


def test_own_image_needs_to_be_there_first():
    viewer = small_explorer(n=3).create_interactive_viewer()
    with pytest.raises(TraitError, match="call show_image"):
        viewer.sample = -1
    viewer.show_image(encoded(np.full((64, 64, 3), 90, np.uint8), "PNG"), "me.png")
    assert (viewer.sample, viewer.own) == (-1, "me.png")


def test_observers_and_links_hear_of_changes(viewer):
    heard = []
    viewer.observe(lambda change: heard.append((change["name"], change["new"])), ["head", "layer"])
    viewer.head = 2
    viewer.layer = 0
    assert heard == [("head", 2), ("layer", 0)]
    viewer.layer, viewer.head = 1, -1


# ---------------------------------------------------------------- the page, the figure, the script


def content_of(page):
    import base64
    import zlib

    content = {
        name: re.search(rf'id="{name}">(.*?)</script>', page, re.DOTALL)[1]
        for name in ("meta", "planes")
    }
    return json.loads(content["meta"]), zlib.decompress(base64.b64decode(content["planes"]))


def test_the_page_holds_what_the_samples_hold(explorer, tmp_path):
    path = explorer.to_html(tmp_path / "page.html", samples=[4, 7])
    meta, planes = content_of(path.read_text())
    held = [(item["sample"], item["checkpoint"]) for item in meta["items"]]
    assert held == [(4, 0), (4, "untrained"), (7, 0), (7, "untrained"), (MEAN, 0)]
    for item in meta["items"]:
        expected = explorer.item(item["sample"], item["checkpoint"]).planes
        assert planes[item["at"] : item["at"] + item["bytes"]] == expected
    assert (meta["kernel"], meta["count"]) == (False, 24)
    page = path.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "within 0.39 %" in page
    assert page.count("</script>") == 3


def test_a_page_is_made_of_a_view_that_stands_at_a_drawn_face():
    explorer = small_explorer(n=3)
    viewer = explorer.create_interactive_viewer(drawing={"attributes": ["Bald"]})
    meta, _ = content_of(explorer.page([viewer.sample, 0], sample=viewer.sample))
    assert {item["sample"] for item in meta["items"]} == {OWN, 0, MEAN}
    assert meta["state"]["sample"] == OWN


def test_sixteen_samples_and_the_courses_model_fit_in_four_megabytes():
    """With their clear twins, the untrained model's maps, what each weight arose from, and the model."""
    from course_lib.models import AttributeModel, PointingDecoder, TokenExtractor

    model = AttributeModel(TokenExtractor(), PointingDecoder())
    explorer = ImbalanceAwareAttentionExplorer(model, FaceDataset(32, "test"), CELEBA_RATES)
    assert len(explorer.page()) <= 4_000_000


def test_a_page_of_the_finer_model_stays_small():
    """Each map has four times as many weights, and eight samples still fit in three megabytes."""
    predictor = course_attribute_predictor(tokens=196)
    drawn = hard_faces("test", 8, size=112, regions=True)
    explorer = ImbalanceAwareAttentionExplorer(predictor, drawn, CELEBA_RATES)
    assert explorer.tokens == 196
    assert len(explorer.page(8)) <= 3_000_000


def test_the_still_part_names_what_it_shows(explorer):
    page = explorer.page(3)
    still = page[page.index('id="static"') : page.index('id="meta"')]
    assert "data:image/jpeg;base64" in still
    assert all(spaced(name) in still for name in ATTRIBUTES)
    assert f"sample 0, {spaced(explorer.surest(0))}" in still


def test_the_figure_shows_the_map_where_it_lies_and_says_its_scores(explorer):
    known = explorer.read(3)["regions"]
    index = int(known.flatten(1).any(1).nonzero()[0, 0])
    figure = explorer.figure(3, ATTRIBUTES[index], layer=0, head=1)
    assert isinstance(figure, ExplorableFigure)
    heat = figure.figure.data[1]
    weights = explorer.weights(3)[0][1, index]
    np.testing.assert_allclose(np.array(heat.z).ravel(), weights)
    assert (heat.x0, heat.dx) == (420 / 14 - 0.5, 60)  # over the clear twin
    known = known[index]
    share = float(energy(torch.from_numpy(weights).view(7, 7), known))
    said = re.search(
        r"([\d.]+) % of the attention on ([\d.]+) % of the image",
        figure.description,
    )
    assert float(said[1]) == pytest.approx(100 * share, abs=0.51)
    assert float(said[2]) == pytest.approx(100 * float(known.float().mean()), abs=0.51)
    assert "Layer 0, head 1" in figure.description
    assert f"{share / float(known.float().mean()):.1f} times chance" in figure.description
    bars = next(trace for trace in figure.figure.data if trace.type == "bar")
    assert (
        dict(zip(bars.y, bars.x, strict=True))[spaced(ATTRIBUTES[index])]
        == explorer.item(3).header["probabilities"][index]
    )
    assert list(bars.x) == sorted(bars.x)


def test_what_is_unknown_is_called_unknown():
    explorer = AttentionExplorer(small_model(), Photos())
    assert "the truth is unknown" in explorer.figure(0).description
    assert "<td>unknown</td>" in explorer.page(2)


def test_the_script_is_one_module():
    script = explorer_script()
    assert re.findall(r"^export .*", script, re.MULTILINE) == [
        "export default { render: renderExplorer };"
    ]
    assert "import " not in re.sub(r"/\*.*?\*/", "", script, flags=re.DOTALL).replace(
        "important", ""
    )
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")

"""The personality explorer's data: what it makes of a clip, what travels, what is refused; picture
and page.
"""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from explorer_model import Faces, Motions, small_clips, small_personality_model
from PIL import Image
from test_explorer import content_of
from traitlets import TraitError

from course_lib.data import ClipDataset
from course_lib.explorer import PersonalityExplorer, explorer_script, film, listen
from course_lib.explorer.base import percent
from course_lib.models import (
    CompletePersonalityModel,
    EndToEndPersonalityModel,
    attention_per_trait,
)
from course_lib.world import TRAITS


@pytest.fixture(scope="module")
def explorer():
    return small_clips()


class Recordings(torch.utils.data.Dataset):
    """Clips of which nothing is known, without frames; the second cannot be read, the third is
    longer.
    """

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            raise OSError("disk on fire")
        generator = torch.Generator().manual_seed(index)
        return {
            "face": torch.rand(3, 48, 48, generator=generator),
            "flow": torch.randn(40 if index == 2 else 32, 48, 48, 2, generator=generator),
        }


def test_a_clip_is_seen_as_the_model_sees_it():
    model, clip = (
        small_personality_model().train(),
        ClipDataset(2, "test", size=48, method="true")[1],
    )
    seen = listen(model, clip["face"], clip["flow"])
    assert model.training
    assert model.model.cross_attention.attention.record is False
    model.eval()
    tokens = model.static.tokens(clip["face"][None]), model.dynamic.tokens(clip["flow"][None])
    attention = model.model.cross_attention.attention
    attention.record = True
    torch.testing.assert_close(
        seen.traits, model(clip["face"][None], clip["flow"][None])[0].detach()
    )
    torch.testing.assert_close(seen.weights, attention.last_attn_weights[0])
    torch.testing.assert_close(seen.relevance, attention_per_trait(model.model, *tokens)[0])
    pooled = model.model.cross_attention.last_pooled_weights[0]
    torch.testing.assert_close(seen.shares(), pooled.mean(0))
    torch.testing.assert_close(seen.shares(head=1), pooled[1])
    torch.testing.assert_close(seen.shares(head=1, token=30), attention.last_attn_weights[0, 1, 30])


def test_shares_of_a_trait_are_its_size_over_time(explorer):
    _, seen = explorer.clip(2)
    for trait in TRAITS:
        size = seen.relevance[TRAITS.index(trait)].abs()
        np.testing.assert_allclose(seen.shares(trait), size.sum(0) / size.sum(), rtol=1e-5)
        np.testing.assert_allclose(seen.shares(trait, token=9), size[9] / size[9].sum(), rtol=1e-5)


def test_what_travels_is_exact(explorer):
    header, planes = explorer.item(3)
    _, seen = explorer.clip(3)
    values = np.frombuffer(planes, "<f4")
    np.testing.assert_array_equal(values[: 2 * 49 * 8].reshape(2, 49, 8), seen.weights)
    np.testing.assert_array_equal(values[2 * 49 * 8 :].reshape(5, 49, 8), seen.relevance)
    known = explorer.dataset[3]
    assert header["moment"] == known["moment"]
    np.testing.assert_allclose(header["truth"], known["traits"])
    np.testing.assert_allclose(header["traits"], seen.traits, rtol=1e-5)
    assert sum(header["importance"]) == pytest.approx(1, abs=1e-4)


def frame_of(described, index):
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(described["source"].split(",")[1]))))
    row, column = divmod(index, described["columns"])
    height, width = described["height"], described["width"]
    return sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]


def test_a_film_holds_its_frames_in_order(explorer):
    described, frames = explorer.item(0).header["frames"], explorer.dataset.clip(0).frames
    assert (described["width"], described["height"]) == (48, 48)
    for index in (0, 9, 31):
        errors = np.abs(frames.astype(float) - frame_of(described, index)).mean((1, 2, 3))
        assert errors.argmin() == index
        assert errors[index] < 8
    wide = film(np.linspace(0, 255, 5 * 300 * 400 * 3).reshape(5, 300, 400, 3).astype(np.uint8))
    assert (wide["width"], wide["height"]) == (128, 96)
    assert frame_of(wide, 4).mean() > frame_of(wide, 0).mean() + 150


def test_the_deciding_moment_is_told_in_time_steps():
    explorer = PersonalityExplorer(
        small_personality_model(), ClipDataset(3, size=48, moments=4, method="true")
    )
    assert explorer.steps == 4
    assert [explorer.moment(k) for k in range(3)] == [
        explorer.dataset[k]["moment"] for k in range(3)
    ]


def test_the_sentence_and_the_picture_say_the_same_numbers(explorer):
    said = explorer.describe(1, "Openness", token=10)
    _, seen = explorer.clip(1)
    shares, moment = seen.shares("Openness", token=10), explorer.moment(1)
    assert (
        f"predicted {seen.traits[0]:.2f}, in truth {explorer.dataset[1]['traits'][0]:.2f}" in said
    )
    assert "face patch 10 (row 1, column 3)" in said
    assert f"most at time step {shares.argmax()}, " in said
    step, share = re.search(r"decides is step (\d), with ([\d.]+) %", said).groups()
    assert int(step) == moment
    assert float(share) == pytest.approx(100 * float(shares[moment]), abs=0.51)
    picture = explorer.figure(1, token=10)
    assert f"Openness: moment {shares.argmax()} ({shares.max():.2f})" in picture.description
    assert f"The deciding moment is {moment}." in picture.description


def test_what_is_unknown_is_called_unknown_and_failures_are_named():
    explorer = PersonalityExplorer(small_personality_model(), Recordings())
    assert "truth unknown" in explorer.describe(0, "Openness")
    assert "which moment decides is unknown" in explorer.describe(0)
    header = explorer.item(0).header
    assert (header["frames"], header["moment"], header["truth"]) == (None, None, None)
    assert "decid" not in explorer.figure(0).description
    with pytest.raises(ValueError, match=r"clip 1 could not be loaded \(OSError: disk on fire\)"):
        explorer.item(1)
    with pytest.raises(
        ValueError, match="clip 2 has 49 face tokens and 10 time steps, expected 49 and 8"
    ):
        explorer.item(2)
    meta, _ = content_of(explorer.page(4))
    assert ["failed" in item for item in meta["items"]] == [False, True, True, False]


class Wide(Faces):
    def tokens(self, images):
        return super().tokens(images)[:, :48]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PersonalityExplorer(CompletePersonalityModel(), ClipDataset(2)),
            "attend from face tokens to motion",
        ),
        (
            lambda: PersonalityExplorer(
                EndToEndPersonalityModel(Faces(), Motions(), CompletePersonalityModel()),
                ClipDataset(2),
            ),
            "one key",
        ),
        (lambda: PersonalityExplorer(small_personality_model(), []), "is empty"),
        (
            lambda: PersonalityExplorer(
                EndToEndPersonalityModel(Wide(), Motions(), small_personality_model().model),
                ClipDataset(2, size=48, method="true"),
            ),
            "has 48 face tokens, expected a square",
        ),
        (
            lambda: PersonalityExplorer(
                small_personality_model(), [{"face": torch.zeros(3, 48, 48)}]
            ),
            "none of the first clips could be loaded; the last said: clip 0",
        ),
        (lambda: small_clips(1).figure(0, head=2), "head is 2, expected -1 to 1"),
        (lambda: small_clips(1).figure(0, token=49), "token is 49, expected -1 to 48"),
        (lambda: small_clips(1).page([]), "no clip was chosen"),
    ],
)
def test_bad_input_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"sample": 4}, "sample is 4, expected -1 to 3"),
        ({"sample": -1}, "there is none; call show_clip"),
        ({"speed": 3.0}, "speed is 3.0, expected one of 0.25, 0.5, 1, 2"),
        ({"step": 8}, "expected 0 to 7"),
        ({"token": 49}, "token is 49, expected -1 to 48; -1 is the whole face"),
        ({"head": 2}, "-1 is their mean"),
        ({"trait": "Wit"}, "trait is 'Wit', expected one of attention, Openness"),
        ({"playing": "yes"}, "playing"),
    ],
)
def test_an_impossible_state_is_a_trait_error(explorer, state, message):
    viewer = explorer.create_interactive_viewer()
    before = {name: getattr(viewer, name) for name in viewer.state_names()}
    with pytest.raises(TraitError, match=message):
        viewer.set_trait(*next(iter(state.items())))
    assert {name: getattr(viewer, name) for name in viewer.state_names()} == before
    with pytest.raises(TraitError):
        explorer.create_interactive_viewer(**state)
    with pytest.raises(TraitError, match="has no state 'trial'"):
        explorer.create_interactive_viewer(trial=1)


def test_the_page_holds_what_the_clips_hold(explorer, tmp_path):
    text = explorer.to_html(tmp_path / "page.html", samples=[3, 1]).read_text()
    meta, planes = content_of(text)
    assert [item["sample"] for item in meta["items"]] == [3, 1]
    for item in meta["items"]:
        assert (
            planes[item["at"] : item["at"] + item["bytes"]] == explorer.item(item["sample"]).planes
        )
    assert meta["state"] == {"sample": 3, "step": int(explorer.clip(3)[1].shares().argmax())}
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    still = text[text.index('id="static"') : text.index('id="meta"')]
    assert still.count("<figure") == 2
    assert "Attention over the 8 moments of the clip" in still
    assert text.count("</script>") == 3
    json.dumps(meta)


def test_the_script_is_one_module_without_another_view():
    script = explorer_script("clips.js")
    assert re.findall(r"^export .*", script, re.MULTILINE) == [
        "export default { render: renderClips };"
    ]
    assert "renderExplorer" not in script
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("share", "said"), [(1 / 8, "13 %"), (0.0625, "6.3 %"), (0.624, "62 %"), (0, "0.0 %")]
)
def test_a_share_is_rounded_as_in_a_page(share, said):
    assert percent(share) == said

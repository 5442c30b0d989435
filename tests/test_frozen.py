"""What is drawn and what the shipped weights answer stay as they are: shipped weights and stored
results depend on it.

    python tests/test_frozen.py           prints a hash of all of it, to the bit, on this machine
    python tests/test_frozen.py --write   takes what there is now for what should be
"""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from course_lib.data import ClipDataset, FaceDataset, PartDataset
from course_lib.models import (
    DynamicFeatureExtractor,
    PartPipeline,
    StaticFeatureExtractor,
    attribute_head,
    course_part_transformer,
    course_personality_model,
)
from course_lib.training import course_attribute_predictor, lesson_tokens, shipped_decoders

PATH = Path(__file__).with_suffix(".safetensors")


def stacked(items: list[dict], *keys: str) -> list[torch.Tensor]:
    return [torch.stack([torch.as_tensor(item[key]) for item in items]) for key in keys]


def small(images: torch.Tensor, side: int = 8) -> torch.Tensor:
    """The last two axes at `side` × `side`: enough to notice a change, little enough to keep."""
    return F.adaptive_avg_pool2d(images.float(), side)


@torch.no_grad()
def drawn_and_answered() -> dict[str, torch.Tensor]:
    """Fifty faces, twenty clips, and what every shipped weight makes of some of them."""
    found = {}
    faces = []
    for difficulty in ("clean", "easy", "medium", "hard"):
        dataset = FaceDataset(13, "test", difficulty=difficulty)
        faces += [dataset[index] for index in range(13)]
    images, targets, regions = stacked(faces[:50], "image", "target", "regions")
    found |= {"faces": small(images), "targets": targets, "regions": small(regions, 4)}

    clips = ClipDataset(20, "test")
    items = [clips[index] for index in range(20)]
    face, flow, traits, moment = stacked(items, "face", "flow", "traits", "moment")
    motion = small(flow[:, ::4].permute(0, 1, 4, 2, 3).flatten(0, 1)).unflatten(0, (20, -1))
    found |= {"clips": small(face), "flow": motion, "traits": traits, "moment": moment}

    static, dynamic = StaticFeatureExtractor().eval(), DynamicFeatureExtractor().eval()
    face_tokens, motion_tokens = static.tokens(face[:4]), dynamic.tokens(flow[:4])
    found |= {
        "static": face_tokens[:, ::7, ::32],
        "dynamic": motion_tokens[..., ::16],
        "head": attribute_head(static)(face_tokens.mean(1)),
        "personality": course_personality_model(static, dynamic)(face_tokens, motion_tokens),
        "lesson tokens": lesson_tokens("test")["motion_tokens"][:4],
    }

    little = F.interpolate(images[:8], (56, 56), mode="area")
    found["attributes"] = course_attribute_predictor()(little)
    fine = course_attribute_predictor(tokens=196)
    found["attributes: 14×14"] = fine(images[:8])
    found["maps: 14×14"] = fine.model.attention_maps(images[:8])[:, ::4]
    for name, model in shipped_decoders().items():
        found[f"maps: {name}"] = model.attention_maps(little)[:, ::4]
    parts = PartDataset(2, "test")
    (image,) = stacked([parts[index] for index in range(2)], "image")
    pair = torch.cat([image[0], image[1]], -1)
    found["parts"] = small(PartPipeline(course_part_transformer())(pair, 4).layers)
    return found


@pytest.fixture(scope="module")
def found():
    return drawn_and_answered()


@pytest.mark.parametrize("name", sorted(load_file(PATH)) if PATH.exists() else [])
def test_it_is_as_it_was(name, found):
    expected, now = load_file(PATH)[name].float(), found[name].float()
    scale = expected.abs().max().clamp(min=1)
    torch.testing.assert_close(now / scale, expected / scale, atol=0.005, rtol=0)


def test_all_of_it_is_kept(found):
    assert set(found) == set(load_file(PATH))


if __name__ == "__main__":
    now = drawn_and_answered()
    content = b"".join(now[name].contiguous().numpy().tobytes() for name in sorted(now))
    print(hashlib.sha256(content).hexdigest())
    if "--write" in sys.argv:
        save_file({name: tensor.half().contiguous() for name, tensor in now.items()}, PATH)
        print(f"{PATH.name}: {PATH.stat().st_size / 1e3:.0f} kB")

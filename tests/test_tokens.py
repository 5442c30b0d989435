"""Tokens: kept with the extractors that made them, taken up where a run was cut off, shuffled
within a clip only.
"""

import pytest
import torch
from torch import nn

from course_lib.data import ClipDataset
from course_lib.models import DynamicFeatureExtractor, StaticFeatureExtractor
from course_lib.training import TokenDataset, cache_tokens, stored_tokens, tokens


def test_shuffling_keeps_the_moments_of_a_clip_together():
    face, motion = torch.randn(6, 49, 3).half(), torch.randn(6, 8, 2).half()
    traits = torch.rand(6, 5)
    plain, shuffled = (
        TokenDataset(face, motion, traits=traits, shuffle=shuffle) for shuffle in (False, True)
    )
    torch.manual_seed(0)
    orders = set()
    for index in range(6):
        for given, expected in zip(
            plain[index], (face[index], motion[index], traits[index]), strict=True
        ):
            assert given.dtype == torch.float32
            assert torch.equal(given, expected.float())
        places, moments, target = shuffled[index]
        assert torch.equal(places, face[index].float())
        assert torch.equal(target, traits[index])
        order = (moments[:, None] == motion[index].float()).all(-1).float().argmax(1)
        assert sorted(order.tolist()) == list(range(8))
        orders.add(tuple(order.tolist()))
    assert len(orders) > 3
    torch.manual_seed(7)
    first = shuffled[0][1]
    torch.manual_seed(7)
    assert torch.equal(shuffled[0][1], first)


def test_pooled_features_are_left_as_they_are():
    motion = torch.randn(4, 1024)
    data = TokenDataset(motion, traits=torch.rand(4, 5), shuffle=True)
    assert all(torch.equal(data[index][0], motion[index]) for index in range(4))


class Fake:
    """An extractor that counts what it is asked for; its tokens tell which clip they are of."""

    def __init__(self, name):
        nn.Module.__init__(self)
        self.weight, self.hash, self.asked = nn.Parameter(torch.ones(1)), name, 0

    def tokens(self, images, chunk):
        self.asked += len(images)
        return images.flatten(1)[:, :2, None]


class FakeStatic(Fake, StaticFeatureExtractor):
    pass


class FakeDynamic(Fake, DynamicFeatureExtractor):
    pass


class FakeClips(ClipDataset):
    """Clip 3 is a face of threes."""

    def __getitem__(self, index):
        return {
            key: torch.full((2, 4), float(index)) for key in ("face", "flow", "traits", "region")
        }


@pytest.fixture
def extractors():
    return FakeStatic("one"), FakeDynamic("two")


def test_tokens_come_in_order_with_what_else_is_asked_for(extractors):
    kept = cache_tokens(FakeClips(5), *extractors, batch_size=2, workers=0, also=("region",))
    assert (
        kept["face_tokens"][:, 0, 0].tolist() == kept["region"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    )
    assert kept["motion_tokens"].dtype == torch.float16


def test_stored_tokens_are_computed_once_and_by_the_right_extractors(
    extractors, tmp_path, monkeypatch
):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    plain = tokens.cache_tokens
    monkeypatch.setattr(
        tokens, "cache_tokens", lambda *args, **options: plain(*args, workers=0, **options)
    )
    clips = FakeClips(5)
    first = stored_tokens(clips, *extractors, part=2)
    assert first["face_tokens"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert extractors[0].asked == 5
    (lost,) = (tmp_path / "tokens").glob("train_0_*_2_2.safetensors")
    lost.unlink()  # as if a kill had come before it
    again = stored_tokens(clips, *extractors, part=2)
    assert extractors[0].asked == 7
    assert torch.equal(again["motion_tokens"], first["motion_tokens"])
    stored_tokens(clips, *extractors, also=("region",), part=2)
    assert extractors[0].asked == 12  # regions were not kept before
    stored_tokens(clips, extractors[0], FakeDynamic("three"), part=2)
    assert extractors[0].asked == 17  # other extractors, other tokens

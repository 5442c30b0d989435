"""Stored tokens belong to what made them: a changed setting never meets another's part."""

import pytest
import torch
from torch import nn

from course_lib.data import ClipDataset
from course_lib.models import DynamicFeatureExtractor, StaticFeatureExtractor
from course_lib.training import stored_tokens, tokens

CLIPS = {"n": 3, "split": "train", "seed": 0, "size": 32, "moments": 2}


class Extractor:
    """Its tokens are the mean of each picture."""

    def __init__(self, name: str):
        nn.Module.__init__(self)
        self.weight, self.hash = nn.Parameter(torch.ones(1)), name

    def tokens(self, images: torch.Tensor, chunk: int) -> torch.Tensor:
        return images.flatten(1).mean(1)[:, None, None]


class Static(Extractor, StaticFeatureExtractor):
    pass


class Dynamic(Extractor, DynamicFeatureExtractor):
    pass


@pytest.fixture
def computed(tmp_path, monkeypatch):
    """The numbers of clips that were computed, not read."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    plain, computed = tokens.cache_tokens, []

    def counting(clips, *arguments, **options):
        computed.append(len(clips))
        return plain(clips, *arguments, workers=0, **options)

    monkeypatch.setattr(tokens, "cache_tokens", counting)
    return computed


@pytest.mark.parametrize(
    "other",
    [
        {"split": "test"},
        {"seed": 1},
        {"size": 40},
        {"moments": 3},
        {"method": "farneback"},
        {"method": "true"},
        {"clips_per_speaker": 2},
    ],
)
def test_other_clips_get_their_own_tokens(computed, other):
    extractors = Static("a"), Dynamic("b")
    first = stored_tokens(ClipDataset(**CLIPS), *extractors)
    changed = stored_tokens(ClipDataset(**CLIPS | other), *extractors)
    assert computed == [3, 3]
    assert not torch.equal(first["motion_tokens"], changed["motion_tokens"]) or not torch.equal(
        first["traits"], changed["traits"]
    )
    for options, expected in ((CLIPS, first), (CLIPS | other, changed)):
        again = stored_tokens(ClipDataset(**options), *extractors)
        assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert computed == [3, 3]


def test_other_drawing_code_or_extractors_are_other_tokens(computed, monkeypatch):
    clips = ClipDataset(**CLIPS)
    stored_tokens(clips, Static("a"), Dynamic("b"))
    stored_tokens(clips, Static("c"), Dynamic("b"))
    stored_tokens(clips, Static("a"), Dynamic("c"))
    monkeypatch.setattr(tokens, "_drawing_code", lambda: "changed")
    stored_tokens(clips, Static("a"), Dynamic("b"))
    assert computed == [3] * 4


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: b"", bytes.upper]
)
def test_a_damaged_part_is_said_and_made_again(computed, tmp_path, capsys, damage):
    clips, extractors = ClipDataset(**CLIPS), (Static("a"), Dynamic("b"))
    first = stored_tokens(clips, *extractors, part=2)
    path = sorted((tmp_path / "tokens").iterdir())[0]
    content = path.read_bytes()
    path.write_bytes(damage(content))
    capsys.readouterr()
    again = stored_tokens(clips, *extractors, part=2)
    assert computed == [2, 1, 2]
    assert "are damaged; they are computed again" in capsys.readouterr().out
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert path.read_bytes() == content

"""Attention weights as a model's own arithmetic gives them."""

import pytest
import torch

from course_lib.analysis import get_attention_weights
from course_lib.models.attention import CrossAttention, TokenCrossAttention


@pytest.mark.parametrize("keys", [5, 11])
def test_weights_are_a_distribution_and_nothing_stays_behind(keys):
    torch.manual_seed(0)
    module = TokenCrossAttention(10, 6, 16, 4).eval()
    face, motion = torch.randn(3, 7, 10), torch.randn(3, keys, 6)
    before = module(face, motion)
    weights = get_attention_weights(module, face, motion)
    assert weights.shape == (3, 4, 7, keys)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, 7), atol=1e-6)
    assert weights.std() > 1e-3
    assert torch.equal(module(face, motion), before)
    assert module.attention.last_attn_weights is None
    assert not module.attention.record


def test_one_key_leaves_no_choice():
    weights = get_attention_weights(CrossAttention(12, 8, 16, 4), torch.randn(3, 12), torch.randn(3, 8))
    assert torch.equal(weights, torch.ones(3, 4, 1, 1))


def test_a_failing_forward_leaves_the_module_as_it_was():
    module = TokenCrossAttention(10, 6, 16, 4)
    with pytest.raises(ValueError, match="motion_tokens is 5 wide"):
        get_attention_weights(module, torch.randn(3, 7, 10), torch.randn(3, 4, 5))
    assert not module.attention.record

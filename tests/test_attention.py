"""Attention from first principles against PyTorch's own, the one-key trap, and its cure."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from course_lib.models import (
    AttributeDecoder,
    CrossAttention,
    PartTransformer,
    TokenCrossAttention,
    VisualizableCrossAttention,
    attend,
    time_positions,
)

sizes = st.integers(1, 7)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_mask(*shape):
    mask = torch.rand(*shape) > 0.4
    mask[..., 0] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes, sizes, st.booleans(), st.integers(0, 9))
def test_attend_equals_the_fused_kernel(batch, queries, keys, dim, value_dim, masked, seed):
    torch.manual_seed(seed)
    q = torch.randn(batch, queries, dim)
    k = torch.randn(batch, keys, dim)
    v = torch.randn(batch, keys, value_dim)
    mask = random_mask(batch, queries, keys) if masked else None
    heard, weights = attend(q, k, v, mask)
    assert_close(heard, F.scaled_dot_product_attention(q, k, v, mask), atol=1e-6, rtol=1e-5)
    assert_close(weights.sum(-1), torch.ones(batch, queries))
    assert_close(heard, weights @ v)
    if masked:
        assert (weights[~mask] == 0).all()


def test_attend_by_hand():
    """Two keys whose scores differ by ln 3 share the attention 3 : 1."""
    q = torch.tensor([[1.0]])
    k = torch.tensor([[3.0], [1.0]]).log()
    v = torch.tensor([[8.0], [4.0]])
    heard, weights = attend(q, k, v)
    assert_close(weights, torch.tensor([[0.75, 0.25]]))
    assert_close(heard, torch.tensor([[7.0]]))


def test_attend_takes_any_leading_axes_and_broadcasts_the_mask():
    q, k, v = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 7, 6), torch.randn(2, 3, 4, 7, 8)
    mask = random_mask(5, 7)
    assert_close(attend(q, k, v, mask)[0], F.scaled_dot_product_attention(q, k, v, mask))


def test_a_query_that_may_look_nowhere_hears_nothing():
    q, k, v = (torch.randn(1, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True, True, True], [False, False, False], [True, False, True]])
    heard, weights = attend(q, k, v, mask)
    assert (weights[0, 1] == 0).all()
    assert (heard[0, 1] == 0).all()
    heard.sum().backward()
    assert q.grad.isfinite().all()
    assert k.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_at_least_float32(dtype):
    q, k, v = (torch.randn(2, 3, 8).to(dtype) for _ in range(3))
    heard, weights = attend(q, k, v)
    assert heard.dtype == dtype
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    reference = (q.double() @ k.double().mT / 8**0.5).softmax(-1)
    assert_close(weights.double(), reference, atol=1e-6, rtol=1e-5)


def test_autocast_does_not_blur_the_weights():
    q, k, v = (torch.randn(2, 3, 8) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        blurred = attend(q, k, v)[1]
    assert torch.equal(blurred, attend(q, k, v)[1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_multihead_attention(bias, masked):
    """Queries 32 wide, keys 20, values 12; PyTorch's mask is True where looking is forbidden."""
    ours = VisualizableCrossAttention(32, 20, 12, heads=4, bias=bias)
    theirs = nn.MultiheadAttention(32, 4, bias=bias, kdim=20, vdim=12, batch_first=True)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.to_query.weight)
        theirs.k_proj_weight.copy_(ours.to_key.weight)
        theirs.v_proj_weight.copy_(ours.to_value.weight)
        theirs.out_proj.weight.copy_(ours.to_output.weight)
        if bias:
            theirs.in_proj_bias.copy_(
                torch.cat([ours.to_query.bias, ours.to_key.bias, ours.to_value.bias])
            )
            theirs.out_proj.bias.copy_(ours.to_output.bias)
    query, key, value = torch.randn(2, 5, 32), torch.randn(2, 7, 20), torch.randn(2, 7, 12)
    mask = random_mask(5, 7) if masked else None
    heard = ours(query, key, value, None if mask is None else mask[None], record=True)
    expected, weights = theirs(
        query, key, value, attn_mask=None if mask is None else ~mask, average_attn_weights=False
    )
    assert_close(heard, expected, atol=1e-6, rtol=0)
    assert_close(ours.last_attn_weights, weights, atol=1e-6, rtol=0)


def test_looking_changes_nothing_and_leaves_no_graph():
    attention = VisualizableCrossAttention(16, 16, 16, record=False)
    assert not any("bias" in name for name, _ in attention.named_parameters())
    query, key = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    unseen = attention(query, key, key)
    assert attention.last_attn_weights is None
    attention.record = True
    assert torch.equal(attention(query, key, key), unseen)
    assert attention.last_attn_weights.shape == (2, 8, 3, 5)
    assert not attention.last_attn_weights.requires_grad
    attention(query, key, key, record=False)
    assert attention.last_attn_weights is None


def test_only_layers_that_are_called_plainly_show_their_weights():
    """A model that trains pays for no weights that nobody asked for."""
    models = (
        CrossAttention(),
        TokenCrossAttention(8, 8, 16),
        AttributeDecoder(16, 3),
        PartTransformer(32, 2, 16),
    )
    for model in models:
        for module in model.modules():
            assert not getattr(module, "record", False)
    layer = VisualizableCrossAttention(16, 12, 10, heads=2)
    layer(torch.randn(2, 3, 16), torch.randn(2, 1, 12), torch.randn(2, 1, 10))  # one key
    assert torch.equal(layer.last_attn_weights, torch.ones(2, 2, 3, 1))


def test_mixed_precision_keeps_exact_weights():
    attention = VisualizableCrossAttention(16, 16, 16, heads=2)
    query, key = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        heard = attention(query, key, key)
        q, k = attention.to_query(query), attention.to_key(key)
    assert heard.dtype == torch.bfloat16
    q, k = (x.float().unflatten(-1, (2, 8)).transpose(1, 2) for x in (q, k))
    assert_close(attention.last_attn_weights, (q @ k.mT / 8**0.5).softmax(-1))


def test_one_key_is_a_trap():
    """All weights are 1, queries and keys get no gradient, and the keys' content is never compared."""
    fusion = CrossAttention()
    fusion.attention.record = True
    static, dynamic = torch.randn(6, 512), torch.randn(6, 256)
    fused = fusion(static, dynamic)
    assert fused.shape == (6, 128)
    assert (fusion.attention.last_attn_weights == 1).all()
    (fused * torch.randn(6, 128)).sum().backward()
    assert (fusion.attention.to_query.weight.grad == 0).all()
    assert (fusion.attention.to_key.weight.grad == 0).all()
    assert fusion.attention.to_value.weight.grad.abs().max() > 1e-3


def test_tokens_are_the_cure():
    fusion = TokenCrossAttention(24, 12, dim=16, heads=2)
    fusion.attention.record = True
    face, motion = torch.randn(3, 49, 24), torch.randn(3, 8, 12)
    pooled = fusion(face, motion)
    assert pooled.shape == (3, 16)
    assert fusion.attention.last_attn_weights.shape == (3, 2, 49, 8)
    assert fusion.attention.last_attn_weights.std(-1).min() > 1e-4
    (pooled * torch.randn(3, 16)).sum().backward()
    assert fusion.attention.to_query.weight.grad.abs().max() > 1e-6
    assert fusion.attention.to_key.weight.grad.abs().max() > 1e-6


def test_pooled_weights_are_the_importance_average():
    fusion = TokenCrossAttention(24, 12, dim=16, heads=2)
    face, motion = torch.randn(3, 5, 24), torch.randn(3, 8, 12)
    fusion(face, motion)
    assert fusion.last_pooled_weights is None
    fusion.attention.record = True
    fusion(face, motion)
    assert_close(fusion.last_importance.sum(1), torch.ones(3))
    expected = (fusion.last_importance[:, None, :, None] * fusion.attention.last_attn_weights).sum(
        2
    )
    assert_close(fusion.last_pooled_weights, expected)
    assert_close(fusion.last_pooled_weights.sum(-1), torch.ones(3, 2))


def test_tokens_know_their_time_but_not_their_batch_neighbours():
    fusion = TokenCrossAttention(24, 12, dim=16, heads=2).eval()
    face, motion = torch.randn(3, 49, 24), torch.randn(3, 8, 12)
    assert not torch.allclose(fusion(face, motion.flip(1)), fusion(face, motion), atol=1e-4)
    assert_close(fusion(face[:1], motion[:1]), fusion(face, motion)[:1])
    shuffled = torch.randperm(49)  # places carry no position of their own
    assert_close(fusion(face[:, shuffled], motion), fusion(face, motion))


def test_masked_moments_are_never_heard():
    fusion = TokenCrossAttention(24, 12, dim=16, heads=2)
    face, motion = torch.randn(3, 49, 24), torch.randn(3, 8, 12)
    mask = torch.ones(3, 1, 8, dtype=torch.bool)
    mask[1, :, 5:] = False
    changed = motion.clone()
    changed[1, 5:] = 100.0
    assert torch.equal(fusion(face, motion, mask), fusion(face, changed, mask))
    assert not torch.allclose(fusion(face, motion), fusion(face, changed))


@given(st.integers(1, 200), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_positions_differ_and_exist_for_any_number_of_keys(keys, dim):
    positions = time_positions(keys, dim)
    assert positions.shape == (keys, dim)
    assert positions.abs().max() <= 1
    if dim >= 4 and keys > 1:
        assert (torch.cdist(positions, positions) + torch.eye(keys)).min() > 1e-3

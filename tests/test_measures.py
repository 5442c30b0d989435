"""Attention weights and attention × gradient against a literal reimplementation that autograd can see."""

import torch
from einops import rearrange

from course_lib.analysis.measures import attention_per_trait, attention_weights
from course_lib.models.attention import attend, time_positions
from course_lib.models.personality import TokenPersonalityModel


def build():
    torch.manual_seed(0)
    model = TokenPersonalityModel(static_dim=10, dynamic_dim=6, fusion_dim=16, num_heads=4).eval()
    return model, torch.randn(3, 7, 10), torch.randn(3, 5, 6)


def test_weights_are_a_distribution_and_nothing_stays_behind():
    model, face, motion = build()
    weights = attention_weights(model, face, motion)
    assert weights.shape == (3, 4, 7, 5)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, 7), atol=1e-6)
    assert model.cross_attention.attention.last_attn_weights is None
    assert not model.cross_attention.attention.record


def test_the_gradient_of_the_weights_is_the_true_one():
    """Replace the fused kernel by weights that autograd sees; differentiate each trait by them."""
    model, face, motion = build()
    attention, leaf = model.cross_attention.attention, {}

    def explicit(query, key, value, mask=None, record=None):
        q, k, v = (rearrange(project(x), "b t (h d) -> b h t d", h=4) for project, x in
                   ((attention.to_query, query), (attention.to_key, key), (attention.to_value, value)))
        leaf["weights"] = attend(q, k, v)[1].detach().requires_grad_()
        return attention.to_output(rearrange(leaf["weights"] @ v, "b h t d -> b t (h d)"))

    maps = attention_per_trait(model, face, motion)
    attention.forward = explicit
    traits = model(face, motion)
    for trait in range(5):
        gradient = torch.autograd.grad(traits[:, trait].sum(), leaf["weights"], retain_graph=True)[0]
        assert torch.allclose(maps[:, trait], (leaf["weights"] * gradient).sum(1), atol=1e-6)
    assert maps.abs().max() > 1e-4


def test_moments_at_other_times_keep_their_content():
    """Positions exist for any number of keys, so a longer clip is no error."""
    model, face, _ = build()
    assert attention_weights(model, face, torch.randn(3, 11, 6)).shape[-1] == 11
    assert time_positions(11, 16).shape == (11, 16)

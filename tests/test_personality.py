"""The two complete models: counts, a batch of one, attention per trait, and what only tokens can
learn.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from course_lib.models import (
    CompletePersonalityModel,
    DynamicFeatureExtractor,
    EndToEndPersonalityModel,
    FeatureFusionModule,
    PersonalityPredictionHead,
    StaticFeatureExtractor,
    TokenPersonalityModel,
    attend,
    attention_per_trait,
    course_personality_model,
)
from course_lib.training import concordance


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_every_layer_has_the_count_worked_out_by_hand():
    """Floating-point values in the order of the data; each linear layer is (inputs + 1) × outputs."""
    model = CompletePersonalityModel()
    assert sum(parameter.numel() for parameter in model.parameters()) == 371_461
    counts = {
        name: sum(
            value.numel() for value in layer.state_dict().values() if value.is_floating_point()
        )
        for name, layer in model.named_modules()
        if not list(layer.children())
    }
    assert sum(counts.values()) == 371_717
    assert {name: count for name, count in counts.items() if count} == {
        "cross_attention.project_static": 65_664,
        "cross_attention.project_dynamic": 32_896,
        "cross_attention.attention.to_query": 66_048,
        "cross_attention.attention.to_key": 66_048,
        "cross_attention.attention.to_value": 66_048,
        "cross_attention.attention.to_output": 65_664,
        "cross_attention.norm": 256,
        "fusion.norm": 512,
        "head.layers.0": 8_256,
        "head.layers.2": 325,
    }


def test_the_shipped_weights_fit_the_model_and_only_their_own_extractors():
    static, dynamic = StaticFeatureExtractor(), DynamicFeatureExtractor()
    model = course_personality_model(static, dynamic)
    assert not model.training
    assert model.fusion.norm.running_mean.abs().sum() > 0  # trained, not fresh
    with torch.no_grad():
        traits = model(torch.rand(3, 49, 2048), torch.rand(3, 8, 1024))
    assert traits.shape == (3, 5)


def test_both_models_predict_five_traits():
    complete, tokens = CompletePersonalityModel(), TokenPersonalityModel()
    assert complete(torch.randn(4, 512), torch.randn(4, 256)).shape == (4, 5)
    assert tokens(torch.randn(4, 49, 2048), torch.randn(4, 8, 1024)).shape == (4, 5)
    for model in (complete, tokens):
        assert [name for name, _ in model.named_children()] == ["cross_attention", "fusion", "head"]


@pytest.mark.parametrize("frames", [1, 3, 16])
def test_any_number_of_moments(frames):
    model = TokenPersonalityModel(static_dim=10, dynamic_dim=6, fusion_dim=8, num_heads=2).eval()
    assert model(torch.randn(2, 7, 10), torch.randn(2, frames, 6)).shape == (2, 5)


def test_fusion_normalises_and_drops_in_training_only():
    fusion = FeatureFusionModule(64)
    vectors = torch.randn(500, 64) * 3 + 2
    fused = fusion(vectors)
    assert 0.25 < (fused == 0).float().mean() < 0.35
    kept = fused[fused != 0] * 0.7  # dropout scales what it keeps
    assert abs(kept.mean()) < 0.05
    assert abs(kept.std() - 1) < 0.05
    assert torch.equal(fusion.eval()(vectors), fusion(vectors))


def test_a_batch_of_one_is_predicted():
    model = CompletePersonalityModel()
    assert model.eval()(torch.randn(1, 512), torch.randn(1, 256)).shape == (1, 5)


def test_one_key_attention_is_one_linear_layer_on_both_vectors():
    """Lesson 06 folds it: two vectors side by side, one matrix, the same output before the norm."""
    block = CompletePersonalityModel(20, 12, fusion_dim=16, num_heads=3).cross_attention.double()
    inputs = torch.randn(50, 20).double(), torch.randn(50, 12).double()
    before = {}
    block.norm.register_forward_pre_hook(lambda _, given: before.update(norm=given[0].squeeze(1)))
    with torch.no_grad():
        block(*inputs)
        glued = torch.cat([*inputs, torch.ones(50, 1).double()], dim=1)
        fitted = glued @ torch.linalg.lstsq(glued, before["norm"]).solution
    assert_close(fitted, before["norm"])


@pytest.mark.parametrize(
    "model",
    [
        TokenPersonalityModel(fusion_dim=16, num_heads=2),
        CompletePersonalityModel(2048, 1024, fusion_dim=16, num_heads=2),
    ],
)
def test_end_to_end_is_the_extractors_and_then_the_model(model):
    static, dynamic = StaticFeatureExtractor(weights=None), DynamicFeatureExtractor(weights=None)
    whole = EndToEndPersonalityModel(static, dynamic, model).eval()
    face, flow = torch.rand(2, 3, 112, 112), torch.randn(2, 4, 32, 32, 2)
    with torch.no_grad():
        if model.reads_tokens:
            expected = model(static.tokens(face), dynamic.tokens(flow))
        else:
            expected = model(static(face), dynamic(flow))
        assert_close(whole(face, flow), expected)


def test_end_to_end_learns_from_the_pixels():
    whole = EndToEndPersonalityModel(
        StaticFeatureExtractor(weights=None),
        DynamicFeatureExtractor(weights=None),
        TokenPersonalityModel(fusion_dim=16, num_heads=2),
    )
    whole(torch.rand(2, 3, 112, 112), torch.randn(2, 4, 32, 32, 2)).square().sum().backward()
    assert whole.static.backbone.conv1.weight.grad.any()
    assert whole.dynamic.backbone.conv1.conv.weight.grad.any()


def test_example_inputs_have_the_shapes_of_the_contracts():
    complete = CompletePersonalityModel(30, 20, 16, 2)
    tokens = TokenPersonalityModel(30, 20, 16, 2).double()
    assert [x.shape for x in complete.example_inputs(3)] == [(3, 30), (3, 20)]
    assert [(x.shape, x.dtype) for x in tokens.example_inputs(3)] == [
        ((3, 49, 30), torch.float64),
        ((3, 8, 20), torch.float64),
    ]
    whole = EndToEndPersonalityModel(
        StaticFeatureExtractor(weights=None), DynamicFeatureExtractor(weights=None), tokens
    )
    assert [x.shape for x in whole.example_inputs(2)] == [(2, 3, 112, 112), (2, 32, 112, 112, 2)]


def test_head_is_linear_at_the_end():
    head = PersonalityPredictionHead(128)
    assert isinstance(list(head.modules())[-1], nn.Linear)
    assert head(torch.randn(100, 128) * 100).abs().max() > 1


def test_attention_per_trait_is_the_gradient_of_hand_written_attention():
    """The same model with its fused kernel replaced by `attend`, whose weights autograd can see."""
    model = TokenPersonalityModel(static_dim=10, dynamic_dim=6, fusion_dim=16, num_heads=2).eval()
    face, motion = torch.randn(3, 7, 10), torch.randn(3, 4, 6)
    maps = attention_per_trait(model, face, motion)
    assert maps.shape == (3, 5, 7, 4)
    assert model.cross_attention.attention.record is False
    assert not model.cross_attention.attention.to_value._forward_hooks

    seen = {}

    def visible(q, k, v, attn_mask=None):
        seen["weights"] = attend(q, k, v)[1]
        return seen["weights"] @ v

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", visible)
        traits = model(face, motion)
    for trait in range(5):
        (gradient,) = torch.autograd.grad(
            traits[:, trait].sum(), seen["weights"], retain_graph=True
        )
        expected = (seen["weights"] * gradient).mean(1)
        assert_close(maps[:, trait], expected, atol=1e-7, rtol=1e-4)


def test_attention_per_trait_works_frozen_without_gradients_and_leaves_the_mode():
    model = TokenPersonalityModel(
        static_dim=10, dynamic_dim=6, fusion_dim=16, num_heads=2
    ).requires_grad_(False)
    face, motion = torch.randn(3, 7, 10), torch.randn(3, 4, 6)
    with torch.no_grad():
        in_training = attention_per_trait(model.train(), face, motion)
        assert in_training.abs().max() > 0
        assert model.training
        assert_close(in_training, attention_per_trait(model.eval(), face, motion))


def drawn_world(count, seed):
    """A cue at two of eight places says which of eight moments to read five sizes from."""
    generator = torch.Generator().manual_seed(seed)
    clips = torch.arange(count)
    cue = torch.randint(4, (count,), generator=generator)
    moment = torch.randint(8, (count,), generator=generator)
    direction = (cue[:, None] + torch.randint(1, 4, (count, 8), generator=generator)) % 4
    direction[clips, moment] = cue
    sizes = torch.rand(count, 8, 5, generator=generator)
    face = 0.3 * torch.randn(count, 8, 12, generator=generator)
    face[:, 5:7, :4] += 2 * F.one_hot(cue, 4)[:, None]
    motion = torch.cat([2.0 * F.one_hot(direction, 4), 3.4 * (sizes - 0.5)], dim=-1)
    return (
        face,
        motion + 0.1 * torch.randn(motion.shape, generator=generator),
        sizes[clips, moment],
        moment,
    )


def trained(model, inputs, traits, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(traits), (64,), generator=generator)
        loss = F.mse_loss(model(*(tensor[batch] for tensor in inputs)), traits[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def test_tokens_learn_to_bind_what_averages_cannot():
    face, motion, traits, _ = drawn_world(2000, seed=1)
    unseen_face, unseen_motion, unseen_traits, moment = drawn_world(500, seed=2)
    tokens = trained(TokenPersonalityModel(12, 9, fusion_dim=32), (face, motion), traits, steps=350)
    averages = trained(
        CompletePersonalityModel(12, 9, fusion_dim=32),
        (face.mean(1), motion.mean(1)),
        traits,
        steps=350,
    )
    tokens.cross_attention.attention.record = True
    with torch.no_grad():
        bound = concordance(tokens(unseen_face, unseen_motion), unseen_traits)
        averaged = concordance(averages(unseen_face.mean(1), unseen_motion.mean(1)), unseen_traits)
    assert bound.mean() > 0.85
    assert averaged.mean() < 0.5
    heard = tokens.cross_attention.last_pooled_weights.mean(1)
    assert (heard.argmax(-1) == moment).float().mean() > 0.9
    assert tokens.cross_attention.last_importance[:, 5:7].sum(1).mean() > 0.5

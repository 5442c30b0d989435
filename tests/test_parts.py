"""The part transformer: who hears whom, how noise becomes layers, and what the pipeline promises."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from torch.testing import assert_close

from course_lib import files, runtime
from course_lib.data import PartDataset
from course_lib.looking import layer_iou
from course_lib.models import (
    AdaptiveNorm,
    PartBlock,
    PartPipeline,
    PartTransformer,
    VisualizableCrossAttention,
    course_part_transformer,
    euler_step,
    part_attention,
    wave_positions,
)
from course_lib.recorder import (
    AttentionRecorder,
    visualize_during_inference,
)
from course_lib.training import part_loss
from course_lib.world.layers import PARTS

pytestmark = pytest.mark.filterwarnings("ignore:image . shows no face")


@pytest.fixture
def model():
    """A small one whose blocks do something: at first the time changes nothing."""
    model = PartTransformer(size=32, grid=2, dim=32, blocks=4, heads=2)
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def pipeline(model):
    return PartPipeline(model)


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# ---- the blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
def test_only_global_blocks_mix_parts(local):
    block = PartBlock(dim=32, heads=2, time_dim=8, tokens=4, local=local)
    x = torch.randn(2, 12, 32)
    place = torch.randn(12, 32)
    image = torch.randn(2, 5, 32)
    time = torch.randn(2, 8)
    other = x.clone()
    other[:, 4:8] += 1 * torch.randn(2, 4, 32)  # the second part of three
    before, after = (block(tokens, place, image, image, time) for tokens in (x, other))
    moved = (after - before).abs().amax((0, 2))
    assert (moved[4:8] > 1e-3).all()
    assert bool((moved[[0, 1, 2, 3, 8, 9, 10, 11]] == 0).all()) is local
    one = x.clone()
    one[:, 4] += torch.randn(2, 32)  # a token's own part always hears it
    heard = (block(one, place, image, image, time) - before).abs().amax((0, 2))
    assert (heard[4:8] > 1e-4).all()


def test_blocks_are_local_and_global_in_turn(model):
    assert [block.local for block in model.blocks] == [True, False, True, False]


def test_every_block_sees_the_image():
    block = PartBlock(dim=32, heads=2, time_dim=8, tokens=4, local=True)
    x, place, time = torch.randn(1, 12, 32), torch.randn(12, 32), torch.randn(1, 8)
    image = torch.randn(1, 5, 32)
    brighter = image.clone()
    brighter[:, 2] += 1
    moved = block(x, place, brighter, brighter, time) - block(x, place, image, image, time)
    assert (moved.abs().amax(2) > 1e-4).all()


def test_adaptive_norm_begins_as_a_layer_norm_and_learns_the_time():
    norm, x, time = AdaptiveNorm(16, 8), torch.randn(3, 5, 16), torch.randn(3, 8)
    assert_close(norm(x, time), F.layer_norm(x, (16,)))
    norm(x, time).square().sum().backward()
    assert norm.modulation.weight.grad.abs().sum() > 0  # 0 is no dead point
    nn.init.normal_(norm.modulation.weight)
    scale, shift = (time @ norm.modulation.weight.T).split(16, 1)
    assert_close(norm(x, time), F.layer_norm(x, (16,)) * (1 + scale[:, None]) + shift[:, None])
    assert not torch.allclose(norm(x, time), norm(x, time.flip(0)))


@given(st.sampled_from([2, 4]), st.sampled_from([4, 8]))
def test_grids_of_different_fineness_agree_on_places(coarse, fine):
    """The cells most like a token's place are those nearest to it."""
    likeness = wave_positions(coarse, 64) @ wave_positions(fine, 64).T
    centres = [
        torch.cartesian_prod(*2 * [(torch.arange(side) + 0.5) / side]) for side in (coarse, fine)
    ]
    distance = torch.cdist(*centres)
    chosen = distance.gather(1, likeness.argmax(1, keepdim=True))[:, 0]
    assert_close(chosen, distance.min(1).values)


def test_tokens_first_look_at_their_own_place():
    attention = PartBlock(dim=128, heads=4, time_dim=8, tokens=16, local=True).cross_attention
    place, grid = wave_positions(4, 128)[None], wave_positions(8, 128)[None]
    attention(place, grid, grid, record=True)
    looks = attention.last_attn_weights[0].unflatten(2, (8, 8))  # heads queries rows columns
    patches = F.avg_pool2d(looks.flatten(0, 1), 2, divisor_override=1)  # as large as a token
    own = patches.view(-1, 16, 16).diagonal(0, 1, 2)
    assert own.mean() > 3 * 4 / 64


# ---- the model -----------------------------------------------------------------------------------


def test_the_answer_depends_on_layers_time_and_image(model):
    tokens = model.encoder(IMAGES)
    layers = torch.randn(3, 10, 32, 32)
    time = torch.tensor([0.1, 0.5, 0.9])
    answer = model(layers, time, tokens)
    assert answer.shape == layers.shape
    for other in (
        model(layers.flip(0), time, tokens),
        model(layers, time.flip(0), tokens),
        model(layers, time, tokens.flip(0)),
    ):
        assert ((answer - other).abs().amax((1, 2, 3)) > 1e-3)[[0, 2]].all()
        # items do not hear each other
        assert_close(answer[1], other[1], rtol=1e-4, atol=1e-5)


def test_what_it_computes_is_added_to_the_base(model):
    tokens, layers, time = model.encoder(IMAGES), torch.randn(3, 10, 32, 32), torch.rand(3)
    before = model(layers, time, tokens), model.segmentation(tokens)
    model.base += 2
    for old, new in zip(
        before, (model(layers, time, tokens), model.segmentation(tokens)), strict=True
    ):
        assert_close(new - old, torch.full_like(old, 2))


def test_segmentation_is_local_in_space(model):
    tokens = model.encoder(IMAGES)
    other = tokens.clone()
    other[:, 6] += 1  # second row, third column of 4×4
    moved = (model.segmentation(other) - model.segmentation(tokens)).abs().amax((0, 1)) > 1e-4
    assert moved[8:16, 16:24].float().mean() > 0.9
    assert moved.sum() == moved[8:16, 16:24].sum()


def test_gradients_reach_every_parameter(model):
    truth = (torch.rand(3, 10, 32, 32) > 0.7).float()
    tokens = model.encoder(IMAGES)
    answer = model(torch.randn(3, 10, 32, 32), torch.rand(3), tokens)
    weight = torch.ones(10)
    (
        part_loss(answer, truth, weight) + part_loss(model.segmentation(tokens), truth, weight)
    ).backward()
    assert [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ] == []


# ---- sampling ------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 1000))
def test_euler_arrives_at_the_clean_layers_in_any_number_of_steps(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    noise, clean = torch.randn(2, 1, 3, 4, 4, generator=generator)
    layers = noise
    for step in range(steps):
        time, next_time = step / steps, (step + 1) / steps
        layers = euler_step(layers, clean, time, next_time)
        assert_close(layers, (1 - next_time) * noise + next_time * clean, rtol=1e-4, atol=1e-4)


def test_the_pipeline_follows_the_velocity(model, pipeline):
    """Against the loop written with velocities, as the papers have it."""
    model.eval()
    with torch.no_grad():
        tokens = model.encoder(IMAGES[:1])
        layers = torch.randn(10, 32, 32, generator=torch.Generator().manual_seed(7))[None]
        for step in range(4):
            clean = 2 * torch.sigmoid(model(layers, torch.tensor([step / 4]), tokens)) - 1
            velocity = (clean - layers) / (1 - step / 4)
            layers = layers + velocity / 4
    assert_close(pipeline(IMAGES[0], 4, seed=7).layers, (layers + 1) / 2, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_layers_another_seed_others(pipeline):
    first, again, other = (pipeline(IMAGES, 3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.layers, again.layers)
    assert torch.equal(first.picture, again.picture)
    assert not torch.allclose(first.layers, other.layers, atol=1e-3)
    torch.manual_seed(123)  # nor does it touch or need the global seed
    state = torch.random.get_rng_state()
    assert torch.equal(pipeline(IMAGES, 3, seed=5).layers, first.layers)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_image_gets_the_same_layers_in_any_company(pipeline):
    together = pipeline(IMAGES, 3, seed=5).layers
    for item in range(3):
        assert_close(
            pipeline(IMAGES[item], 3, seed=5 + item).layers[0], together[item], rtol=1e-4, atol=1e-5
        )


def test_what_comes_back(pipeline):
    result = pipeline(IMAGES, 2)
    assert result.layers.shape == (3, 10, 32, 32)
    assert result.picture.shape == IMAGES.shape
    assert 0 <= result.layers.min() <= result.layers.max() <= 1
    assert -1e-4 <= result.picture.min() <= result.picture.max() <= 1 + 1e-4
    assert torch.equal(result["nose"], result.layers[:, PARTS.index("nose")])
    expected = np.sort(result.layers.flatten(2).numpy(), axis=2)[..., -8:].mean(2)
    assert_allclose(result.confidence.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "called"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), (5, [4]), (6, [])]
)
def test_the_callback_is_told_step_time_and_layers(pipeline, every, called):
    told = []
    options = {"callback": lambda *arguments: told.append(arguments), "callback_steps": every}
    result = pipeline(IMAGES[:2], num_inference_steps=5, seed=1, **options)
    assert [step for step, _, _ in told] == called
    assert [time for _, time, _ in told] == pytest.approx([step / 5 for step in called])
    assert all(latents.shape == (2, 10, 32, 32) for _, _, latents in told)
    if called and called[-1] == 4:  # at the end they are the clean layers
        assert_close(told[-1][2], 2 * result.layers - 1, rtol=1e-4, atol=1e-5)
    assert torch.equal(pipeline(IMAGES[:2], 5, seed=1).layers, result.layers)


@pytest.mark.parametrize("training", [True, False])
def test_a_callback_that_fails_leaves_the_model_as_it_was(model, pipeline, training):
    model.train(training)
    model.blocks[1].self_attention.record = True
    expected = pipeline(IMAGES, 3).layers

    def fail(step, timestep, latents):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"), AttentionRecorder(model):
        pipeline(IMAGES, 3, callback=fail)
    assert all(module.training is training for module in model.modules())
    assert [attention.record for attention in attentions(model).values()] == [
        name == "blocks.1.self_attention" for name in attentions(model)
    ]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert torch.is_grad_enabled()
    assert torch.equal(pipeline(IMAGES, 3).layers, expected)


def test_callbacks_of_other_shapes_are_welcome(pipeline):
    class Counter:
        count = 0

        def __call__(self, *told):
            self.count += len(told)

    counter = Counter()
    pipeline(IMAGES, 2, callback=counter)
    pipeline(IMAGES, 2, callback=lambda step, timestep, latents, more=None: None)
    assert counter.count == 6


def test_an_image_without_a_face_is_said(model, pipeline):
    model.base[PARTS.index("skin")] = -20
    with pytest.warns(
        UserWarning, match="image 0 shows no face: the model is 0% sure of skin in it; give a face"
    ):
        result = pipeline(IMAGES[0], 2)
    assert result.confidence[0, PARTS.index("skin")] < 1e-3
    model.base[PARTS.index("skin")] = 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pipeline(IMAGES[0], 2).confidence[0, PARTS.index("skin")] > 0.999


# ---- looking -------------------------------------------------------------------------------------


def attentions(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, VisualizableCrossAttention)
    }


def test_the_recorder_sees_every_attention_of_every_step(model, pipeline):
    plain = pipeline(IMAGES[:2], 3)
    with AttentionRecorder(model) as recording:
        watched = pipeline(IMAGES[:2], 3)
    assert torch.equal(plain.layers, watched.layers)
    assert [(record.step, record.name) for record in recording.records] == [
        (step, name) for step in range(3) for name in attentions(model)
    ]
    assert recording.coverage() == []
    shapes = {
        "blocks.0.self_attention": (20, 2, 4, 4),
        "blocks.1.self_attention": (2, 2, 40, 40),
        "blocks.0.cross_attention": (2, 2, 40, 16),
        "blocks.3.cross_attention": (2, 2, 40, 16),
    }
    for record in recording.records:
        assert record.shape == shapes.get(record.name, record.shape)
        assert record.kind == ("self" if "self" in record.name else "cross")
        assert record.residual < 1e-5


def test_the_visualizer_draws_every_step(model, pipeline, tmp_path):
    sequence = visualize_during_inference(
        pipeline, model, IMAGES[0], tmp_path, num_inference_steps=2
    )
    assert [list(step) for step in sequence] == 2 * [list(attentions(model))]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step_00{step}_{name}.png" for step in range(2) for name in attentions(model)
    }


def test_part_attention_is_that_of_the_tokens_that_hold_the_part():
    weights = torch.rand(2, 3, 3 * 4, 16).softmax(-1)  # three parts of 2×2 tokens look at 4×4
    layers = torch.zeros(2, 3, 8, 8)
    layers[:, 0, :4, 4:] = 1  # all of it in the second token
    layers[:, 1, 3:5, :2] = 1  # half in the first, half in the third
    looks = part_attention(weights, layers)
    assert looks.shape == (2, 3, 4, 4)
    assert_close(looks[:, 0].flatten(1), weights.mean(1)[:, 1])
    assert_close(looks[:, 1].flatten(1), weights.mean(1)[:, [4, 6]].mean(1))
    assert (looks[:, 2] == 0).all()
    assert_close(looks[:, :2].sum((2, 3)), torch.ones(2, 2))


# ---- training ------------------------------------------------------------------------------------


def test_the_shipped_model_takes_unseen_faces_apart():
    """Far above the mean layer on a few faces of the test split; all scores stand in the manifest."""
    model = course_part_transformer()
    faces = [PartDataset(16, "test", seed=3)[item] for item in range(8)]
    images, layers, present = (
        torch.stack([face[key] for face in faces]) for key in ("image", "layers", "present")
    )
    found = layer_iou(PartPipeline(model)(images).layers, layers)[present]
    blind = layer_iou(model.base.sigmoid().expand_as(layers), layers)[present]
    assert found.mean() > 0.7
    assert blind.mean() < 0.2
    scores = files.read_json(runtime.assets("weights/manifest.json"))["parts"]["scores"]
    assert found.mean() == pytest.approx(scores["iou_generator"], abs=0.1)

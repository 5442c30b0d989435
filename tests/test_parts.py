"""The part transformer: who attends to whom, how noise becomes layers, and what the pipeline promises."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from course_lib import files, runtime
from course_lib.data import PartDataset
from course_lib.looking import person_overlap
from course_lib.models import (
    DRAWN,
    LAYERS,
    AdaptiveNorm,
    PartBlock,
    PartPipeline,
    PartTransformer,
    VisualizableCrossAttention,
    course_part_transformer,
    drawn_layers,
    euler_step,
    part_attention,
    shifted_time,
    wave_positions,
    with_side,
)
from course_lib.recorder import (
    AttentionRecorder,
    visualize_during_inference,
)
from course_lib.training import part_loss
from course_lib.world.layers import PARTS


@pytest.fixture
def model():
    """A small one whose blocks do something: at first the time changes nothing."""
    model = PartTransformer(size=16, grid=2, dim=32, blocks=3, heads=2, photograph=32)
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture
def pipeline(model):
    return PartPipeline(model)


PAIRS = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(1))


# ---- the blocks ----------------------------------------------------------------------------------


def test_every_part_token_can_change_every_other():
    block = PartBlock(dim=32, heads=2, time_dim=8)
    x, place, time = torch.randn(1, 12, 32), torch.randn(12, 32), torch.randn(1, 8)
    image = torch.randn(1, 5, 32)
    other = x.clone()
    other[:, 4] += torch.randn(1, 32)
    moved = block(other, place, image, image, time) - block(x, place, image, image, time)
    assert (moved.abs().amax(2) > 1e-4).all()


def test_every_block_sees_the_image():
    block = PartBlock(dim=32, heads=2, time_dim=8)
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
    attention = PartBlock(dim=128, heads=4, time_dim=8).cross_attention
    place, grid = wave_positions(4, 128)[None], wave_positions(8, 128)[None]
    attention(place, grid, grid, record=True)
    looks = attention.last_attn_weights[0].unflatten(2, (8, 8))  # heads queries rows columns
    patches = F.avg_pool2d(looks.flatten(0, 1), 2, divisor_override=1)  # as large as a token
    own = patches.view(-1, 16, 16).diagonal(0, 1, 2)
    assert own.mean() > 3 * 4 / 64


# ---- the model -----------------------------------------------------------------------------------


def test_photographs_side_by_side_keep_their_places(model):
    """Each half of the strip of tokens is that photograph's own, plus what tells its side."""
    with torch.no_grad():
        strip = model.encoder(PAIRS).unflatten(1, (4, 2, 4))  # batch rows people columns dim
        for side in range(2):
            alone = model.encoder.photograph(PAIRS[..., 32 * side : 32 * (side + 1)])
            expected = alone.unflatten(1, (4, 4)) + model.encoder.side[side]
            assert_close(strip[:, :, side], expected, rtol=1e-4, atol=1e-5)


def test_the_answer_depends_on_layers_time_and_both_photographs(model):
    layers = torch.randn(3, 7, 16, 16)
    time = torch.tensor([0.1, 0.5, 0.9])
    left, right = PAIRS[..., :32], PAIRS[..., 32:]
    answer = model(layers, time, model.encoder(PAIRS))
    assert answer.shape == layers.shape
    for other in (
        model(layers.flip(0), time, model.encoder(PAIRS)),
        model(layers, time.flip(0), model.encoder(PAIRS)),
        model(layers, time, model.encoder(torch.cat([left.flip(0), right], -1))),
        model(layers, time, model.encoder(torch.cat([left, right.flip(0)], -1))),
    ):
        assert ((answer - other).abs().amax((1, 2, 3)) > 1e-3)[[0, 2]].all()
        # items do not change each other
        assert_close(answer[1], other[1], rtol=1e-4, atol=1e-5)


def test_what_it_computes_is_added_to_the_base(model):
    tokens, layers, time = model.encoder(PAIRS), torch.randn(3, 7, 16, 16), torch.rand(3)
    alone = model.encoder.photograph(PAIRS[..., :32])
    before = model(layers, time, tokens), model.segmentation(alone)
    model.base += 2
    after = model(layers, time, tokens), model.segmentation(alone)
    for old, new in zip(before, after, strict=True):
        assert_close(new - old, torch.full_like(old, 2))


def test_segmentation_is_local_in_space(model):
    tokens = model.encoder.photograph(PAIRS[..., :32])
    other = tokens.clone()
    other[:, 6] += 1  # second row, third column of 4×4
    moved = (model.segmentation(other) - model.segmentation(tokens)).abs().amax((0, 1)) > 1e-4
    assert moved[4:8, 8:12].float().mean() > 0.9
    assert moved.sum() == moved[4:8, 8:12].sum()


def test_gradients_reach_every_parameter(model):
    truth = (torch.rand(3, 7, 16, 16) > 0.7).float()
    answer = model(torch.randn(3, 7, 16, 16), torch.rand(3), model.encoder(PAIRS))
    alone = model.segmentation(model.encoder.photograph(PAIRS[..., :32]))
    weight = torch.ones(7)
    (part_loss(answer, truth, weight) + part_loss(alone, truth[:, :6], weight[:6])).backward()
    assert [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ] == []


def test_the_layers_to_draw_are_those_of_the_data_at_half_the_size():
    layers = torch.rand(2, len(PARTS), 64, 64)
    drawn = drawn_layers(layers)
    assert drawn.shape == (2, len(DRAWN), 32, 32)
    for k, part in enumerate(DRAWN):
        whole = layers[:, PARTS.index(part)]
        quarter = sum(whole[:, down::2, across::2] for down in (0, 1) for across in (0, 1)) / 4
        assert_close(drawn[:, k], quarter)


def test_the_last_layer_says_whether_it_is_the_left_person():
    layers = torch.rand(3, 6, 4, 4)
    both = with_side(layers, torch.tensor([1.0, 0, 0.5]))
    assert torch.equal(both[:, :6], layers)
    assert both[:, LAYERS.index("left")].mean((1, 2)).tolist() == [1, 0, 0.5]


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


@pytest.mark.parametrize("shift", [0.5, 1.0, 8.0])
def test_shifted_times_keep_their_ends_and_their_order(shift):
    shares = torch.linspace(0, 1, 30)
    times = shifted_time(shares, shift)
    assert times[0] == 0
    assert times[-1] == 1
    assert (times.diff() > 0).all()
    # the noise left is the time of the way back with the opposite shift
    assert_close(1 - times, shifted_time(1 - shares, 1 / shift))
    assert shifted_time(0.5, shift) == pytest.approx(1 / (1 + shift))


def test_the_pipeline_follows_the_velocity(model, pipeline):
    """Against the loop written with velocities, as the papers have it."""
    model.eval()
    times = [step / (step + 8 * (4 - step)) for step in range(5)]
    with torch.no_grad():
        tokens = model.encoder(PAIRS[:1])
        layers = torch.randn(7, 16, 16, generator=torch.Generator().manual_seed(7))[None]
        for now, then in pairwise(times):
            clean = 2 * torch.sigmoid(model(layers, torch.tensor([now]), tokens)) - 1
            velocity = (clean - layers) / (1 - now)
            layers = layers + (then - now) * velocity
    assert_close(pipeline(PAIRS[0], 4, seed=7).layers, (layers + 1) / 2, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_layers_another_seed_others(pipeline):
    first, again, other = (pipeline(PAIRS, 3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.layers, again.layers)
    assert not torch.allclose(first.layers, other.layers, atol=1e-3)
    torch.manual_seed(123)  # nor does it touch or need the global seed
    state = torch.random.get_rng_state()
    assert torch.equal(pipeline(PAIRS, 3, seed=5).layers, first.layers)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_image_gets_the_same_layers_in_any_company(pipeline):
    together = pipeline(PAIRS, 3, seed=5).layers
    for item in range(3):
        assert_close(
            pipeline(PAIRS[item], 3, seed=5 + item).layers[0], together[item], rtol=1e-4, atol=1e-5
        )


def test_what_comes_back(pipeline):
    result = pipeline(PAIRS, 2)
    assert result.layers.shape == (3, 7, 16, 16)
    assert 0 <= result.layers.min() <= result.layers.max() <= 1
    assert torch.equal(result["eyes"], result.layers[:, LAYERS.index("eyes")])


@pytest.mark.parametrize(
    ("every", "called"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), (5, [4]), (6, [])]
)
def test_the_callback_is_told_step_time_and_layers(pipeline, every, called):
    told = []
    options = {"callback": lambda *arguments: told.append(arguments), "callback_steps": every}
    result = pipeline(PAIRS[:2], num_inference_steps=5, seed=1, **options)
    assert [step for step, _, _ in told] == called
    assert [time for _, time, _ in told] == pytest.approx(
        [step / (step + 8 * (5 - step)) for step in called]
    )
    assert all(latents.shape == (2, 7, 16, 16) for _, _, latents in told)
    if called and called[-1] == 4:  # at the end they are the clean layers
        assert_close(told[-1][2], 2 * result.layers - 1, rtol=1e-4, atol=1e-5)
    assert torch.equal(pipeline(PAIRS[:2], 5, seed=1).layers, result.layers)


@pytest.mark.parametrize("training", [True, False])
def test_a_callback_that_fails_leaves_the_model_as_it_was(model, pipeline, training):
    model.train(training)
    model.blocks[1].self_attention.record = True
    expected = pipeline(PAIRS, 3).layers

    def fail(step, timestep, latents):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"), AttentionRecorder(model):
        pipeline(PAIRS, 3, callback=fail)
    assert all(module.training is training for module in model.modules())
    assert [attention.record for attention in attentions(model).values()] == [
        name == "blocks.1.self_attention" for name in attentions(model)
    ]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert torch.is_grad_enabled()
    assert torch.equal(pipeline(PAIRS, 3).layers, expected)


def test_callbacks_of_other_shapes_are_welcome(pipeline):
    class Counter:
        count = 0

        def __call__(self, *told):
            self.count += len(told)

    counter = Counter()
    pipeline(PAIRS, 2, callback=counter)
    pipeline(PAIRS, 2, callback=lambda step, timestep, latents, more=None: None)
    assert counter.count == 6


# ---- looking -------------------------------------------------------------------------------------


def attentions(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, VisualizableCrossAttention)
    }


def test_the_recorder_sees_every_attention_of_every_step(model, pipeline):
    plain = pipeline(PAIRS[:2], 3)
    with AttentionRecorder(model) as recording:
        watched = pipeline(PAIRS[:2], 3)
    assert torch.equal(plain.layers, watched.layers)
    assert [(record.step, record.name) for record in recording.records] == [
        (step, name) for step in range(3) for name in attentions(model)
    ]
    assert recording.coverage() == []
    shapes = {
        "blocks.0.self_attention": (2, 2, 28, 28),
        "blocks.0.cross_attention": (2, 2, 28, 32),
        "blocks.2.cross_attention": (2, 2, 28, 32),
    }
    for record in recording.records:
        assert record.shape == shapes.get(record.name, record.shape)
        assert record.kind == ("self" if "self" in record.name else "cross")
        assert record.residual < 1e-5


def test_the_visualizer_draws_every_step(model, pipeline, tmp_path):
    sequence = visualize_during_inference(
        pipeline, model, PAIRS[0], tmp_path, num_inference_steps=2
    )
    assert [list(step) for step in sequence] == 2 * [list(attentions(model))]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step_00{step}_{name}.png" for step in range(2) for name in attentions(model)
    }


def test_part_attention_is_that_of_the_tokens_that_hold_the_part():
    weights = torch.rand(2, 3, 3 * 4, 18).softmax(-1)  # three parts of 2×2 tokens, two times 3×3
    layers = torch.zeros(2, 3, 8, 8)
    layers[:, 0, :4, 4:] = 1  # all of it in the second token
    layers[:, 1, 3:5, :2] = 1  # half in the first, half in the third
    looks = part_attention(weights, layers)
    assert looks.shape == (2, 3, 3, 6)
    assert_close(looks[:, 0].flatten(1), weights.mean(1)[:, 1])
    assert_close(looks[:, 1].flatten(1), weights.mean(1)[:, [4, 6]].mean(1))
    assert (looks[:, 2] == 0).all()
    assert_close(looks[:, :2].sum((2, 3)), torch.ones(2, 2))


# ---- training ------------------------------------------------------------------------------------


def test_the_shipped_model_draws_one_of_two_unseen_people():
    """Twenty steps against one, on a few pairs of the test split; all scores stand in the manifest."""
    faces = [PartDataset(32, "test", seed=3)[item] for item in range(32)]
    images, layers = (torch.stack([face[key] for face in faces]) for key in ("image", "layers"))
    pairs = torch.cat([images[0::2], images[1::2]], -1)
    people = drawn_layers(layers).unflatten(0, (16, 2))
    pipeline = PartPipeline(course_part_transformer())
    few, many = (
        person_overlap(pipeline(pairs, steps).layers, people).sort(1).values for steps in (1, 20)
    )
    scores = files.read_json(runtime.assets("weights/manifest.json"))["parts"]["scores"]
    leads = [(overlap[:, 1] - overlap[:, 0]).mean() for overlap in (few, many)]
    assert leads[1] > leads[0] + 0.1
    assert leads[1] == pytest.approx(scores["lead_20"], abs=0.15)

"""Every library function that takes a model, with a model that is not on the CPU: `make device`
runs this.

Each gives the numbers that it gives on the CPU, on the CPU, for inputs that are there, in half
precision too, and leaves the model in the mode in which it was.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explorer_model import Faces, Motions, small_model, small_personality_model
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from assets.recipes import capstone, dynamic, parts, static
from course_lib import runtime
from course_lib.__main__ import main
from course_lib.data import ClipDataset, FaceDataset, TokenArrays
from course_lib.explorer import AttentionExplorer, PersonalityExplorer, listen, look
from course_lib.looking import (
    blurred,
    deletion_curve,
    effective_receptive_field,
    grad_cam,
    hires_cam,
    insertion_curve,
    intervention_effect,
    profile_model,
    record_activations,
    score_faithfulness,
)
from course_lib.models import (
    AttributeDecoder,
    CompletePersonalityModel,
    DynamicFeatureExtractor,
    EndToEndPersonalityModel,
    PartPipeline,
    PartTransformer,
    StaticFeatureExtractor,
    TokenCrossAttention,
    TokenPersonalityModel,
    attention_per_trait,
    boring_video_errors,
    inflate,
)
from course_lib.pictures import compare_models, visualize_feature_maps
from course_lib.recorder import (
    AttentionMonitor,
    AttentionRecorder,
    AttentionVisualizer,
    get_attention_weights,
    record_folder,
    visualize_during_inference,
)
from course_lib.training import (
    AttributePredictor,
    Checkpoints,
    ModelSerializer,
    Timing,
    cache_tokens,
    evaluate,
    fit,
    remedies,
)

DEVICE = runtime.default_device()
PRETENDS = DEVICE.type == "pretend"
if DEVICE.type == "cpu":
    pytest.skip("no device but the CPU; `make device` brings one", allow_module_level=True)

IMAGES = torch.rand(6, 3, 56, 56, generator=torch.Generator().manual_seed(0))
ATTRIBUTES = torch.tensor([0, 1, 2, 3, 4, 5])
MAPS = torch.rand(6, 7, 7, generator=torch.Generator().manual_seed(1))


def close(
    found, expected, half: bool = False, tolerance: float = 1e-5 if PRETENDS else 2e-3
) -> None:
    """The same numbers, on the CPU; in half precision, numbers that go with them.

    The pretend device computes with the CPU's own kernels, a GPU with others.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other, half, tolerance)
    elif isinstance(expected, torch.Tensor):
        assert found.device.type == "cpu"
        assert found.shape == expected.shape
        found, expected = found.float(), expected.float()
        if half:
            assert F.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.9
        else:
            scale = expected.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(
                found / scale, expected / scale, atol=tolerance, rtol=tolerance
            )


# ---- the functions -------------------------------------------------------------------------------


class Network(nn.Module):
    """Two convolutions with batch norm and dropout, and a head on the mean over places."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 5, 2, 2), nn.Conv2d(8, 12, 3, 2, 1)
        self.norm, self.dropout, self.head = nn.BatchNorm2d(12), nn.Dropout(0.5), nn.Linear(12, 6)

    def forward(self, images):
        maps = self.norm(self.second(self.first(images).relu())).relu()
        return self.head(self.dropout(maps.mean((2, 3))))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Network()
    model(IMAGES)  # so that the running statistics are not those of the start
    return model.eval()


def personality() -> TokenPersonalityModel:
    torch.manual_seed(0)
    return TokenPersonalityModel(12, 32, 16, 2).eval()


FACE, MOTION = torch.randn(6, 9, 12), torch.randn(6, 8, 32)
BATCHES = [(FACE[:4], MOTION[:4], torch.rand(4, 5)), (FACE[4:], MOTION[4:], torch.rand(2, 5))]
CHOSEN = torch.eye(6, 33, dtype=torch.bool)
TOKENS = TokenArrays(torch.randn(40, 49, 96), (torch.rand(40, 33) < 0.5).float())


def explain(model):
    return model.attention_maps(IMAGES)


# name: a model, and what is asked of it
FUNCTIONS = {
    "record_activations": (
        network,
        lambda model: record_activations(model, ["first", "norm"], IMAGES),
    ),
    "visualize_feature_maps": (
        network,
        lambda model: visualize_feature_maps(model, "norm", IMAGES).description,
    ),
    "grad_cam": (network, lambda model: grad_cam(model, "norm", 2, IMAGES)),
    "hires_cam": (network, lambda model: hires_cam(model, "first", 2, IMAGES)),
    "effective_receptive_field": (
        network,
        lambda model: effective_receptive_field(model, "norm", IMAGES),
    ),
    "deletion_curve": (
        network,
        lambda model: deletion_curve(model, IMAGES, ATTRIBUTES, MAPS, blurred(IMAGES)),
    ),
    "insertion_curve": (
        network,
        lambda model: insertion_curve(model, IMAGES, ATTRIBUTES, MAPS, blurred(IMAGES)),
    ),
    "boring_video_errors": (
        lambda: nn.Conv2d(3, 4, 3, padding=1),
        lambda model: boring_video_errors(model, inflate(model), IMAGES[:1], 5),
    ),
    "get_attention_weights": (
        lambda: personality().cross_attention,
        lambda model: get_attention_weights(model, FACE, MOTION),
    ),
    "extract_attention_weights": (
        personality,
        lambda model: AttentionVisualizer().extract_attention_weights(
            model, FACE, motion_tokens=MOTION
        ),
    ),
    "AttentionRecorder.plan": (
        personality,
        lambda model: str(AttentionRecorder(model).plan(FACE, MOTION)),
    ),
    "attention_per_trait": (personality, lambda model: attention_per_trait(model, FACE, MOTION)),
    "evaluate": (personality, lambda model: evaluate(model, BATCHES, attention=True)[::3]),
    "look": (small_model, lambda model: look(model, IMAGES)),
    "attention_maps": (small_model, explain),
    "intervention_effect": (
        small_model,
        lambda model: intervention_effect(model, IMAGES, IMAGES.flip(-1), 3),
    ),
    "score_faithfulness": (
        small_model,
        lambda model: (
            score_faithfulness(model, IMAGES, CHOSEN, {"attention": explain(model)}).curves
        ),
    ),
    "listen": (small_personality_model, lambda model: listen(model, *clip(0))),
    "remedies.predict": (
        lambda: AttributeDecoder(96, 33),
        lambda model: remedies.predict(model, TOKENS),
    ),
    "capstone.answers": (capstone.Decoder, lambda model: capstone.answers(model, TOKENS)),
    "static tokens": (StaticFeatureExtractor, lambda model: model.tokens(IMAGES, chunk=4)),
    "dynamic tokens": (
        DynamicFeatureExtractor,
        lambda model: model.tokens(torch.randn(1, 16, 64, 64, 2), chunk=1),
    ),
    "PartPipeline": (
        PartTransformer,
        lambda model: PartPipeline(model)(torch.rand(2, 3, 64, 128), 2).layers,
    ),
}


def clip(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    item = ClipDataset(2, "test", size=48, method="true")[index]
    return item["face"], item["flow"]


@pytest.mark.filterwarnings("ignore:image . shows no face")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_finds_its_model_where_it_is(name):
    build, ask = FUNCTIONS[name]
    torch.manual_seed(0)
    model = build().eval()
    expected = answer(ask, model)
    moved = copy.deepcopy(model).to(DEVICE).train()
    close(answer(ask, moved), expected)
    assert moved.training, "the model is not in the mode in which it was"
    assert all(parameter.device.type == DEVICE.type for parameter in moved.parameters())
    buffers = zip(moved.buffers(), model.buffers(), strict=True)
    assert all(torch.equal(one.cpu(), other) for one, other in buffers), "running statistics moved"


@pytest.mark.filterwarnings("ignore:image . shows no face")
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "score_faithfulness"])
def test_a_function_takes_a_model_in_half_precision(name):
    build, ask = FUNCTIONS[name]
    torch.manual_seed(0)
    model = build().eval()
    expected = answer(ask, model)
    found = answer(ask, model.to(DEVICE, torch.bfloat16))
    if name != "boring_video_errors":
        close(found, expected, half=True)


def answer(ask, model):
    torch.manual_seed(0)
    return ask(model)


# ---- what writes files or draws ------------------------------------------------------------------


def test_a_folder_of_images_is_recorded(tmp_path):
    for index, image in enumerate(IMAGES[:2]):
        Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy()).save(
            tmp_path / f"{index}.png"
        )
    model = small_model().to(DEVICE, torch.bfloat16).train()
    written = record_folder(model, tmp_path, tmp_path / "out", size=56)
    assert len(written) == 2
    assert model.training


def test_a_pipeline_on_the_device_is_watched(tmp_path):
    model = personality().to(DEVICE)

    def pipeline(face, num_inference_steps, callback, callback_steps=1):
        for step in range(num_inference_steps):
            model(face, MOTION.to(face))
            callback(step, 0.0, face)

    sequence = visualize_during_inference(pipeline, model, FACE, tmp_path, num_inference_steps=2)
    assert len(sequence) == len(list(tmp_path.glob("*.png"))) == 2


def test_the_explorers_show_a_model_on_the_device(tmp_path):
    faces = FaceDataset(3, "test", size=56)
    here, there = small_model().eval(), small_model().to(DEVICE)
    checkpoints = {
        "before": small_model(seed=1).to(DEVICE).state_dict(),
        "after": there.state_dict(),
    }
    on_cpu, explorer = (
        AttentionExplorer(here, faces),
        AttentionExplorer(there, faces, checkpoints=checkpoints),
    )
    for name in ("probabilities", "pointing"):
        close(
            getattr(explorer.predict(), name).nan_to_num(),
            getattr(on_cpu.predict(), name).nan_to_num(),
        )
    assert explorer.remove(0, 1, 0, -1, 5).patches == on_cpu.remove(0, 1, 0, -1, 5).patches
    explorer.figure(0)
    assert explorer.to_html(tmp_path / "faces.html", samples=2).exists()
    clips = PersonalityExplorer(
        small_personality_model().to(DEVICE), ClipDataset(2, "test", size=48, method="true")
    )
    assert clips.to_html(tmp_path / "clips.html", samples=1).exists()


def test_two_models_are_compared_where_they_are(tmp_path):
    vectors = CompletePersonalityModel(12, 32, 16, 2).to(DEVICE)
    comparison = compare_models(
        vectors, personality().to(DEVICE), save_path=tmp_path / "two.svg", rounds=2
    )
    assert comparison.profiles["B"].flops == profile_model(personality(), rounds=2).flops
    assert profile_model(vectors, (torch.rand(2, 12), torch.rand(2, 32)), rounds=2).flops > 0


def test_models_of_the_device_are_kept_and_read_again(tmp_path):
    shelf, model = ModelSerializer(tmp_path), personality().to(DEVICE)
    shelf.save(
        model,
        "personality",
        config={"static_dim": 12, "dynamic_dim": 32, "fusion_dim": 16, "num_heads": 2},
    )
    loaded, _ = shelf.load(TokenPersonalityModel, "personality")
    with torch.no_grad():
        close(model(FACE.to(DEVICE), MOTION.to(DEVICE)).cpu(), loaded(FACE, MOTION))
    path = shelf.export(TokenPersonalityModel, "personality", (FACE.to(DEVICE), MOTION.to(DEVICE)))
    close(torch.export.load(path).module()(FACE, MOTION).detach(), loaded(FACE, MOTION).detach())


def test_a_predictor_is_ready_where_its_model_is():
    model = AttributePredictor(["a", "b", "c"], 12, 12).model.to(DEVICE).eval()
    logits, targets = torch.randn(30, 3), torch.arange(90).view(30, 3) % 2
    ready = AttributePredictor.ready(model, ["a", "b", "c"], logits, targets.float())
    assert ready.decide(IMAGES.to(DEVICE)).shape == (6, 3)


def test_tokens_are_cached_from_extractors_on_the_device():
    clips = ClipDataset(2, "test", size=48, method="true")
    static, dynamic = StaticFeatureExtractor(), DynamicFeatureExtractor()
    expected = cache_tokens(clips, static, dynamic, workers=0)
    close(
        cache_tokens(clips, static.to(DEVICE), dynamic.to(DEVICE), workers=0),
        expected,
        tolerance=0.01,
    )


# ---- training ------------------------------------------------------------------------------------


def regression(items: int = 24) -> TensorDataset:
    inputs = torch.randn(items, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs[:, :2] * 2 + 1)


def trained(device, callbacks=(), **options) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    loaders = DataLoader(regression(), 8, shuffle=True), DataLoader(regression(), 8)
    fit(model, *loaders, epochs=3, optimizer=optimizer, callbacks=callbacks, **options)
    assert next(model.parameters()).device.type == torch.device(device).type, "fit moved the model"
    return model


def test_training_takes_the_device_of_the_model():
    close(
        [value.cpu() for value in trained(DEVICE).state_dict().values()],
        [*trained("cpu").state_dict().values()],
    )


def test_training_in_mixed_precision_on_the_device():
    seen = set()

    class Watch:
        def start(self, run):
            run.model[0].register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))

    half = trained(DEVICE, [Watch()], precision="bf16")
    assert seen == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    close(
        [value.float().cpu() for value in half.state_dict().values()],
        [value.float() for value in trained("cpu").state_dict().values()],
        half=True,
    )


class Stop:
    """A callback that stops the run after some batches."""

    def __init__(self, batches: int):
        self.left = batches

    def after_step(self, run):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_run_that_was_cut_goes_on_to_the_bit(tmp_path):
    whole = trained(DEVICE)
    with pytest.raises(KeyboardInterrupt):
        trained(DEVICE, [Stop(5), Checkpoints(tmp_path, minutes=0)])
    resumed = trained(DEVICE, [Checkpoints(tmp_path, minutes=0)])
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=0, atol=0 if PRETENDS else 1e-6)


def test_callbacks_see_the_device():
    model = personality().to(DEVICE)
    monitor, data = AttentionMonitor(FACE, MOTION), TensorDataset(FACE, MOTION, torch.rand(6, 5))
    run = fit(
        model, DataLoader(data, 3), DataLoader(data, 3), epochs=2, callbacks=[Timing(), monitor]
    )
    assert run.log["gpu"] == 1
    assert len(monitor.rows) == 3


def test_recipes_train_and_score_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    for write, sizes in (
        (static.write_static, {"faces": 4, "stills": 2, "steps": 1, "polish": 1, "tested": 4}),
        (dynamic.write_dynamic, {"clips": 2, "steps": 1, "tested": 2}),
        (parts.write_parts, {"faces": 4, "encoder_steps": 1, "steps": 1, "tested": 2}),
    ):
        scores = write(tmp_path / "weights.safetensors", batch=2, **sizes)
        assert scores.keys()


def test_what_builds_its_own_model_builds_it_on_the_device():
    model, detector = remedies.train_remedy(
        "weights up to 10",
        TOKENS,
        TOKENS,
        epochs=1,
        steps=1,
        build=lambda count, cosine: AttributeDecoder(96, count, 16),
    )
    assert next(model.parameters()).device.type == DEVICE.type
    assert detector.history


def test_the_commands_compute_on_the_device(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {"static_features": (24, 16), "dynamic_features": (24, 12), "labels": (24, 5)}
    for name, shape in arrays.items():
        np.save(tmp_path / f"{name}.npy", rng.random(shape, dtype=np.float32))
    np.save(tmp_path / "speakers.npy", np.arange(24) // 2)
    data = [
        text
        for name in (*arrays, "speakers")
        for text in (f"--{name}", str(tmp_path / f"{name}.npy"))
    ]
    run = str(tmp_path / "run")
    assert main(["train", *data, "--batch_size", "8", "--epochs", "2", "--output", run]) == 0
    assert main(["evaluate", run]) == 0
    assert main(["visualize", run]) == 0


# ---- recording -----------------------------------------------------------------------------------


class Fused(nn.Module):
    """Self-attention through PyTorch's own function."""

    def __init__(self, dim: int = 16, heads: int = 4):
        super().__init__()
        self.heads, self.project = heads, nn.Linear(dim, 3 * dim)

    def forward(self, tokens):
        q, k, v = (
            self.project(tokens).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ByHand(Fused):
    """The same, written out."""

    def forward(self, tokens):
        q, k, v = (
            self.project(tokens).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
        )
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class Asking(nn.MultiheadAttention):
    def forward(self, tokens):
        return super().forward(tokens, tokens, tokens)[0]


class Decoding(nn.TransformerDecoder):
    def forward(self, tokens):
        return super().forward(tokens, tokens.flip(1))


class Crossing(TokenCrossAttention):
    def forward(self, tokens):
        return super().forward(tokens, tokens.flip(1))


MODELS = {
    "fused": Fused,
    "by hand": ByHand,
    "nn.MultiheadAttention": lambda: Asking(16, 4, batch_first=True),
    "nn.TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2
    ),
    "nn.TransformerDecoder": lambda: Decoding(
        nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 2
    ),
    "TokenCrossAttention": lambda: Crossing(16, 16, 16, 4),
}
SEQUENCE = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("name", MODELS)
def test_a_recording_changes_no_bit_and_has_the_maps_of_the_cpu(name, context):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad(), AttentionRecorder(model) as expected:
        model(SEQUENCE)
    model.to(DEVICE)
    with context():
        unseen = model(SEQUENCE.to(DEVICE))
        with AttentionRecorder(model) as recording:
            output = model(SEQUENCE.to(DEVICE))
    assert torch.equal(output.cpu(), unseen.cpu())
    assert [record.name for record in recording.records] == [
        record.name for record in expected.records
    ]
    close(
        [record.weights for record in recording.records],
        [record.weights for record in expected.records],
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_recording_under_autocast_changes_no_bit(name):
    torch.manual_seed(0)
    model, tokens = MODELS[name]().to(DEVICE), SEQUENCE.to(DEVICE)
    model.eval()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        unseen = model(tokens)
        with AttentionRecorder(model) as recording:
            output = model(tokens)
    assert torch.equal(output.cpu(), unseen.cpu())
    for record in recording.records:
        assert record.weights.dtype == torch.float32
        torch.testing.assert_close(
            record.weights.sum(-1), torch.ones(record.weights.shape[:-1]), atol=0.02, rtol=0
        )


def test_gradients_of_maps_on_the_device():
    model = ByHand().to(DEVICE)
    with AttentionRecorder(model, gradients=True) as recording:
        model(SEQUENCE.to(DEVICE)).square().sum().backward()
    assert recording.records[0].gradient.shape == recording.records[0].weights.shape
    assert recording.records[0].gradient.abs().max() > 0


def test_the_end_to_end_model_on_the_device():
    model = EndToEndPersonalityModel(Faces(), Motions(), personality())
    face, flow = (tensor[None] for tensor in clip(0))
    with torch.no_grad():
        expected = model.eval()(face, flow)
        close(model.to(DEVICE)(face.to(DEVICE), flow.to(DEVICE)).cpu(), expected)

"""The visualizer: weights from any model, pictures of them, a pipeline watched step by step, a
folder of images.
"""

import contextlib
import os
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from course_lib.models import CrossAttention, TokenCrossAttention
from course_lib.pictures import Picture, plot_attention_map
from course_lib.recorder import (
    AttentionVisualizer,
    Recording,
    get_attention_weights,
    record_folder,
    visualize_during_inference,
)


def encoder(layers=2):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()


def test_weights_of_each_layer_by_name():
    model, tokens = encoder(3), torch.randn(2, 5, 16)
    visualizer = AttentionVisualizer()
    weights = visualizer.extract_attention_weights(model, tokens)
    assert list(weights) == [f"layers.{i}.self_attn" for i in range(3)]
    first = model.layers[0].self_attn(tokens, tokens, tokens, average_attn_weights=False)[1]
    assert torch.allclose(weights["layers.0.self_attn"], first, atol=1e-6)
    assert list(visualizer.extract_attention_weights(model, tokens, layer_idx=-1)) == [
        "layers.2.self_attn"
    ]
    assert list(visualizer.extract_attention_weights(model, src=tokens, layer_idx=1)) == [
        "layers.1.self_attn"
    ]
    with pytest.raises(ValueError, match="layer_idx=3 does not exist"):
        visualizer.extract_attention_weights(model, tokens, layer_idx=3)


@pytest.mark.filterwarnings("ignore:not recorded")
def test_a_model_without_attention_is_told_so():
    with pytest.raises(ValueError, match="Linear has no attention"):
        AttentionVisualizer().extract_attention_weights(nn.Linear(4, 4), torch.randn(1, 4))


def test_hooks_record_until_they_are_cleared_and_leave_the_output_alone():
    model, tokens = encoder(), torch.randn(1, 5, 16)
    with torch.no_grad():
        before = model(tokens)
        with AttentionVisualizer() as visualizer:
            assert visualizer.sequence == []
            visualizer.register_hooks(model)
            assert torch.equal(model(tokens), before)
            model(tokens * 2)
        model(tokens)
    assert len(visualizer.sequence) == 2
    assert not torch.equal(*(step["layers.0.self_attn"] for step in visualizer.sequence))
    visualizer.clear_hooks()


def test_hooks_are_removed_when_the_model_raises():
    model, visualizer = encoder(), AttentionVisualizer()
    with pytest.raises(AssertionError, match="embedding"), visualizer.register_hooks(model):
        model(torch.randn(1, 5, 3))
    with torch.no_grad():
        model(torch.randn(1, 5, 16))
    assert visualizer.sequence == []


def test_cross_attention_weights_are_the_modules_own():
    module = TokenCrossAttention(12, 20, 16, 4).eval()
    static, dynamic = torch.randn(2, 7, 12), torch.randn(2, 5, 20)
    weights = get_attention_weights(module, static, dynamic)
    assert weights.shape == (2, 4, 7, 5)
    module.attention.record = True
    module(static, dynamic)
    assert torch.allclose(weights, module.attention.last_attn_weights, atol=1e-6)


def test_the_one_key_trap_shows():
    weights = get_attention_weights(
        CrossAttention(12, 20, 16, 2), torch.randn(3, 12), torch.randn(3, 20)
    )
    assert weights.shape == (3, 2, 1, 1)
    assert (weights == 1).all()


def test_pictures_are_written(tmp_path):
    weights = torch.randn(1, 4, 8, 8).softmax(-1)
    visualizer = AttentionVisualizer()
    visualizer.visualize_attention_heatmap(weights, tmp_path / "map.png", title="Layer 0")
    visualizer.visualize_multi_head_attention(weights, tmp_path / "heads.png")
    picture = visualizer.visualize_part_attention(weights, 4, tmp_path / "parts.png")
    assert "4 parts" in picture.description
    steps = [{"a": weights}, {"a": weights.flip(-1)}, weights]
    visualizer.create_attention_animation(steps, tmp_path / "run.gif", fps=4)
    with Image.open(tmp_path / "run.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["duration"] == 250
    for name in ("map", "heads", "parts"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 200
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a folder"):
        visualizer.visualize_attention_heatmap(weights, tmp_path / "file" / "map.png")


class Pipeline:
    """A step-wise sampler as diffusers writes them: the model runs twice a step, guided and not."""

    def __init__(self, model):
        self.model = model

    def step(self, image, step):
        self.model(image)
        return self.model(image * (step + 1))[0]

    @torch.no_grad()
    def __call__(self, image, num_inference_steps, callback=None, callback_steps=1):
        for step in range(num_inference_steps):
            latents = self.step(image, step)
            if callback is not None and step % callback_steps == 0:
                callback(step, 1000 - step, latents)
        return latents


class NewerPipeline(Pipeline):
    @torch.no_grad()
    def __call__(self, image, num_inference_steps, callback_on_step_end=None):
        for step in range(num_inference_steps):
            extra = callback_on_step_end(
                self, step, torch.tensor(step), {"latents": self.step(image, step)}
            )
            assert "latents" in extra


@pytest.mark.parametrize("kind", [Pipeline, NewerPipeline])
def test_a_pipeline_is_watched_step_by_step(tmp_path, kind):
    model, tokens = encoder(), torch.randn(1, 5, 16)
    sequence = visualize_during_inference(
        kind(model), model, tokens, tmp_path, num_inference_steps=3
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step_{step:03d}_layers.{layer}.self_attn.png" for step in range(3) for layer in range(2)
    ]
    assert len(sequence) == 3
    # the last call of the last step
    expected = AttentionVisualizer().extract_attention_weights(model, tokens * 3)
    assert torch.allclose(
        sequence[2]["layers.1.self_attn"], expected["layers.1.self_attn"], atol=1e-6
    )


def test_pictures_of_two_runs_never_mix(tmp_path, capsys):
    model = encoder(1)
    for _ in range(3):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
        visualize_during_inference(Pipeline(model), model, torch.randn(1, 5, 16), tmp_path, 1)
        assert {path: path.read_bytes() for path in before} == before
    name = "step_000_layers.0.self_attn.png"
    assert sorted(tmp_path.rglob("*.png")) == [
        tmp_path / "run_2" / name,
        tmp_path / "run_3" / name,
        tmp_path / name,
    ]
    assert "holds the pictures of another run; those of this one are in" in capsys.readouterr().out


def guided(model, scale=None, doubled=True):
    """A pipeline with classifier-free guidance: the first half of the batch is unconditional."""

    @torch.no_grad()
    def pipeline(image, num_inference_steps, callback, callback_steps=1):
        both = torch.cat([torch.zeros_like(image), image]) if doubled else image
        for step in range(num_inference_steps):
            callback(step, step, model(both))

    def with_scale(image, num_inference_steps, callback, callback_steps=1, guidance_scale=scale):
        return pipeline(image, num_inference_steps, callback)

    return pipeline if scale is None else with_scale


@pytest.mark.parametrize(
    ("make", "items", "item", "drawn", "remark"),
    [
        (guided, 1, None, 1, "item 1 of 2 (conditional)"),
        (guided, 5, None, 5, "item 5 of 10 (conditional)"),
        (guided, 5, 4, 4, "item 4 of 10"),
        (guided, 5, -10, 0, "item 0 of 10"),
        (lambda model: guided(model, 7.5), 2, None, 2, "item 2 of 4 (conditional)"),
        (lambda model: guided(model, 1.0), 2, None, 0, "item 0 of 4"),
        (lambda model: guided(model, None, False), 2, None, 0, "item 0 of 2"),
        (lambda model: guided(model, 7.5, False), 2, None, 0, "item 0 of 2"),
        (lambda model: guided(model, None, False), 1, None, 0, None),
    ],
)
def test_under_guidance_the_conditional_half_is_drawn(
    make, items, item, drawn, remark, tmp_path, monkeypatch
):
    drawings = []
    monkeypatch.setattr(
        "course_lib.recorder.visualizer.plot_attention_map",
        lambda weights, title: drawings.append((weights, title)) or Picture(Figure(), title),
    )
    model = encoder(1)
    (step,) = visualize_during_inference(
        make(model), model, torch.randn(items, 5, 16), tmp_path, 1, item=item
    )
    ((weights, title),) = drawings
    (whole,) = step.values()
    assert torch.equal(weights, whole[drawn : drawn + 1])
    assert title == "layers.0.self_attn, step 0" + (f", {remark}" if remark else "")


def test_an_item_that_does_not_exist_is_one_sentence(tmp_path):
    model = encoder(1)
    with pytest.raises(ValueError, match="item=2 does not exist: the batch has 2; choose one"):
        visualize_during_inference(guided(model), model, torch.randn(1, 5, 16), tmp_path, 1, item=2)


class FillsItself(nn.Module):
    """Attention in a way that no recorder recognises, and maps that the model keeps itself."""

    def __init__(self, form):
        super().__init__()
        self.form, self.attention_maps = form, {}

    def forward(self, x):
        powers = (x @ x.mT).exp()
        self.weights = powers / powers.sum(-1, keepdim=True)
        self.attention_maps = self.form(self.weights[:, None])
        return self.weights @ x


@pytest.mark.filterwarnings("ignore:not recorded")
@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda maps: {"blocks.0": maps, "blocks.1": maps / 2}, ["blocks.0", "blocks.1"]),
        (lambda maps: [maps, maps], ["layer 0", "layer 1"]),
        (lambda maps: maps, ["attention"]),
    ],
    ids=["dict", "list", "tensor"],
)
def test_maps_that_the_model_fills_itself_are_taken(form, names, tmp_path):
    model = FillsItself(form)

    def pipeline(image, num_inference_steps, callback, callback_steps=1):
        for step in range(num_inference_steps):
            image = model(image)
            callback(step, step, image)

    sequence = visualize_during_inference(pipeline, model, torch.randn(1, 5, 4), tmp_path, 3)
    assert [list(step) for step in sequence] == 3 * [names]
    assert torch.equal(sequence[-1][names[0]][:, 0], model.weights)
    assert not torch.equal(sequence[0][names[0]], sequence[-1][names[0]])
    assert len(list(tmp_path.iterdir())) == 3 * len(names)


def test_a_layer_is_a_block_with_all_its_attention():
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 3)
    x, visualizer = torch.randn(1, 5, 16), AttentionVisualizer()
    for index in (1, -2):
        assert list(visualizer.extract_attention_weights(decoder, x, x, layer_idx=index)) == [
            "layers.1.self_attn",
            "layers.1.multihead_attn",
        ]
    with pytest.raises(ValueError, match="layer_idx=3 does not exist: 3 layers attended"):
        visualizer.extract_attention_weights(decoder, x, x, layer_idx=3)


def test_maps_by_name_are_drawn_or_asked_for(tmp_path):
    weights, visualizer = torch.randn(1, 4, 8, 8).softmax(-1), AttentionVisualizer()
    draws = {
        "heatmap": visualizer.visualize_attention_heatmap,
        "heads": visualizer.visualize_multi_head_attention,
        "parts": lambda maps, path: visualizer.visualize_part_attention(maps, 4, path),
    }
    for name, draw in draws.items():
        alone = draw(weights, tmp_path / f"{name}.png")
        assert draw({"a": weights}, tmp_path / f"{name}_named.png").description == alone.description
        with pytest.raises(ValueError, match=r"there are 2 maps \('a', 'b'\).*give it by its name"):
            draw({"a": weights, "b": weights}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    cross = visualizer.visualize_part_attention(
        torch.rand(1, 4, 8, 6).softmax(-1), 4, tmp_path / "cross.png"
    )
    assert "where 4 parts look among 6 keys" in cross.description


def test_the_maps_of_the_last_call():
    model, visualizer = encoder(), AttentionVisualizer()
    with visualizer.register_hooks(model):
        assert visualizer.attention_maps == {}
        model(torch.randn(1, 5, 16))
        model(torch.randn(1, 7, 16))
    assert [tuple(weights.shape) for weights in visualizer.attention_maps.values()] == 2 * [
        (1, 2, 7, 7)
    ]


@pytest.mark.filterwarnings("ignore:not recorded")
def test_a_pipeline_that_cannot_be_watched_says_why(tmp_path):
    model = encoder()
    with pytest.raises(ValueError, match="no step of attention was recorded"):
        visualize_during_inference(lambda image, num_inference_steps: None, model, None, tmp_path)
    with pytest.raises(ValueError, match="no step of attention was recorded"):
        visualize_during_inference(Pipeline(encoder()), model, torch.randn(1, 5, 16), tmp_path, 2)


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(48, 2, batch_first=True)

    def forward(self, image):
        tokens = (
            image.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).permute(0, 2, 1, 3, 4).flatten(2)
        )
        return self.attention(tokens, tokens, tokens)[0]


def test_a_folder_of_images_gives_a_file_each_and_resumes(tmp_path, capsys):
    for name in ("a.png", "b.JPG"):
        Image.new("RGB", (40, 30), (90, 20, 10)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no image")
    model, out = Patches(), tmp_path / "out"
    written = record_folder(model, tmp_path, out, size=16)
    assert [path.name for path in written] == ["attention_a.safetensors", "attention_b.safetensors"]
    assert re.search(r"broken\.png is passed over", capsys.readouterr().out)
    [record] = Recording.load(written[0]).records
    assert record.weights.shape == (1, 2, 16, 16)
    before = written[0].stat().st_mtime_ns
    record_folder(model, tmp_path, out, size=16)
    assert written[0].stat().st_mtime_ns == before
    with pytest.raises(FileNotFoundError, match="no image in"):
        record_folder(model, out, out)


def test_images_of_one_stem_keep_apart(tmp_path):
    names = ["a.png", "a.jpg", "A.bmp", "b.png", "b.png.webp"]
    for index, name in enumerate(names):
        Image.new("RGB", (16, 16), (50 * index, 90, 10)).save(tmp_path / name)
    written = record_folder(Patches(), tmp_path, tmp_path / "out", size=16)
    assert sorted(path.name for path in written) == sorted(
        f"attention_{name}.safetensors" for name in ("a.png", "a.jpg", "A.bmp", "b", "b.png.webp")
    )


class Trained(nn.Module):
    """What differs between training and evaluation, and between devices and precisions."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.attend = nn.BatchNorm2d(3), nn.Dropout(0.5), Patches()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, image):
        self.images = image
        return self.attend(self.drop(self.norm(image)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_is_asked_in_its_own_place_and_given_back_in_its_own_mode(tmp_path, dtype):
    torch.manual_seed(0)
    model, image = Trained().to(dtype).train(), torch.rand(2, 3, 16, 16)
    model.norm.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = (AttentionVisualizer().extract_attention_weights(model, image) for _ in range(2))
    assert torch.equal(one["attend.attention"], two["attend.attention"])
    assert one["attend.attention"].dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16), (90, 20, 10)).save(tmp_path / "in" / "a.png")
    maps = [
        Recording.load(record_folder(model, tmp_path / "in", tmp_path / out, size=16)[0]).records[0]
        for out in ("one", "two")
    ]
    assert torch.equal(maps[0].weights, maps[1].weights)
    assert model.images.dtype == dtype
    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_folder_holds_pictures_as_a_person_sees_them(tmp_path):
    """Turned by the camera, of 16 bits, of a palette, transparent: as a plain file would look."""
    left = np.zeros((16, 16, 3), np.uint8)
    left[:, :8] = 255
    plain, folder = Image.fromarray(left), tmp_path / "in"
    folder.mkdir()
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(folder / "turned.png", exif=exif)
    plain.convert("P").save(folder / "palette.png")
    Image.fromarray(left[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    see_through = np.dstack([np.zeros_like(left), 255 - left[..., 0]])
    Image.fromarray(see_through).save(folder / "see_through.png")
    plain.save(folder / "plain.png")
    model = Trained().eval()
    for path in sorted(folder.iterdir()):
        (tmp_path / "one" / path.stem).mkdir(parents=True)
        path.rename(tmp_path / "one" / path.stem / path.name)
        record_folder(model, tmp_path / "one" / path.stem, tmp_path / "out", size=16)
        expected = torch.from_numpy(left).permute(2, 0, 1)[None] / 255
        torch.testing.assert_close(model.images, expected, atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (40, 40)])
def test_a_picture_is_not_squeezed_but_cut_to_a_square(tmp_path, shape):
    """A disc in the middle stays a disc; what is beside the square is not seen."""
    height, width = shape
    y, x = np.ogrid[:height, :width]
    disc = (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 < (min(shape) / 4) ** 2
    picture = np.zeros((height, width, 3), np.uint8)
    picture[disc] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "disc.png")
    model = Trained().eval()
    record_folder(model, tmp_path / "in", tmp_path / "out", size=20)
    seen = model.images[0, 0] > 0.5
    assert seen.any(1).sum() == seen.any(0).sum() == pytest.approx(10, abs=1)
    assert seen.float().mean() == pytest.approx(np.pi / 16, abs=0.03)


@pytest.mark.parametrize("calls", [1, 2])
def test_steps_of_a_pipeline_without_a_callback_are_told_by_the_models_calls(tmp_path, calls):
    model, tokens = encoder(1), torch.randn(1, 5, 16)

    def pipeline(image, num_inference_steps):
        for step in range(num_inference_steps):
            for call in range(calls):
                model(image * (1 + step + 10 * call))

    sequence = visualize_during_inference(pipeline, model, tokens, tmp_path, 3)
    assert len(sequence) == len(list(tmp_path.iterdir())) == 3
    for step, maps in enumerate(sequence):
        last = tokens * (1 + step + 10 * (calls - 1))
        expected = AttentionVisualizer().extract_attention_weights(model, last)
        torch.testing.assert_close(maps["layers.0.self_attn"], expected["layers.0.self_attn"])


@pytest.mark.filterwarnings("ignore:not recorded")
def test_a_function_of_ones_own_reads_the_maps_from_the_model(tmp_path):
    """As people write it who know hooks that fill an attribute of the model."""
    model, tokens = encoder(2), torch.randn(1, 5, 16)
    visualizer, seen = AttentionVisualizer(), []
    visualizer.register_hooks(model)

    def callback(step, timestep, latents):
        if hasattr(model, "attention_maps"):
            for name, weights in model.attention_maps.items():
                path = tmp_path / f"{step}_{name}.png"
                visualizer.visualize_attention_heatmap(weights, path)
                seen.append(weights)

    Pipeline(model)(tokens, num_inference_steps=3, callback=callback)
    visualizer.clear_hooks()
    assert len(seen) == len(list(tmp_path.iterdir())) == 6
    assert not torch.equal(seen[1], seen[-1])
    assert torch.equal(seen[-1], visualizer.attention_maps["layers.1.self_attn"])
    assert not hasattr(model, "attention_maps")
    own = FillsItself(lambda maps: maps)
    with visualizer.register_hooks(own):
        assert own.attention_maps == {}
    assert own.attention_maps == {}


@pytest.mark.parametrize("tokens", [5, 40])
def test_each_step_is_drawn_as_if_it_were_the_only_one(tmp_path, tokens):
    model = encoder(1)
    sequence = visualize_during_inference(
        Pipeline(model), model, 3 * torch.randn(1, tokens, 16), tmp_path / "steps", 3
    )
    alone, among = [], []
    for step, maps in enumerate(sequence):
        ((name, weights),) = maps.items()
        plot_attention_map(weights, tmp_path / "alone.png", title=f"{name}, step {step}")
        alone.append(grey(tmp_path / "alone.png"))
        among.append(grey(tmp_path / "steps" / f"step_{step:03d}_{name}.png"))
    # the numbers of the colour bar may move a map by a pixel
    sizes = np.array([picture.shape for picture in alone + among])
    rows, columns = sizes.min(axis=0)
    assert np.ptp(sizes, axis=0).max() <= 16
    for step, picture in enumerate(among):
        away = [np.abs(picture[:rows, :columns] - one[:rows, :columns]).mean() for one in alone]
        assert np.argmin(away) == step, away


def grey(path):
    return np.asarray(Image.open(path).convert("L"), float)


def test_names_that_no_file_can_be_called_after_are_passed_over(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("good.png", "x" * 226 + ".png", "x" * 236 + ".png"):
        Image.new("RGB", (16, 16)).save(folder / name)
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    with contextlib.suppress(OSError):  # a file system that has no such names
        os.link(folder / "good.png", os.fsencode(folder) + b"/caf\xe9.png")
    written = record_folder(Patches(), folder, tmp_path / "out", size=16)
    assert [path.name for path in written] == [
        "attention_good.safetensors",
        f"attention_{'x' * 226}.safetensors",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(list(folder.iterdir())) - 2
    assert any("its name has 240 bytes; expected at most 230" in line for line in printed)
    assert "passed over link.png: it is no file, or a link to none" in printed

"""The model in a saved page: its steps, its numbers against PyTorch's, and what a reader may do with
it.
"""

import base64
import json

import cv2
import explorer_driver
import numpy as np
import pytest
import torch
from chromium import launch
from explorer_driver import LIVE, eventually, put, sentence, wait, watch_camera
from explorer_model import small_model
from torch import nn

from course_lib.data import FaceDataset, hard_faces
from course_lib.explorer import AttentionExplorer, look
from course_lib.explorer.live import pack_model
from course_lib.explorer.packing import read_image
from course_lib.models import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from course_lib.recorder.packing import script
from course_lib.recorder.page import fill_page, write_page
from course_lib.training import course_attribute_predictor

open_page = explorer_driver.open_page  # a fixture

OPENING = """
(async () => {
  const meta = JSON.parse(document.getElementById("meta").textContent);
  const planes = await inflate(document.getElementById("planes").textContent.trim());
  window.live = new Live(meta, planes);
  await live.opened;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const letters = (array) => {
    const all = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    let text = "";
    for (let i = 0; i < all.length; i += 8192) text += String.fromCharCode(...all.subarray(i, i + 8192));
    return btoa(text);
  };
  Object.assign(window, { bytes, floats, letters, planes, takenFile, carried, openCamera, openModel });
  window.attention = {};
})()"""


def demo(path, model, image, tokens):
    """A page with nothing but the model."""
    description, planes = pack_model(model, image)
    meta = {"tokens": tokens, "model": {"at": 0, "description": description}}
    files = (
        "recorder/web/kit.js",
        "explorer/web/model.js",
        "explorer/web/live.js",
    )
    return write_page(path, fill_page("A model", "", "", meta, planes, script(*files), OPENING))


def text_of(tensor):
    return base64.b64encode(np.ascontiguousarray(tensor, np.float32).tobytes()).decode()


def array_of(text, *shape):
    return np.frombuffer(base64.b64decode(text), np.float32).reshape(shape)


def looks(page, images, masks=None):
    """What the page says of the images: probabilities, weights and scores of the last layer."""
    masks = masks or [[] for _ in images]
    answers = page.evaluate(
        """async ([images, masks]) => {
        const answers = [];
        for (const [k, image] of images.entries()) {
          const seen = await live.look(floats(image), { masked: masks[k] });
          const last = seen.attention.at(-1);
          answers.push([letters(seen.probabilities), letters(last.weights), letters(last.scores),
            [last.heads, last.queries, last.tokens]]);
        }
        return answers; }""",
        [[text_of(image) for image in images], masks],
    )
    shape = answers[0][3]
    return (
        torch.from_numpy(np.stack([array_of(answer[0], -1) for answer in answers])),
        *(
            torch.from_numpy(np.stack([array_of(answer[part], *shape) for answer in answers]))
            for part in (1, 2)
        ),
    )


@pytest.fixture(scope="module")
def predictor():
    return course_attribute_predictor()


@pytest.fixture(scope="module")
def faces():
    drawn = hard_faces("test", 64)
    return torch.stack([drawn[index]["image"] for index in range(64)])


@pytest.fixture(scope="module")
def demo_page(predictor, faces, tmp_path_factory):
    return demo(tmp_path_factory.mktemp("live") / "page.html", predictor, faces[0], 49)


@pytest.mark.browser
def test_the_page_says_what_pytorch_says(open_page, demo_page, predictor, faces):
    page = open_page(demo_page)
    probabilities, weights, scores = looks(page, faces)
    expected = look(predictor, faces)
    (layer,) = expected.weights.values()
    assert (probabilities - expected.probabilities).abs().max() < 1e-4
    assert (weights - layer).abs().max() < 1e-5
    assert (scores.softmax(-1) - layer).abs().max() < 1e-5


@pytest.mark.browser
def test_the_finer_model_says_in_the_page_what_pytorch_says(open_page, tmp_path):
    predictor = course_attribute_predictor(tokens=196)
    drawn = hard_faces("test", 12, size=112)
    faces = torch.stack([drawn[index]["image"] for index in range(12)])
    page = open_page(demo(tmp_path / "page.html", predictor, faces[0], 196))
    probabilities, weights, scores = looks(page, faces)
    expected = look(predictor, faces)
    (layer,) = expected.weights.values()
    assert layer.shape == weights.shape == (12, 4, 33, 196)
    assert (probabilities - expected.probabilities).abs().max() < 1e-4
    assert (weights - layer).abs().max() < 1e-5
    assert (scores.softmax(-1) - layer).abs().max() < 1e-5


class FineTokens(TokenExtractor):
    """14×14 tokens of 112 pixels, with what a 7×7 extractor has not: groups, a bias, a dilation."""

    def __init__(self):
        super().__init__(24)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 8, 4, 2, bias=False),
            nn.BatchNorm2d(12),
            nn.SiLU(),
            nn.Conv2d(12, 24, 3, 2, 1, groups=3),
            nn.Conv2d(24, 24, 3, 1, 2, dilation=2, groups=24),
            nn.Tanh(),
        )

    def tokens(self, images, chunk=None):
        return self.layers((images - 0.5) / 0.25).flatten(2).transpose(1, 2)


class FinePointing(PointingDecoder):
    """Keys from a coarse grid, added to a fine one."""

    def keys_of(self, values):
        grid = values.mT.unflatten(-1, (14, 14))
        coarse = self.context(nn.functional.avg_pool2d(grid, 2))
        grid = grid + nn.functional.interpolate(coarse, scale_factor=2)
        return self.key_norm(grid.flatten(2).transpose(1, 2)) + self.positions


class Spelled(AttributeDecoder):
    """Attention written out, of vectors of length 1, and without an image's mean."""

    def forward(self, tokens, record=None):
        values = self.project(tokens)
        keys = nn.functional.normalize(values + self.positions, dim=-1)
        queries = nn.functional.normalize(self.queries[None], dim=-1)
        scores = 9 * torch.matmul(queries[:, None], keys[:, None].mT) / self.temperature
        weights = scores.softmax(-1)
        return 1 - self.head(torch.sigmoid((weights @ values[:, None])[:, 0]))

    temperature = 0.7


def stirred(model):
    """A model without zeros and ones where training starts with them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand_like(tensor))
            if "to_query" in name or "to_key" in name or "head.weight" in name:
                tensor.mul_(6)
    return model.eval()


def fine():
    return AttributeModel(FineTokens(), FinePointing(24, 5, 24, 2, layers=2, tokens=196))


OTHERS = {
    "14 × 14 tokens of a finer extractor": (fine, 112),
    "an image that the model resizes, and cosines": (
        lambda: AttributeModel(TokenExtractor(24), AttributeDecoder(24, 5, 24, 3, cosine=True)),
        75,
    ),
}


@pytest.mark.browser
@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures(open_page, tmp_path, name):
    build, size = OTHERS[name]
    model = stirred(build())
    images = nn.functional.interpolate(torch.rand(3, 3, 5, 5), size)
    expected = look(model, images)
    (*_, layer) = expected.weights.values()
    page = open_page(demo(tmp_path / "page.html", model, images[0], layer.shape[-1]))
    probabilities, weights, scores = looks(page, images)
    assert expected.probabilities.std(0).max() > 1e-4  # these say little of any image
    assert layer.std(0).max() > 1e-3
    assert (probabilities - expected.probabilities).abs().max() < 1e-5
    assert (weights - layer).abs().max() < 1e-5
    assert (scores.softmax(-1) - layer).abs().max() < 1e-5


@pytest.mark.browser
def test_attention_that_is_written_out(open_page, tmp_path):
    model = stirred(AttributeModel(TokenExtractor(24), Spelled(24, 5, 24, 1)))
    images = torch.rand(2, 3, 56, 56)
    page = open_page(demo(tmp_path / "page.html", model, images[0], 49))
    probabilities, weights, _ = looks(page, images)
    with torch.no_grad():
        assert (probabilities - model(images).sigmoid()).abs().max() < 1e-4
    assert weights.shape == (2, 1, 5, 49)


def painted(image, patches, side=7, colour=None):
    """The image with these patches in its mean colour."""
    image, pixels = image.clone(), image.shape[-1] // side
    colour = image.mean((1, 2)) if colour is None else torch.tensor(colour)
    for patch in patches:
        top, left = pixels * (patch // side), pixels * (patch % side)
        image[:, top : top + pixels, left : left + pixels] = colour[:, None, None]
    return image


@pytest.mark.browser
def test_painting_over(open_page, demo_page, predictor, faces):
    page, image, attribute, count = open_page(demo_page), faces[3], 15, 6
    weights = next(iter(look(predictor, image[None]).weights.values()))[0, :, attribute].mean(0)
    patches = weights.argsort(descending=True)[:count].tolist()
    remove = "([image, ...rest]) => live.remove(floats(image), ...rest)"
    removal = page.evaluate(remove, [text_of(image), patches, attribute])
    assert removal["patches"] == patches
    draws = removal["draws"]
    assert len(draws) == 16
    assert len({tuple(draw) for draw in draws}) == 16
    assert all(len(set(draw)) == count and {*draw} <= {*range(49)} for draw in draws)
    masks = [[], removal["patches"], *draws]
    expected = look(predictor, torch.stack([painted(image, mask) for mask in masks])).probabilities
    said = torch.tensor([removal["whole"], removal["without"], *removal["random"]])
    assert (said - expected[:, attribute]).abs().max() < 1e-4
    assert (said[0] - said).abs().max() > 0.01  # it does something
    assert (torch.tensor(removal["probabilities"]) - expected[1]).abs().max() < 1e-4
    assert page.evaluate(remove, [text_of(image), patches, attribute])["draws"] == draws
    red = page.evaluate(
        """async (image) => letters((await live.look(floats(image),
             { masked: [0, 24, 48], fill: [1, 0, 0] })).probabilities)""",
        text_of(image),
    )
    expected = look(predictor, painted(image, [0, 24, 48], colour=[1.0, 0, 0])[None])
    assert (torch.tensor(array_of(red, -1)) - expected.probabilities[0]).abs().max() < 1e-4


def photographs():
    """Files of several shapes, as Python reads them: some shrink, one grows, one is clear in part."""
    y, x = np.mgrid[:300, :420]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 15)], -1) * 110 + 128
    noise = np.random.default_rng(0).integers(-16, 16, waves.shape)
    picture = np.clip(waves + noise, 0, 255).astype(np.uint8)
    clear = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    clear[:, :200, 3] = 0
    files = {
        "wide": (picture, ".png"),
        "tall": (picture[:, : 56 * 3], ".png"),
        "double": (picture[:112, :112], ".png"),
        "small": (picture[:40, :43], ".png"),
        "clear": (clear, ".png"),
        "photograph": (picture, ".jpg"),
    }
    return {name: cv2.imencode(kind, of)[1].tobytes() for name, (of, kind) in files.items()}


@pytest.mark.browser
def test_a_picture_of_ones_own(open_page, demo_page, predictor):
    """Pixel by pixel within 1 of 255 of what Python makes of the same file (JPEG: 4, because there
    are several decoders), and so are the predictions.
    """
    page = open_page(demo_page)
    for name, content in photographs().items():
        pixels, probabilities = page.evaluate(
            """async (file) => {
            const { pixels, image } = await takenFile(bytes(file), live.size), again = await carried(image);
            if (again.some((value, i) => value !== pixels[i])) throw new Error("not the same pixels");
            return [letters(pixels), letters((await live.look(pixels)).probabilities)]; }""",
            base64.b64encode(content).decode(),
        )
        expected = read_image(content, (56, 56))
        pixels = torch.tensor(array_of(pixels, 3, 56, 56))
        bound = 4 if name == "photograph" else 1
        assert (pixels - expected).abs().max() < (bound + 0.01) / 255, name
        assert (pixels - expected).abs().mean() < 0.25 * bound / 255, name
        said = torch.tensor(array_of(probabilities, -1))
        assert (said - look(predictor, pixels[None]).probabilities[0]).abs().max() < 1e-4, name
    for content in (
        b"no picture",
        cv2.imencode(".png", np.zeros((20, 60, 3), np.uint8))[1].tobytes(),
    ):
        said = page.evaluate(
            "async (file) => takenFile(bytes(file), live.size).catch((error) => error.message)",
            base64.b64encode(content).decode(),
        )
        assert "choose" in said
        assert "\n" not in said


@pytest.mark.browser
def test_the_camera(browser, demo_page):
    """Chromium's false camera: asked for on a click only, looked at, and closed."""
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    other = launch(browser.browser_type, *flags)
    try:
        page = other.new_page()
        page.goto(f"file://{demo_page}")
        wait(page, "window.attention !== undefined")
        said = page.evaluate(
            """async () => {
            const camera = await openCamera(live.size), { pixels } = camera.frame();
            const { probabilities } = await live.look(pixels);
            camera.close();
            return [pixels.length, new Set(pixels).size, probabilities.every((p) => p > 0 && p < 1)]; }"""
        )
        assert said[0] == 3 * 56 * 56
        assert said[1] > 10
        assert said[2]
    finally:
        other.close()


# ---------------------------------------------------------------- in a saved explorer


@pytest.fixture(scope="module")
def explorer(predictor):
    drawn = FaceDataset(6, "test", difficulty="hard", size=56)
    return AttentionExplorer(predictor, drawn, thresholds=predictor.thresholds)


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory):
    return explorer.to_html(tmp_path_factory.mktemp("live") / "explorer.html", 3)


def alive(page):
    page.get_by_role("button", name="Camera").wait_for()


@pytest.mark.browser
def test_a_saved_explorer_paints_over(open_page, saved, explorer):
    page = open_page(saved)
    alive(page)
    name = explorer.surest(1)
    put(page, sample=1, attribute=name, head=-1, mask=4)
    lines = page.locator(".removing .line .number")
    eventually(lambda: lines.count() == 3)
    whole, attended, random = (float(text) for text in lines.all_inner_texts())
    removal = explorer.remove(1, explorer.names.index(name), 0, -1, 4)
    assert abs(whole - removal.whole) < 0.0051  # two digits are shown
    assert abs(attended - removal.without) < 0.0051
    assert 0 <= random <= 1
    assert page.locator(".masked i").count() == 4
    put(page, covered=[17, 24, 31], mask=0)
    removal = explorer.remove(1, explorer.names.index(name), patches=[17, 24, 31])
    eventually(lambda: lines.nth(1).inner_text() == f"{removal.without:.2f}")
    for index, probability in enumerate(removal.probabilities):
        row = page.locator(f".entry[data-index='{index}'] .number")
        assert abs(float(row.inner_text()) - probability) < 0.0051


@pytest.mark.browser
def test_a_saved_explorer_looks_at_a_picture_of_ones_own(open_page, saved, explorer, tmp_path):
    content = photographs()["wide"]
    (tmp_path / "mine.png").write_bytes(content)
    page = open_page(saved)
    alive(page)
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    eventually(lambda: page.evaluate("attention.get('sample')") == -1)
    eventually(lambda: "unknown" in sentence(page))
    assert page.evaluate("attention.get('own')") == "mine.png"
    expected = look(explorer.model, read_image(content, (56, 56))[None])
    shown = page.locator(".entry").evaluate_all(
        "rows => rows.map((row) => [Number(row.dataset.index), row.querySelector('.number').textContent])"
    )
    assert len(shown) == 33
    for index, probability in shown:
        # a pixel may be off by 1 of 255
        assert abs(float(probability) - expected.probabilities[0, index]) < 0.03
    page.get_by_role("button", name="next sample").click()
    assert page.evaluate("attention.get('sample')") in (0, 1, 2)
    page.locator("input[type=file]").set_input_files(
        {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    eventually(lambda: "is no PNG or JPEG" in page.locator(".notice").inner_text())


@pytest.mark.browser
def test_a_saved_explorer_films(browser, saved):
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    other = launch(browser.browser_type, *flags)
    try:
        page = other.new_page()
        page.goto(f"file://{saved}")
        alive(page)
        watch_camera(page)
        page.get_by_role("button", name="Camera").click()
        eventually(lambda: "picture 3" in (page.evaluate("attention.get('own')") or ""))
        assert "stays on this machine" in page.locator(".notice").inner_text()
        page.get_by_role("button", name="Stop the camera").click()
        page.get_by_role("button", name="Camera", exact=True).wait_for()
        assert page.evaluate("given.length") == 1
        eventually(lambda: page.evaluate(LIVE) == 0)  # it is off
        assert page.evaluate("attention.get('sample')") == -1  # the last picture stays
    finally:
        other.close()


@pytest.mark.browser
def test_a_model_that_says_something_else_is_left_out(open_page, explorer, tmp_path):
    page = explorer.page(2)
    assert '"eps":1e-05' in page
    (tmp_path / "page.html").write_text(page.replace('"eps":1e-05', '"eps":3.0'))
    page = open_page(tmp_path / "page.html")
    eventually(lambda: "computes other numbers" in page.locator(".notice").inner_text())
    assert "need the model" in page.locator(".removing").inner_text()
    assert not page.get_by_role("button", name="Camera").count()


def test_which_pages_hold_a_model(explorer, predictor):
    def held(explorer):
        return '"description":{"steps"' in explorer.page(1)

    drawn = explorer.dataset
    assert held(explorer)
    assert held(AttentionExplorer(small_model(), drawn))
    states = [small_model(seed=seed) for seed in (0, 1)]
    assert not held(AttentionExplorer(small_model(), drawn, checkpoints=states))
    odd = Odd(lambda tokens: tokens.cumsum(1), 33)
    assert not held(AttentionExplorer(odd, drawn))


# ---------------------------------------------------------------- what is packed


class Odd(nn.Module):
    """A model that does one thing to its tokens before they are decoded."""

    def __init__(self, act, attributes=5):
        super().__init__()
        self.act, decoder = act, AttributeDecoder(24, attributes, 24, 3)
        self.model = AttributeModel(TokenExtractor(24), decoder)

    def forward(self, images):
        return self.model.decoder(self.act(self.model.backbone.tokens(images)))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda tokens: tokens.cumsum(1), "cumsum"),
        (lambda tokens: tokens.add_(1), "in place"),
        (lambda tokens: nn.functional.relu(tokens, inplace=True), "in place"),
        (lambda tokens: tokens.softmax(1), "dim=1"),
        (lambda tokens: torch.zeros(1, 49, 24), "do not depend"),
    ],
)
def test_what_a_page_cannot_compute_is_said_in_one_sentence(act, said):
    with pytest.raises(ValueError, match=said) as error:
        pack_model(Odd(act), torch.rand(3, 56, 56))
    assert "\n" not in str(error.value)
    assert str(error.value).count(". ") == 0


def test_numbers_travel_in_half_precision_only_where_that_loses_nothing(predictor):
    shipped, planes = pack_model(predictor, torch.rand(3, 56, 56))
    kinds = [entry["dtype"] for entry in shipped["arrays"].values() if len(entry["shape"]) == 4]
    assert kinds.count("float16") == 10  # all kernels; the queries are computed
    assert len(planes) < 1_100_000
    fresh, _ = pack_model(Odd(lambda tokens: tokens), torch.rand(3, 56, 56))
    kinds = {entry["dtype"] for entry in fresh["arrays"].values() if len(entry["shape"]) == 4}
    assert kinds == {"float32"}
    json.dumps([shipped, fresh])


def test_packing_leaves_the_model_as_it_is(predictor):
    before = {name: tensor.clone() for name, tensor in predictor.state_dict().items()}
    model = predictor.train()
    pack_model(model, torch.rand(3, 56, 56))
    assert model.training
    assert model.model.training
    model.eval()
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())

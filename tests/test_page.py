"""The page of recorded attention, driven in Chromium: what is drawn, by mouse and by keyboard,
offline and silent.
"""

import base64
import html
import io
import json
import re
import zlib

import explorer_driver
import numpy as np
import pytest
import torch
from explorer_driver import eventually, settle, wait
from matplotlib import colormaps
from torch import nn

from course_lib.pictures.images import MAP_COLOUR
from course_lib.recorder import (
    AttentionRecorder,
    attention_page,
    from_records,
    pack,
    save_page,
    show_page,
)
from course_lib.recorder.packing import script

WORDS = ["the", "face", "asks", "</script>", "“clip”", "where", "to", "look"]


def random_maps(layers=2, heads=3, queries=8, keys=8, steps=None, sharp=2.0):
    shape = (2, heads, queries, keys)
    return {
        f"blocks.{i}.attn": (
            [(sharp * torch.randn(shape)).softmax(-1) for _ in range(steps)]
            if steps
            else (sharp * torch.randn(shape)).softmax(-1)
        )
        for i in range(layers)
    }


def unpack(page):
    """What a browser reads from the page: its meta and its planes."""
    content = {
        name: re.search(rf'id="{name}">(.*?)</script>', page, re.DOTALL)[1]
        for name in ("meta", "planes")
    }
    return json.loads(content["meta"]), zlib.decompress(base64.b64decode(content["planes"]))


# ---------------------------------------------------------------- the file


def test_every_weight_comes_back_within_the_stated_error():
    maps = random_maps(layers=3, steps=2)
    maps["blocks.1.attn"][0] = None
    meta, planes = unpack(attention_page(maps, sample=1))
    for layer, run in zip(meta["layers"], maps.values(), strict=True):
        for step, weights in enumerate(run):
            if weights is None:
                assert layer["offsets"][step] == -1
                continue
            levels = np.frombuffer(planes, np.uint8, 3 * 64, layer["offsets"][step]).reshape(
                3, 8, 8
            )
            tops = np.array(layer["tops"][step])[:, None, None]
            error = np.abs((levels / 255) ** 2 * tops - weights[1].numpy()) / tops
            assert 0 < error.max() < 1 / 255
            # faint ones are closer
            assert (error < np.sqrt(weights[1].numpy() / tops) / 255 + 1e-5).all()
    assert "Each weight is stored within 0.39 %" in attention_page(maps)


def test_a_large_recording_is_coarser_and_says_so():
    maps = random_maps(layers=1, heads=12, queries=160, keys=160)
    page = attention_page(maps)
    meta, planes = unpack(page)
    levels = np.frombuffer(planes, np.uint8).reshape(12, 160, 160) / meta["levels"]
    tops = np.array(meta["layers"][0]["tops"][0])[:, None, None]
    assert np.abs(levels**2 * tops - maps["blocks.0.attn"][0].numpy()).max() < tops.max() / 64
    assert "Each weight is stored within 1.6 %" in page


def test_the_page_needs_no_network_and_shows_hostile_names_as_text():
    page = attention_page(random_maps(), title="<img src=x onerror=alert(1)>", query_names=WORDS)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert page.count("<img src=x") == 0
    assert page.count("</script>") == 3
    assert len(attention_page(random_maps())) < 120_000


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        ({}, {}, "recording is empty"),
        ({"a": [None]}, {}, "recording is empty"),
        ({"a": torch.rand(3, 4, 4)}, {}, "batch heads queries keys"),
        ({"a": [torch.ones(1, 1, 2, 2) / 2, torch.ones(1, 1, 3, 3) / 3]}, {}, "a name of its own"),
        ({"a": torch.ones(1, 1, 2, 2) / 2}, {"sample": 1}, "sample 1"),
        ({"a": torch.ones(1, 1, 2, 2) / 2}, {"query_names": "abc"}, "3 names"),
        ({"a": torch.ones(1, 1, 4, 4) / 4}, {"grid": (3, 3)}, "fits no layer"),
        ({"a": torch.ones(1, 1, 4, 4) / 4}, {"image": torch.rand(3, 8, 8)}, "grid="),
        ({"a": torch.ones(1, 1, 4, 4)}, {}, "no distribution"),
        ({"a": torch.ones(1, 1, 1, 1).expand(1, 100, 1000, 1000)}, {}, "at most 67"),
    ],
)
def test_bad_input_is_one_sentence(maps, options, message):
    with pytest.raises(ValueError, match=message) as error:
        pack(maps, **options)
    assert ";" in str(error.value) or ":" in str(error.value)


def test_an_unwritable_path_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a folder"):
        save_page(tmp_path / "file" / "page.html", random_maps())


def test_records_become_layers_with_their_kind():
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).eval()
    with AttentionRecorder(model) as recording:
        model(torch.randn(1, 6, 16), torch.randn(1, 6, 16))
        model(torch.randn(2, 6, 16), torch.randn(2, 4, 16))
    options = from_records(recording.records)
    maps = options["maps"]
    assert list(maps)[:2] == ["encoder.layers.0.self_attn", "decoder.layers.0.self_attn 6 × 6"]
    assert [run is not None for run in maps["decoder.layers.0.self_attn 4 × 4"]] == [False, True]
    assert options["cross"] == {
        "decoder.layers.0.multihead_attn 6 × 6",
        "decoder.layers.0.multihead_attn 4 × 6",
    }
    meta, _ = pack(**options)
    kinds = {layer["name"]: layer["self"] for layer in meta["layers"]}
    assert kinds["encoder.layers.0.self_attn"]
    assert not kinds["decoder.layers.0.multihead_attn 6 × 6"]
    assert meta["steps"] == 2


def test_a_recording_writes_its_page(tmp_path):
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    with AttentionRecorder(model) as recording:
        model(*[torch.randn(1, 4, 8)] * 3)
    path = recording.to_html(
        tmp_path / "page.html", title="Four words", query_names=["one", "two", "three", "four"]
    )
    text = path.read_text()
    assert text == attention_page(
        **from_records(recording.records),
        title="Four words",
        query_names=["one", "two", "three", "four"],
    )
    framed = re.search(
        'srcdoc="([^"]*)" title="The page page.html, shown in a frame"', show_page(path).data
    )[1]
    assert html.unescape(framed) == text
    with pytest.raises(ValueError, match="the recording is empty"):
        type(recording)().to_html(tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


# ---------------------------------------------------------------- the browser


open_saved = explorer_driver.open_page  # a fixture


def test_a_page_in_a_frame_works_and_reaches_nothing_outside(browser, tmp_path):
    """The file may be a stranger's, and the notebook's origin holds the token of its server."""
    path = save_page(tmp_path / "page.html", random_maps(1, 2, 5, 5))
    theirs = """<script>
      for (const [name, reach] of Object.entries({
        parent: () => parent.document.title, top: () => top.location.href,
        cookie: () => document.cookie, storage: () => localStorage.length })) {
        let result; try { result = reach(); } catch (error) { result = error.name; }
        document.body.dataset[name] = result;
      }</script></body>"""
    path.write_text(path.read_text().replace("</body>", theirs))
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<title>mine</title><body>{show_page(path).data}")
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{notebook}")
    frame = page.frames[1]
    frame.wait_for_function("window.attention !== undefined")
    reached = frame.evaluate("({...document.body.dataset})")
    assert reached == dict.fromkeys(("parent", "top", "cookie", "storage"), "SecurityError")
    frame.evaluate("attention.set('head', 1); attention.save_changes()")
    page.wait_for_timeout(400)  # the address is written after a while
    with page.expect_download():
        frame.get_by_role("button", name=re.compile("png", re.IGNORECASE)).first.click()
    assert errors == []
    page.close()


@pytest.fixture
def open_page(open_saved, tmp_path):
    """Open a page of these maps from disk, with the network cut; any word on the console fails the
    test.
    """

    def opener(maps, scheme="light", width=1300, script=True, address="", **options):
        path = save_page(tmp_path / "page.html", maps, **options)
        return open_saved(f"{path}{address}", scheme, width, script, "no-preference")

    return opener


def state(page, name):
    return page.evaluate(f"attention.get({name!r})")


def put(page, **values):
    page.evaluate(
        "values => { for (const k in values) attention.set(k, values[k]);"
        " attention.save_changes() }",
        values,
    )
    settle(page)


def pixels(page, selector):
    """The pixels that a canvas holds, `height width 4`."""
    size, data = page.evaluate(
        """selector => {
        const canvas = document.querySelector(selector), { width, height } = canvas;
        const copy = Object.assign(document.createElement("canvas"), { width, height });
        const brush = copy.getContext("2d", { willReadFrequently: true });
        brush.drawImage(canvas, 0, 0);
        return [[height, width], Array.from(brush.getImageData(0, 0, width, height).data)] }""",
        selector,
    )
    return np.array(data, np.uint8).reshape(*size, 4)


def sentence(page):
    return page.locator(".sentence").inner_text()


pytestmark = pytest.mark.browser


@pytest.mark.parametrize("head", [-1, 1])
def test_the_map_on_screen_is_the_weights_in_cividis(open_page, head):
    maps = random_maps(queries=9, keys=12)
    page = open_page(maps)
    put(page, layer=1, head=head)
    weights = maps["blocks.1.attn"][0]
    weights = (weights.mean(0) if head < 0 else weights[head]).numpy()
    expected = colormaps["cividis"](weights / weights.max())[..., :3] * 255
    shown = pixels(page, ".matrix canvas")[..., :3].astype(float)
    assert shown.shape == (9, 12, 3)
    assert np.abs(shown - expected).max() < 9  # of 255: quantisation and interpolated colours
    assert np.abs(shown - expected).mean() < 2


def test_hovering_a_word_lights_what_it_looks_at(open_page):
    maps = random_maps()
    page = open_page(maps, query_names=WORDS)
    put(page, head=2)
    page.locator(".chip").nth(5).hover()
    settle(page)
    assert state(page, "query") == 5
    row = maps["blocks.0.attn"][0, 2, 5]
    brightness = page.evaluate(
        """[...document.querySelectorAll(".chip")].map(chip =>
        getComputedStyle(chip).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b))"""
    )
    assert int(np.argmax(brightness)) == int(row.argmax())
    assert np.argsort(brightness)[-2] == np.argsort(row)[-2]
    best = int(row.argmax())
    assert f"“where” (5) looks most at “{WORDS[best]}” ({best})" in sentence(page)
    said = float(re.search(r"\) (\d\.\d+)", sentence(page).split("most at")[1])[1])
    assert abs(said - float(row.max())) < 0.01
    page.locator(".chip").nth(5).click()
    page.locator(".chip").nth(1).hover()
    settle(page)
    assert state(page, "query") == 5  # held
    assert "Held." in sentence(page)


def test_who_looks_here_shows_the_column(open_page):
    maps = random_maps()
    page = open_page(maps, query_names=WORDS)
    put(page, head=0, query=3)
    page.get_by_role("button", name="Who looks here").click()
    settle(page)
    column = maps["blocks.0.attn"][0, 0, :, 3]
    best = int(column.argmax())
    assert f"(3) is looked at most by “{WORDS[best]}” ({best})" in sentence(page)
    assert page.get_by_role("button", name="Who looks here").get_attribute("aria-pressed") == "true"
    page.locator(".chip").nth(6).hover()
    settle(page)
    assert (state(page, "key"), state(page, "query")) == (6, 3)
    best = int(maps["blocks.0.attn"][0, 0, :, 6].argmax())
    assert f"(6) is looked at most by “{WORDS[best]}” ({best})" in sentence(page)


def test_hovering_a_patch_lights_patches_of_the_image(open_page):
    maps = random_maps(queries=13, keys=13)
    page = open_page(maps, image=torch.rand(3, 60, 80), grid=(3, 4))
    put(page, head=1)
    box = page.locator(".picture").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(80 / 60, rel=0.02)
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.9 * box["height"])
    settle(page)
    assert state(page, "query") == 1 + 2 * 4 + 2
    assert "row 2, column 2" in sentence(page)
    row = maps["blocks.0.attn"][0, 1, 11]
    heat = pixels(page, ".picture canvas")
    assert heat.shape == (3, 4, 4)
    share = (row[1:] / row.max()).numpy().reshape(3, 4)
    assert np.abs(heat[..., 3] - 255 * share).max() < 3  # clear where the weight is nothing
    seen = heat[heat[..., 3] > 60][:, :3].astype(float)
    assert np.abs(seen - MAP_COLOUR).max() < 4  # alpha costs a little precision
    picture = page.locator(".picture img")
    assert picture.evaluate("e => getComputedStyle(e).filter") == "none"
    canvas = page.locator(".picture canvas")
    assert canvas.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    page.get_by_label("smooth").check()
    settle(page)
    assert canvas.evaluate("e => getComputedStyle(e).imageRendering") == "auto"


def test_cross_attention_has_two_sides(open_page):
    maps = random_maps(queries=8, keys=12)
    page = open_page(maps, query_names=WORDS, grid=(3, 4))
    put(page, head=0)
    page.locator(".chip").nth(4).hover()
    settle(page)
    assert (state(page, "query"), state(page, "reverse")) == (4, False)
    box = page.locator(".picture").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    settle(page)
    assert (state(page, "key"), state(page, "reverse")) == (3, True)
    best = int(maps["blocks.0.attn"][0, 0, :, 3].argmax())
    assert f"patch 3 (row 0, column 3) is looked at most by “{WORDS[best]}”" in sentence(page)


def test_everything_can_be_reached_and_changed_with_the_keyboard(open_page):
    page = open_page(random_maps(steps=4), query_names=WORDS)
    reached = []
    for _ in range(13):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """document.activeElement.getAttribute("aria-label")
            || document.activeElement.closest("label")?.textContent || document.activeElement.textContent"""
            )
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    for wanted in (
        "Layer",
        "Head",
        "Step",
        "Play",
        "Overview",
        "lift faint",
        "Who looks here",
        "Pin",
        "PNG",
        "npz",
        "All maps",
        "token",
        "Statistics",
    ):
        assert any(wanted in name for name in reached), (wanted, reached)
    overview = page.locator(".overview")
    overview.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        overview.press(key)
    settle(page)
    assert (state(page, "layer"), state(page, "head")) == (1, 1)
    tokens = page.locator("[role=slider]")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowDown"):
        tokens.press(key)
        settle(page)
    assert state(page, "query") == 1
    assert tokens.get_attribute("aria-valuenow") == "1"
    assert "“face” (1) looks most at" in tokens.get_attribute("aria-valuetext")
    tokens.press("Enter")
    settle(page)
    assert state(page, "held") is True
    tokens.press("]")
    tokens.press("]")
    tokens.press("[")
    settle(page)
    assert state(page, "step") == 1


def test_a_screen_reader_hears_the_last_sentence_once(open_page):
    page = open_page(random_maps(), query_names=WORDS)
    for token in range(6):
        put(page, query=token)
    live = page.locator("[aria-live=polite]")
    eventually(lambda: "“where” (5)" in live.inner_text())
    tree = page.locator(".attention").aria_snapshot()
    for role in (
        'combobox "Layer"',
        'combobox "Head"',
        'application "All maps',
        'slider "token"',
        "table",
        "img",
    ):
        assert role in tree, role


def test_the_slider_and_play_walk_through_the_steps(open_page):
    maps = random_maps(steps=3)
    maps["blocks.1.attn"][1] = None
    page = open_page(maps)
    put(page, head=0)
    slider = page.get_by_role("slider", name="Step")
    slider.fill("2")
    settle(page)
    weights = maps["blocks.0.attn"][2][0, 0].numpy()
    shown = pixels(page, ".matrix canvas")[..., :3].astype(float)
    assert np.abs(shown - colormaps["cividis"](weights / weights.max())[..., :3] * 255).max() < 9
    put(page, layer=1, step=1)
    assert "did not run at this step" in sentence(page)
    page.get_by_role("button", name="Play").click()
    wait(page, "attention.get('step') === 2")
    page.get_by_role("button", name="Pause").click()


def test_the_overview_chooses_by_click_and_shows_a_statistic(open_page):
    maps = random_maps(layers=4, heads=5)
    page = open_page(maps)
    cells = page.locator(".overview canvas").bounding_box()
    cell = (cells["width"] - 24) / 6
    page.mouse.click(cells["x"] + 24 + 4.5 * cell, cells["y"] + 17 + 2.5 * cell)
    settle(page)
    assert (state(page, "layer"), state(page, "head")) == (2, 3)
    corner = 17 + 2 * int(cell), 24 + 4 * int(cell)
    drawn = pixels(page, ".overview canvas")
    thumbnail = drawn[corner[0] : corner[0] + int(cell) - 2, corner[1] : corner[1] + int(cell) - 2]
    places = (np.arange(len(thumbnail)) + 0.5) * 8 // len(thumbnail)
    brightest = np.argwhere(thumbnail[..., :3].sum(-1) == thumbnail[..., :3].sum(-1).max())
    weights = maps["blocks.2.attn"][0, 3]
    assert {tuple(places[list(at)].astype(int)) for at in brightest} == {
        divmod(int(weights.argmax()), 8)
    }
    page.get_by_label("Overview").select_option("entropy")
    settle(page)
    image = pixels(page, ".overview canvas").astype(int)
    centres = np.array(
        [
            [
                image[int(17 + (row + 0.4) * cell), int(24 + (column + 1.4) * cell), :3].sum()
                for column in range(5)
            ]
            for row in range(4)
        ]
    )
    entropy = torch.stack(
        [torch.special.entr(w[0]).sum(-1).mean(-1) for w in maps.values()]
    ).numpy()
    assert centres.argmax() == entropy.argmax()
    assert centres.argmin() == entropy.argmin()
    assert "entropy" in page.locator(".overview + .note").inner_text()
    row = page.locator("tbody tr").nth(3)
    assert row.get_attribute("class") == "on"
    assert f"{entropy[2, 3]:.2f}" in row.inner_text()


def test_pins_stay_and_are_compared(open_page):
    maps = random_maps()
    page = open_page(maps, query_names=WORDS)
    put(page, head=0, query=2)
    page.get_by_role("button", name="Pin").click()
    put(page, head=1, query=2)
    common = torch.minimum(maps["blocks.0.attn"][0, 0, 2], maps["blocks.0.attn"][0, 1, 2]).sum()
    card = page.locator(".pins figure")
    assert "head 0: “asks” (2)" in card.inner_text()
    shared = int(re.search(r"(\d+) % of its attention", card.inner_text())[1])
    assert abs(shared - 100 * float(common)) <= 1.5
    card.get_by_role("button", name="Show").click()
    settle(page)
    assert state(page, "head") == 0
    card.get_by_role("button", name="Remove").click()
    settle(page)
    assert page.locator(".pins figure").count() == 0


def test_png_and_npz_are_saved(open_page, tmp_path):
    maps = random_maps(queries=4, keys=6)
    page = open_page(maps)
    with page.expect_download() as download:
        page.get_by_role("button", name="npz").click()
    with np.load(io.BytesIO(download.value.path().read_bytes())) as arrays:
        assert arrays.files == ["0_blocks.0.attn", "1_blocks.1.attn"]
        weights = maps["blocks.1.attn"][0].numpy()
        assert arrays["1_blocks.1.attn"].shape == weights.shape
        assert np.abs(arrays["1_blocks.1.attn"] - weights).max() < weights.max() / 255
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"


def test_light_and_dark_follow_the_system_and_keep_contrast(open_page):
    for scheme in ("light", "dark"):
        page = open_page(random_maps(), scheme=scheme)
        ink, paper, soft = page.evaluate("""(() => {
            const style = getComputedStyle(document.querySelector(".attention"));
            const note = getComputedStyle(document.querySelector(".note"));
            return [style.color, style.backgroundColor, note.color] })()""")
        assert contrast(ink, paper) > 7
        assert contrast(soft, paper) > 4.5
        assert (luminance(paper) > 0.5) == (scheme == "light")


def luminance(colour):
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_address_remembers_and_an_impossible_state_is_brought_within_bounds(open_page):
    page = open_page(
        random_maps(),
        address="#" + json.dumps({"layer": 99, "head": 2, "query": -4, "measure": "x"}),
    )
    assert "Layer 1 (blocks.1.attn), head 2" in sentence(page)
    put(page, query=5)
    wait(page, "decodeURIComponent(location.hash).includes('\"query\":5')")


def test_without_javascript_or_inflation_the_static_part_stays(open_page, browser):
    page = open_page(random_maps(), script=False)
    assert "JavaScript is off" in page.locator("#note").inner_text()
    assert (
        page.locator("#static img")
        .get_attribute("alt")
        .startswith("The mean map of each of the 2 layers")
    )
    assert "blocks.1.attn" in page.locator("#static table").inner_text()
    page = open_page(random_maps())
    assert page.locator("#static").is_hidden()
    page.add_init_script("delete window.DecompressionStream")
    page.reload()
    wait(page, "document.getElementById('note').textContent.includes('cannot unpack')")
    assert page.locator("#static").is_visible()


def test_narrow_screens_do_not_scroll_sideways(open_page):
    page = open_page(random_maps(layers=6, heads=12), width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


COUNT_PIXELS = """() => {
    window.painted = [];
    const real = CanvasRenderingContext2D.prototype.putImageData;
    CanvasRenderingContext2D.prototype.putImageData = function (pixels, ...rest) {
      window.painted.push(`${pixels.width} × ${pixels.height}`);
      return real.call(this, pixels, ...rest);
    }; }"""


def test_a_base_vision_transformer_repaints_only_what_changes(open_page):
    """12 layers × 12 heads × 197 tokens: hovering paints the patches, another head one map, each
    once a frame.
    """
    page = open_page(random_maps(12, 12, 197, 197), image=torch.rand(3, 224, 224), grid=(14, 14))
    put(page, head=3)
    page.evaluate(COUNT_PIXELS)
    table = page.locator(".attention tbody").element_handle()
    box = page.locator(".picture").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"])
    eventually(lambda: state(page, "query") == 1 + 8 * 14 + 4)
    settle(page)
    assert page.evaluate("painted.splice(0)") == ["14 × 14"]
    assert table.evaluate("body => body.isConnected")  # the statistics were not built again
    page.evaluate("""() => { for (let head = 4; head < 9; head++) {
        attention.set("layer", head); attention.set("head", head); attention.save_changes(); } }""")
    settle(page)
    assert page.evaluate("painted") == ["197 × 197", "14 × 14"]
    assert "Layer 8 (blocks.8.attn), head 8" in sentence(page)


WIDGET = """
const values = { ...STATE, meta: META, planes: null }, listeners = new Set(), el = document.body;
const bytes = new Uint8Array([9, 9, ...PLANES]);                      // a widget's bytes are a view into a message
values.planes = new DataView(bytes.buffer, 2);
const model = { get: (name) => values[name],
  set: (name, value) => { values[name] = value; listeners.forEach((listener) => listener()) },
  on: (event, listener) => listeners.add(listener), off: (event, listener) => listeners.delete(listener),
  save_changes: () => { window.saved = (window.saved || 0) + 1 } };
window.attention = model;
window.close_view = render({ model, el });
window.listening = () => listeners.size;
"""


def test_render_takes_a_widgets_model_and_lets_go_of_it(browser):
    """The same module under anywidget: bytes as a DataView, each `set` announced at once, a
    clean-up returned.
    """
    maps, other = random_maps(queries=4, keys=5), random_maps(layers=1, queries=3, keys=3)
    (meta, planes), (new_meta, new_planes) = pack(maps), pack(other)
    viewer = script("recorder/web/kit.js", "recorder/web/viewer.js")
    opening = WIDGET.replace("META", json.dumps(meta)).replace("PLANES", json.dumps(list(planes)))
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_content(f'<script type="module">{viewer}\n{opening}</script>')
    wait(page, "window.close_view !== undefined")
    page.get_by_role("combobox", name="Head").select_option("1")
    settle(page)
    assert (state(page, "head"), page.evaluate("saved")) == (1, 1)
    weights = maps["blocks.0.attn"][0, 1].numpy()
    shown = pixels(page, ".matrix canvas")[..., :3].astype(float)
    assert np.abs(shown - colormaps["cividis"](weights / weights.max())[..., :3] * 255).max() < 9
    page.evaluate(
        """([meta, planes]) => { attention.set("meta", meta);
        attention.set("planes", new DataView(new Uint8Array(planes).buffer)) }""",
        [new_meta, list(new_planes)],
    )
    settle(page)
    assert pixels(page, ".matrix canvas").shape == (3, 3, 4)  # another sample replaces everything
    assert page.get_by_role("combobox", name="Layer").locator("option").count() == 1
    page.evaluate("close_view()")
    assert page.evaluate("[listening(), document.querySelectorAll('.attention').length]") == [0, 0]
    assert said == []
    page.close()


# Small pictures whose patches are the queries


PARTS = {"hair": torch.eye(8), "eyes": torch.zeros(8, 8), "</b>": torch.ones(8, 8)}


def test_pictures_name_the_queries_and_have_to_fit_them():
    meta, _ = pack(random_maps(queries=12, keys=8), query_pictures=PARTS)
    assert meta["pictures"]["side"] == 2
    assert meta["names"][0][:5] == ["hair 0,0", "hair 0,1", "hair 1,0", "hair 1,1", "eyes 0,0"]
    assert meta["layers"][0]["queries"]["pictures"]
    assert "pictures" not in meta["layers"][0]["keys"]
    with pytest.raises(ValueError, match="12 queries are no square grid of patches for each of 2"):
        pack(
            random_maps(queries=12, keys=8), query_pictures={"a": PARTS["hair"], "b": PARTS["hair"]}
        )


@pytest.mark.browser
def test_a_patch_of_a_small_picture_is_chosen_by_pointer_and_keys(open_page):
    maps = random_maps(queries=12, keys=8)
    page = open_page(maps, query_pictures=PARTS)
    assert page.locator(".thumbnails small").all_inner_texts() == list(PARTS)
    assert page.locator(".chip").count() == 8  # of the keys alone
    box = page.locator("[data-picture='1']").bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    eventually(lambda: explorer_driver.state(page, "query") == 5)
    explorer_driver.settle(page)
    assert "“eyes 0,1” (5)" in explorer_driver.sentence(page)
    assert page.locator(".thumbnails .mark:visible").count() == 1
    page.mouse.move(2, 2)
    page.locator(".tokens", has=page.locator(".thumbnails")).press("ArrowDown")
    eventually(lambda: explorer_driver.state(page, "query") == 7)
    explorer_driver.put(page, reverse=True, key=3)
    settle(page)
    drawn = explorer_driver.pixels(page, "[data-picture='2'] canvas")[..., 3].flatten()
    looks = maps["blocks.0.attn"][0].mean(0)[:, 3]
    np.testing.assert_allclose(drawn, 255 * (looks / looks.max())[8:], atol=4)

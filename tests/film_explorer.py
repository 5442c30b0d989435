"""A film of the attention explorer for the README, taken from the real thing: `python
tests/film_explorer.py`.

The shipped predictor, drawn faces and the widget's own view in Chromium, with this process as its
kernel; only the pointer is drawn. Writes assets/pictures/explorer.gif.
"""

import io
from pathlib import Path

import torch
from chromium import CHROMIUM_FLAGS, find_chromium
from explorer_driver import connect, settle
from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

from course_lib import files
from course_lib.data import hard_faces
from course_lib.explorer import ImbalanceAwareAttentionExplorer
from course_lib.training import course_attribute_predictor
from course_lib.world import ATTRIBUTES, CELEBA_RATES

GIF = Path(__file__).parent.parent / "assets" / "pictures" / "explorer.gif"
SIZE, SCALE = (1060, 820), 0.75  # px of the page, and how large it is filmed
SAMPLE = 85  # a clear picture with something rare in it
STEP = 80  # ms a frame while the pointer moves
COLOURS = 128
# small on the page, and what one looks for
VIVID = ["#d1495b", "#1b7a43", "#8a5a00", "#345995", "#e100be", "#ed66d8", "#f6b3ec"]
POINTER = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]


class Camera:
    """Moves the pointer over the page, and keeps what is then seen, for how long."""

    def __init__(self, page):
        self.page, self.place, self.shots = page, (600, 400), []

    def hold(self, milliseconds: int) -> None:
        settle(self.page)
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        outline = [(SCALE * self.place[0] + x, SCALE * self.place[1] + y) for x, y in POINTER]
        ImageDraw.Draw(shot).polygon(outline, fill="#fff", outline="#000", width=1)
        self.shots.append((shot, milliseconds))

    def go(self, locator, x: float = 0.5, y: float = 0.5, frames: int = 5) -> None:
        box, start = locator.bounding_box(), self.place
        end = box["x"] + x * box["width"], box["y"] + y * box["height"]
        for k in range(1, frames + 1):
            share = k / frames
            share = share * share * (3 - 2 * share)  # it starts and lands gently
            self.place = tuple(a + (b - a) * share for a, b in zip(start, end, strict=True))
            self.page.mouse.move(*self.place)
            self.hold(STEP)

    def click(self, locator, milliseconds: int, **where: float) -> None:
        self.go(locator, **where)
        self.page.mouse.click(*self.place)
        self.hold(milliseconds)


def film(page) -> list[tuple[Image.Image, int]]:
    """Hover over attributes, hold one, look through its heads, turn to a rare one, paint over what
    it looks at.
    """
    camera = Camera(page)

    def row(name: str):
        return page.locator(f"[role=option][data-index='{ATTRIBUTES.index(name)}']")

    camera.hold(900)
    for name in ("No_Beard", "Gray_Hair", "Wearing_Lipstick"):
        camera.go(row(name))
        camera.hold(450)
    camera.click(row("Wearing_Lipstick"), 500)
    for head in (2, 3, 0):
        camera.click(page.locator(".heads [role=radio]").nth(head), 450, frames=3)
    camera.click(page.get_by_role("button", name="Rare", exact=True), 600)
    camera.click(row("Eyeglasses"), 900)
    slider = page.get_by_role("slider", name="Paint over")
    camera.go(slider, 0.04)
    page.mouse.down()
    camera.go(slider, 0.25)
    page.mouse.up()
    page.locator(".effect .line").first.wait_for()
    camera.hold(2000)
    return camera.shots


def save(shots: list[tuple[Image.Image, int]], path: Path) -> None:
    """One palette for all frames, so that only what changes is stored; the maps' colours have their
    place in it.
    """
    width, height = shots[0][0].size
    sheet = Image.new("RGB", (width, 7 * height))
    for k in range(6):
        sheet.paste(shots[k * (len(shots) - 1) // 5][0], (0, k * height))
    for k, colour in enumerate(VIVID):
        top, bottom = (6 * height + place * height // len(VIVID) for place in (k, k + 1))
        sheet.paste(colour, (0, top, width, bottom))
    palette = sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT)
    first, *rest = (shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot, _ in shots)
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=[shown for _, shown in shots],
        loop=0,
        optimize=True,
    )
    with files.atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    seconds = sum(shown for _, shown in shots) / 1000
    print(
        f"{path}: {first.width} × {first.height} px, {len(shots)} frames, {seconds:.1f} s, "
        f"{len(buffer.getvalue()) / 1e6:.2f} MB"
    )


def main() -> None:
    torch.set_num_threads(1)
    predictor = course_attribute_predictor()
    explorer = ImbalanceAwareAttentionExplorer(
        predictor,
        hard_faces("test", 400, regions=True),
        CELEBA_RATES,
        thresholds=predictor.thresholds,
    )
    widget = explorer.create_interactive_viewer(
        sample=SAMPLE, attribute="Smiling", sort="probability"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        page = browser.new_page(
            viewport=dict(zip(("width", "height"), SIZE, strict=True)),
            device_scale_factor=SCALE,
            reduced_motion="reduce",
            color_scheme="light",
        )
        connect(page, widget)
        page.add_style_tag(content="body { margin: 8px; background: #fff }")
        page.locator(".explorer[data-sample]").wait_for()
        shots = film(page)
        browser.close()
    save(shots, GIF)


if __name__ == "__main__":
    main()

"""Films of the two explorers for the README, taken from the real things: `python
tests/film_explorer.py`.

The shipped models, drawn faces and clips, and the widgets' own views in Chromium, with this process
as their kernel; only the pointer is drawn. Writes assets/pictures/explorer.gif and clips.gif, and
prints the numbers at the end of each film.
"""

import io
import sys
from pathlib import Path

import torch
from chromium import launch
from explorer_driver import connect, settle
from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

from course_lib import files
from course_lib.data import ClipDataset, hard_faces
from course_lib.explorer import ImbalanceAwareAttentionExplorer, PersonalityExplorer
from course_lib.models import (
    DynamicFeatureExtractor,
    EndToEndPersonalityModel,
    StaticFeatureExtractor,
    course_personality_model,
)
from course_lib.training import course_attribute_predictor
from course_lib.world import ATTRIBUTES, CELEBA_RATES

PICTURES = Path(__file__).parent.parent / "assets" / "pictures"
SCALE = 0.75  # how large a page is filmed
SAMPLE = 85  # a clear picture with something rare in it
PAINTED = 8  # patches: about what the glasses cover
CLIP = 33  # the riddle's clip A of lesson 00
FRAMES, FRAME = 33, 125  # of a clip, and ms for each
STEP = 80  # ms a frame while the pointer moves
COLOURS = 112
# small on the page, and what one looks for
VIVID = ["#fee838", "#d1495b", "#18703d", "#8a5a00", "#345995", "#e100be", "#ed66d8", "#f6b3ec"]
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
        locator.scroll_into_view_if_needed()
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


def film_faces(page) -> Camera:
    """Hover over attributes, hold one, look through its heads, turn to a rare one, paint over what
    it looks at, and ask what its region is worth on sixteen faces.
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
    camera.go(slider)
    for _ in range(PAINTED):
        slider.press("ArrowRight")
        camera.hold(STEP)
    page.locator(".effect .line").first.wait_for()
    camera.hold(2000)
    camera.click(page.get_by_role("button", name="On 16 faces"), 100)
    page.get_by_text("faces with it").wait_for()
    camera.hold(3000)
    print(page.locator(".effect").inner_text())
    return camera


def film_clip(page) -> Camera:
    """Play a clip, turn to two of its traits, and go to the moment that decides."""
    camera = Camera(page)
    play = page.locator(".play")
    for _ in range(FRAMES - 1):
        camera.hold(FRAME)
        play.press(".")
    for trait in ("Extraversion", "Agreeableness"):
        camera.click(page.locator(".traits [role=radio]", has_text=trait), 1200)
    camera.click(page.locator(".traits [role=radio]").first, 500)
    camera.click(page.locator(".steps [role=radio]", has_text="decides"), 2500)
    print(page.locator(".sentence").inner_text())
    return camera


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


def faces():
    predictor = course_attribute_predictor(tokens=196)
    explorer = ImbalanceAwareAttentionExplorer(
        predictor,
        hard_faces("test", 400, regions=True, size=112),
        CELEBA_RATES,
        thresholds=predictor.thresholds,
    )
    return explorer.create_interactive_viewer(
        sample=SAMPLE, attribute="Smiling", sort="probability"
    )


def clips():
    static, dynamic = StaticFeatureExtractor(), DynamicFeatureExtractor()
    model = EndToEndPersonalityModel(static, dynamic, course_personality_model(static, dynamic))
    explorer = PersonalityExplorer(model, ClipDataset(400, "test"))
    return explorer.create_interactive_viewer(sample=CLIP, playing=False)


FILMS = {  # what is filmed, how, and px of its page
    "explorer": (faces, film_faces, (1060, 820)),
    "clips": (clips, film_clip, (1060, 985)),
}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        for name in names or FILMS:
            viewer, film, size = FILMS[name]
            page = browser.new_page(
                viewport=dict(zip(("width", "height"), size, strict=True)),
                device_scale_factor=SCALE,
                reduced_motion="reduce",
                color_scheme="light",
            )
            connect(page, viewer())
            page.add_style_tag(content="body { margin: 8px; background: #fff }")
            page.locator(".explorer[data-sample]").wait_for()
            save(film(page).shots, PICTURES / f"{name}.gif")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])

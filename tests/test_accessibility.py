"""What notebooks and pages show can be read without eyes, a mouse or colour: descriptions,
contrast, focus, motion.
"""

import ast
import re
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_notebooks import code_cells, parse

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# Descriptions


def is_description(text):
    """Whether this says something: a sentence of four words or more, and not the name of a file or
    an object.
    """
    return (
        len(text.split()) >= 4
        and text.rstrip()[-1] in ".!?"
        and not re.search(
            r"^(a|the) (sheet|picture|figure|image|plot)s? of images?\.$| object at 0x", text, re.I
        )
    )


WORDS = {
    "img": "alt",
    "iframe": "title",
    "svg": "aria-label",
    "canvas": "aria-label",
    "video": "aria-label",
}


class Shown(HTMLParser):
    """What a piece of HTML shows that is no text: `undescribed` names what has no words beside it."""

    def __init__(self, text):
        super().__init__()
        self.undescribed = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        said = dict(attributes).get(WORDS.get(tag, ""), "")
        if tag in WORDS and not (said and is_description(said)):
            self.undescribed.append(f"a {tag} whose {WORDS[tag]} is {said!r}")


def undescribed(notebook):
    """What an executed notebook displays without a description: (cell id, what) pairs."""
    problems = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            problems += [
                (cell.id, f"a bare {kind}; return a Picture")
                for kind in data
                if kind.startswith("image/")
            ]
            problems += [(cell.id, what) for what in Shown(data.get("text/html", "")).undescribed]
            if "application/vnd.plotly.v1+json" in data and not is_description(
                data.get("text/plain", "")
            ):
                problems.append((cell.id, "a bare plotly figure; return an ExplorableFigure"))
    return problems


SHOWING = """\
import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from course_lib.pictures import ExplorableFigure
from course_lib.pictures import Animation, Picture, contact_sheet
tiles = [np.zeros((8, 8, 3), np.uint8)] * 2"""
DESCRIBED = {
    "picture": 'contact_sheet(tiles, description="Two tiles, both of them black.")',
    "film": 'Animation(tiles, 2, "A black tile that stays as black as it is.")',
    "figure": 'ExplorableFigure(go.Figure(), "An empty figure with two empty axes.")',
}
BARE = {
    "matplotlib": (
        "%matplotlib inline\nfrom matplotlib import pyplot\npyplot.plot([1, 2])",
        "a bare image/png",
    ),
    "plotly": ("go.Figure()", "a bare plotly figure"),
    "nameless": ("contact_sheet(tiles, description='')", "whose alt is ''"),
    "curt": ('Picture(Figure(), "Tiles")', "whose alt is 'Tiles'"),
    "html": ("from IPython.display import HTML\nHTML('<img src=\"data:,\">')", "whose alt is ''"),
}


@pytest.fixture(scope="module")
def executed():
    """A notebook that shows one thing of each kind, described and bare, run as a reader runs it."""
    cells = [new_code_cell(SHOWING)]
    cells += [new_code_cell(source, id=name) for name, source in DESCRIBED.items()]
    cells += [new_code_cell(source, id=name) for name, (source, _) in BARE.items()]
    notebook = new_notebook(cells=cells)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return notebook


def test_what_the_library_shows_is_described(executed):
    found = {cell for cell, _ in undescribed(executed)}
    assert not found & DESCRIBED.keys()
    assert all(cell.outputs for cell in executed.cells[1:])


@pytest.mark.parametrize("name", BARE)
def test_what_is_shown_bare_is_found(executed, name):
    assert BARE[name][1] in "\n".join(what for cell, what in undescribed(executed) if cell == name)


def bare_calls(notebook):
    """Calls in a notebook's source that would show something past the library's descriptions."""
    problems = []
    for cell in code_cells(notebook):
        for node in ast.walk(parse(cell.source)):
            names = (
                {alias.name for alias in node.names}
                if isinstance(node, ast.Import | ast.ImportFrom)
                else set()
            )
            module = getattr(node, "module", "") or ""
            if any("pyplot" in name or name.startswith("plotly") for name in names | {module}):
                problems.append(f"cell {cell.id} draws by itself")
            if names & {"HTML", "Image", "SVG", "Video"} and module.startswith("IPython"):
                problems.append(f"cell {cell.id} shows without a description")
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "contact_sheet",
                "Animation",
                "Picture",
            ):
                given = [
                    *node.args[{"contact_sheet": 3, "Animation": 2, "Picture": 1}[node.func.id] :],
                    *(word.value for word in node.keywords if word.arg == "description"),
                ]
                written = "".join(
                    part.value
                    for text in given
                    for part in ast.walk(text)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
                if not (given and isinstance(given[0], ast.Name)) and len(written.split()) < 4:
                    problems.append(f"cell {cell.id} describes its picture by {written!r}")
    return problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_shows_by_the_library_and_describes(path):
    assert bare_calls(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import matplotlib.pyplot as plt", "draws by itself"),
        ("from matplotlib import pyplot", "draws by itself"),
        ("import plotly.express as px", "draws by itself"),
        ("from IPython.display import HTML", "without a description"),
        ("contact_sheet(tiles)", "describes its picture by ''"),
        ('Picture(figure, "Tiles")', "by 'Tiles'"),
        ("Animation(frames, 2, f'{name}')", "describes its picture by ''"),
    ],
)
def test_a_bare_call_is_found(source, words):
    assert words in "\n".join(bare_calls(new_notebook(cells=[new_code_cell(source)])))


# Contrast, focus and motion of the pages

FILES = {
    path: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "course_lib").rglob("*.*"))
    if path.suffix in (".js", ".py", ".css")
}
STYLES = {"viewers": "\n".join(text for path, text in FILES.items() if path.suffix == ".js")}
STYLES |= {
    path.name: text for path, text in FILES.items() if path.suffix == ".css" or "<style>" in text
}
RULES = r"\{((?:[^{}]*\{[^{}]*\})+[^{}]*)\}"
DARK, PRINTED = (
    re.compile(rf"@media \({when}\) {RULES}" if when != "print" else rf"@media print {RULES}")
    for when in ("prefers-color-scheme: dark", "print")
)
TEXT, GRAPHIC = 4.5, 3.0  # WCAG 2.2, level AA
PAIRS = [  # what stands on what, and how far apart they must be
    *(
        ("--" + ink, "--" + ground, TEXT)
        for ink in (
            "ink",
            "soft",
            "found",
            "wrong",
            "alarm",
            "warn",
            "link",
            "keyword",
            "string",
            "number",
            "name",
            "comment",
        )
        for ground in ("paper", "panel", "band")
    ),
    ("--paper", "--accent", TEXT),  # a pressed button
    *(
        ("--" + mark, "--" + ground, GRAPHIC)
        for mark in ("accent", "mark")
        for ground in ("paper", "panel")
    ),
]
# behind the text of a list, or of a table
BARS = re.compile(r"color-mix\(in srgb, var\(--accent\) (\d+)%")


def rgb(colour):
    colour = colour.lstrip("#")
    return [
        int(digit * (3 - len(colour) // 3) if len(colour) == 3 else digit, 16)
        for digit in (colour if len(colour) == 3 else re.findall("..", colour))
    ]


def luminance(colour):
    shares = [value / 255 for value in colour]
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG's ratio, 1 for equal colours to 21 for black on white."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def variables(text):
    """The colour variables of a page: light, and dark (what a dark scheme does not set stays)."""
    screen = PRINTED.sub("", text)
    light, dark = (
        {
            name: rgb(value)
            for name, value in re.findall(r"(--[\w-]+): *(#[0-9a-fA-F]{3,6})\b", rules)
        }
        for rules in (DARK.sub("", screen), " ".join(DARK.findall(screen)))
    )
    for name, bright, dim in re.findall(r"(--[\w-]+): *light-dark\((#\w+), (#\w+)\)", screen):
        light[name], dark[name] = rgb(bright), rgb(dim)
    return {"light": light, "dark": light | dark}


def low_contrast(styles):
    return [
        f"{name}, {scheme}: {front} on {back} has {ratio:.2f}, needs {least}"
        for name, text in styles.items()
        for scheme, colours in variables(text).items()
        for front, back, least in PAIRS
        if {front, back} <= colours.keys()
        and (ratio := contrast(colours[front], colours[back])) < least
    ]


def low_on_bars(text, ink, shares):
    """Text on a bar, which is a share (in %) of the accent over the ground."""
    problems = []
    for scheme, colours in variables(text).items():
        for share, ground in product(
            {int(share) / 100 for share in shares}, ("--paper", "--panel")
        ):
            bar = [
                share * a + (1 - share) * b
                for a, b in zip(colours["--accent"], colours[ground], strict=True)
            ]
            if (ratio := contrast(colours[ink], bar)) < TEXT:
                problems.append(
                    f"{scheme}: {ink} on {share:.0%} accent over {ground} has {ratio:.2f}"
                )
    return problems


def test_contrast_is_wcags():
    assert contrast(rgb("#000"), rgb("#fff")) == pytest.approx(21)
    # WebAIM's example
    assert contrast(rgb("#777777"), rgb("#ffffff")) == pytest.approx(4.48, abs=0.005)
    assert contrast(rgb("#abc"), rgb("#aabbcc")) == 1


def test_colours_of_the_pages_stand_out():
    assert {"--ink", "--soft", "--accent", "--found"} <= variables(STYLES["viewers"])[
        "light"
    ].keys()
    assert (
        variables(STYLES["viewers"])["light"]["--ink"]
        != variables(STYLES["viewers"])["dark"]["--ink"]
    )
    assert low_contrast(STYLES) == []


def test_text_on_the_bars_of_a_list_or_a_table_stands_out():
    shares = BARS.findall(STYLES["viewers"])
    assert shares
    assert low_on_bars(STYLES["viewers"], "--ink", shares) == []
    assert low_on_bars(STYLES["viewers"], "--ink", [80])


def test_small_text_on_the_bars_of_a_list_stands_out():
    shares = re.findall(r"\.entry \{[^}]*var\(--accent\) (\d+)%", STYLES["viewers"])
    assert low_on_bars(STYLES["viewers"], "--soft", shares or [100]) == []


@pytest.mark.parametrize(
    ("variable", "colour", "words"),
    [
        ("--soft", "#8b96a5", "viewers, light: --soft on --paper"),
        ("--accent", "#345995", "viewers, dark: --accent on --paper"),
        ("--wrong", "#ff8f86", "viewers, light: --wrong on --panel"),
        ("--paper", "#345995", "viewers, light: --paper on --accent"),
    ],
)
def test_a_colour_that_is_too_faint_is_found(variable, colour, words):
    planted = {
        name: re.sub(rf"{variable}: *(#\w+|light-dark\(.*?\))", f"{variable}: {colour}", text)
        for name, text in STYLES.items()
    }
    assert planted != STYLES
    assert words in "\n".join(low_contrast(planted))


def test_colours_of_pictures_stand_out():
    from course_lib.pictures import base as pictures

    paper = rgb(pictures.PAPER)
    assert contrast(rgb(pictures.INK), paper) >= TEXT
    assert (
        min(
            contrast(rgb(colour), paper)
            for colour in (pictures.BLUE, pictures.HIGHLIGHT, pictures.GREY)
        )
        >= GRAPHIC
    )


def page_problems(styles):
    """Keyboard and motion: a focus that is seen, nothing that takes it away, no motion that cannot
    be refused.
    """
    problems = []
    every = "\n".join(styles.values())
    for name, text in styles.items():
        if re.search(r"outline: *(0|none)\b", text):
            problems.append(f"{name} hides the focus")
        if (
            re.search(r"(?<![\w-])(transition|animation)(-\w+)*: |@keyframes", text)
            and "prefers-reduced-motion" not in text
        ):
            problems.append(f"{name} moves, whoever asked for no motion")
    if not re.search(r":focus-visible \{ outline: ([2-9]px) solid var\(--accent\)", every):
        problems.append("there is no focus to be seen")
    if "forced-colors: active" not in every:
        problems.append("colours that carry meaning are lost where the system sets its own")
    return problems


def test_pages_show_the_focus_and_move_only_when_asked():
    assert page_problems(STYLES) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (".a { outline: none }", "hides the focus"),
        (".a { transition: opacity 1s }", "moves"),
        ("@keyframes turn { to { rotate: 1turn } }", "moves"),
    ],
)
def test_a_page_that_hides_or_moves_is_found(rule, words):
    assert words in "\n".join(page_problems(STYLES | {"planted.js": rule}))
    assert "no focus" in "\n".join(page_problems({"planted.js": rule}))


def test_every_page_names_its_language_and_its_title():
    pages = [text for text in FILES.values() if "<!doctype html>" in text]
    assert len(pages) >= 2
    assert all('<html lang="en">' in text and "<title>" in text for text in pages)


def test_the_check_of_outputs_sees_through_outputs():
    bare = new_notebook(
        cells=[
            new_code_cell(
                "x",
                id="one",
                outputs=[
                    new_output(
                        "display_data",
                        {"text/html": '<figure><img alt="map.png" src="data:,"></figure>'},
                    )
                ],
            )
        ]
    )
    assert undescribed(bare) == [("one", "a img whose alt is 'map.png'")]

"""The cheat sheet: every line of its code runs, its numbers are what comes out, and it fits one
printed page.
"""

import ast
import math
import re
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import ImageFont
from torch.utils.data import DataLoader, TensorDataset

from course_lib import models
from course_lib.world import CELEBA_RATES

SHEET = Path(__file__).parent.parent / "CHEATSHEET.md"
TEXT = SHEET.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
# CelebA's rates of the other seven attributes
NOT_DRAWN = [0.5125, 0.0509, 0.3869, 0.4550, 0.2841, 0.2774, 0.2084]


@pytest.fixture
def sheet(tmp_path):
    """What the sheet's code finds defined: models, data and answers, all small; what it imports it
    brings itself.
    """
    faces, speakers = torch.rand(6, 3, 56, 56), torch.arange(12) // 3
    regions = torch.zeros(6, 33, 56, 56, dtype=torch.bool)
    regions[..., 8:24, 8:24] = True
    traits, noise = torch.rand(12, 5), torch.randn(12, 5)
    targets, logits = (torch.arange(24).reshape(12, 2) % 3 == 0).float(), torch.randn(12, 2)
    batches = DataLoader(TensorDataset(torch.rand(8, 4), torch.rand(8, 1)), batch_size=4)
    after_backward = torch.nn.Linear(2, 1)
    after_backward(torch.ones(1, 2)).sum().backward()
    model = models.AttributeModel(
        models.attributes.TokenExtractor(), models.AttributeDecoder(96, 33, dim=32)
    ).eval()
    return {
        "model": model,
        "images": faces,
        "regions": regions,
        "regions_known": regions.flatten(2).any(-1),
        "untrained_maps": torch.rand(6, 33, 7, 7),
        "after_backward": after_backward,
        "to_train": torch.nn.Linear(4, 1),
        "train": batches,
        "valid": batches,
        "folder": tmp_path,
        "valid_logits": logits,
        "test_logits": -logits,
        "valid_targets": targets,
        "floor": traits.mean(0).expand(12, -1),
        "prediction": traits + 0.1 * noise,
        "ceiling": traits + 0.01 * noise,
        "other": traits + 0.3 * noise,
        "traits": traits,
        "speakers": speakers,
        "vectors": models.CompletePersonalityModel(),
        "tokens": models.TokenPersonalityModel(),
        "celeba_rates": torch.tensor([*CELEBA_RATES, *NOT_DRAWN]),
    }


def run(code, names):
    """Execute every line; where a comment says what comes out (`# → 3`), that must come out."""
    for statement in ast.parse(code).body:
        lines = code.splitlines()[statement.lineno - 1 : statement.end_lineno]
        promised = re.search(r"# → (.+?)(?::|$)", lines[-1])
        if promised:
            came = eval(ast.unparse(statement), names)
            assert str(came) == promised[1].strip(), f"{lines[0]!r} gives {came}"
        else:
            exec(ast.unparse(statement), names)


def test_every_line_of_code_runs(sheet, capsys):
    for block in BLOCKS:
        run(block, sheet)
    said = capsys.readouterr().out
    assert all(word in said for word in ("mean map", "untrained", "chance", "ceiling"))
    assert sheet["weights"].shape == (6, 4, 33, 49)
    assert sheet["maps"].shape == (6, 33, 7, 7)
    assert sheet["thresholds"].shape == (2,)
    assert {path.name for path in sheet["folder"].iterdir()} >= {"log.csv", "last.pt"}


def test_a_line_that_is_wrong_is_found(sheet):
    run(BLOCKS[0], sheet)
    with pytest.raises(AssertionError, match="gives 371717"):
        run("get_param_count(CompletePersonalityModel())   # → 371461", sheet)
    with pytest.raises(NameError):
        run("fitt(model)", sheet)


def test_every_word_in_code_marks_is_a_shape_a_formula_or_runs(sheet, capsys):
    run(BLOCKS[0], sheet)
    axes = {"batch", "frames", "height", "width", "queries", "keys", "heads", "attributes"}
    for marked in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT):
        if (
            not all(part in axes or part.isdigit() for part in marked.split())
            and marked != "eval()"
        ):
            run(marked, sheet)
    assert "floor" in capsys.readouterr().out.lower()  # glossary() printed its words


WIDTH, HEIGHT = 190 / 25.4 * 72, 277 / 25.4 * 72  # points of an A4 page with margins of 10 mm
BODY, CODE, LEADING, CELL = 8, 7, 1.3, 2.2  # points of a letter, a cell's padding and border
LETTER, LETTER_OF_CODE = 0.6, 0.61  # em: common fonts are narrower on average


def printed_height(text):
    """Points of height that the sheet takes, whatever the font: lines filled with letters of a
    generous width.
    """
    height = 0
    for block in re.split(r"(```.*?```)|\n\n", text, flags=re.DOTALL):
        lines = (block or "").strip("\n").splitlines()
        if lines and lines[0].startswith("```"):
            height += (len(lines) - 2) * LEADING * CODE
        elif lines and lines[0].startswith("|"):
            height += sum(
                lines_of(row) * LEADING * BODY + CELL for row in lines if not row.startswith("|---")
            )
        elif lines:
            # and the space after a paragraph
            height += (lines_of(" ".join(lines)) + 1) * LEADING * BODY
    return height


def lines_of(text):
    return math.ceil(len(text) * LETTER * BODY / WIDTH)


def widest_code(text):
    """Points of width that the longest line of code takes: it is not broken."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    return max(map(len, code.splitlines())) * LETTER_OF_CODE * CODE


def test_it_fits_one_a4_page():
    assert printed_height(TEXT) <= HEIGHT
    assert widest_code(TEXT) <= WIDTH


def test_a_sheet_that_is_too_long_or_too_wide_is_found():
    assert printed_height(TEXT + "\nOne more line of advice.\n" * 4) > HEIGHT
    assert widest_code("```python\n" + "x" * 127 + "\n```") > WIDTH


def test_the_widths_are_generous():
    """The widest of the common fonts, which matplotlib brings along, is narrower."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL).replace("---|", "").replace("\n", " ")
    for name, text, letter in (
        ("DejaVuSans", prose, LETTER),
        ("DejaVuSansMono", "x", LETTER_OF_CODE),
    ):
        width = ImageFont.truetype(folder / f"{name}.ttf", 1000).getlength(text) / 1000
        assert width / len(text) < letter

"""The cheat sheet: every line of its code runs, its numbers are what comes out, and it fits one printed page."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from course_lib import models
from course_lib.data.population import CELEBA_RATES

SHEET = Path(__file__).parent.parent / "CHEATSHEET.md"
TEXT = SHEET.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
NOT_DRAWN = [.5125, .0509, .3869, .4550, .2841, .2774, .2084]       # CelebA's rates of the other seven attributes


@pytest.fixture
def sheet(tmp_path):
    """What the sheet's code finds defined: models, data and answers, all small; what it imports it brings itself."""
    faces, speakers = torch.rand(6, 3, 56, 56), torch.arange(12) // 3
    regions = torch.zeros(6, 33, 56, 56, dtype=torch.bool)
    regions[..., 8:24, 8:24] = True
    traits, noise = torch.rand(12, 5), torch.randn(12, 5)
    targets, logits = (torch.arange(24).reshape(12, 2) % 3 == 0).float(), torch.randn(12, 2)
    batches = DataLoader(TensorDataset(torch.rand(8, 4), torch.rand(8, 1)), batch_size=4)
    after_backward = torch.nn.Linear(2, 1)
    after_backward(torch.ones(1, 2)).sum().backward()
    model = models.AttributeModel(models.attributes.TokenExtractor(), models.AttributeDecoder(96, 33, dim=32)).eval()
    return {
        "model": model, "images": faces, "regions": regions, "regions_known": regions.flatten(2).any(-1),
        "untrained_maps": torch.rand(6, 33, 7, 7), "after_backward": after_backward, "to_train": torch.nn.Linear(4, 1),
        "train": batches, "valid": batches, "folder": tmp_path, "valid_logits": logits, "test_logits": -logits,
        "valid_targets": targets, "floor": traits.mean(0).expand(12, -1), "prediction": traits + 0.1 * noise,
        "ceiling": traits + 0.01 * noise, "other": traits + 0.3 * noise, "traits": traits, "speakers": speakers,
        "vectors": models.CompletePersonalityModel(), "tokens": models.TokenPersonalityModel(),
        "celeba_rates": torch.tensor([*CELEBA_RATES, *NOT_DRAWN])}


def run(code, names):
    """Execute every line; where a comment says what comes out (`# → 3`), that must come out."""
    for statement in ast.parse(code).body:
        lines = code.splitlines()[statement.lineno - 1:statement.end_lineno]
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
    assert {path.name for path in sheet["folder"].iterdir()} >= {"log.csv", "last.safetensors"}


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
        if not all(part in axes or part.isdigit() for part in marked.split()) and marked != "eval()":
            run(marked, sheet)
    assert "floor" in capsys.readouterr().out.lower()           # glossary() printed its words


@pytest.mark.browser
def test_it_fits_one_a4_page(browser):
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    style = """@page { size: A4; margin: 10mm } body { font: 8.5pt/1.3 sans-serif; margin: 0 } h1 { margin: 0 }
      h1 { font-size: 12pt } table { border-collapse: collapse; width: 100%; margin: 1.5mm 0 }
      td, th { border: 1px solid #bbb; padding: 0.3mm 1mm; text-align: left }
      pre, code { font: 7pt/1.3 monospace } pre { margin: 1.5mm 0 }
      .anchor-link { display: none }"""

    def pages(text):
        page = browser.new_page()
        page.set_content(f"<!doctype html><style>{style}</style>{markdown2html_mistune(text)}")
        page.set_viewport_size({"width": 718, "height": 1047})             # what the margins leave, at 96 dots an inch
        clipped = page.evaluate("document.documentElement.scrollWidth > 718")
        pdf = page.pdf(prefer_css_page_size=True)
        page.close()
        return len(re.findall(rb"/Type\s*/Page\b", pdf)), clipped

    assert pages(TEXT) == (1, False)
    assert pages(TEXT * 2)[0] == 2                              # the count can say otherwise

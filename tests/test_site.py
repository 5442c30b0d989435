"""The site: what is run and what is not, what stands on its pages, and that a browser draws them
without a network.
"""

import base64
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from audit import audit
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from course_lib.pictures import Animation, Picture, blank_axes, player_script
from tools import site_kernel
from tools.chosen import run
from tools.site import build, converted, executed, framed, prepare, site
from tools.site_check import problems
from tools.site_math import formulas, mathml

ROOT = Path(__file__).parent.parent
CSS = (ROOT / "tools" / "site.css").read_text()


def embedded(kind):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(
        buffer,
        kind.upper(),
        **({"save_all": True, "append_images": frames[1:]} if kind == "gif" else {}),
    )
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


FIRST = [
    new_markdown_cell(
        "# 00 · First\n\n[![Open in"
        " Colab](https://example.org/badge.svg)](https://example.org/a)\n\n## A"
        " part\n\n<details><summary>Why?</summary>\n\nBecause.\n</details>\n\n| a | b"
        " |\n|---|---|\n| 1 | 2 |\n\n<script>alert(1)</script>\n\n![A square](../assets/square.png)"
        " [second](01_second.ipynb) [code](../course_lib/files.py)"
        "\n\n### Grad-CAM\n\nA map $\\frac{a}{b}$ of gradients."
    ),
    new_code_cell('print("0 %\\r50 %\\r100 %\\n\\x1b[31mred\\x1b[0m <b>&")', id="words"),
    new_code_cell(
        f"""\
from IPython.display import HTML, display
HTML('<figure><img alt="a red square" src="{embedded("png")}" onerror="alert(1)"></figure>'
     '<picture><source media="(prefers-reduced-motion: reduce)" srcset="{embedded("png")}">'
     '<img alt="red, then blue" src="{embedded("gif")}"></picture><script>alert(2)</script>'
     '<iframe title="a frame" srcdoc="&lt;html lang=en&gt;&lt;title&gt;In a frame&lt;/title&gt;"></iframe>')""",
        id="pictures",
    ),
    new_code_cell(
        """\
display({"application/vnd.plotly.v1+json": {"layout": {"height": 300},
         "data": [{"y": [1, 3], "type": "scatter"}, {"z": [[[9, 9, 9]]], "type": "image"}]},
         "text/html": '<script src="https://a.org"></script>', "text/plain": "A line </script>."}, raw=True)
display({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider()"}, raw=True)
from IPython.display import Markdown
display(Markdown("| remedy | F1 |\\n|---|---|\\n| **none** | 0.5 |"))""",
        id="figures",
    ),
    new_code_cell(
        """\
import os, pathlib, random
page = pathlib.Path(os.environ["COURSE_CACHE"]) / "lesson_00" / "own.html"
page.parent.mkdir(parents=True, exist_ok=True)
page.write_text("<html lang='en'><title>Own</title><h1>Own</h1>")
print(page, random.SystemRandom().random())""",
        id="saves",
    ),
]


EXPLORER = """<!doctype html><html lang="en"><head><meta name="color-scheme" content="light dark"><title>Explorer</title>
<style>body { background: #fff } @media (prefers-color-scheme: dark) { body { background: #123 } }</style></head>
<body><h1>Explorer</h1></body></html>"""


def write(path, cells):
    kernel = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A repository of two tiny lessons, and a package that they seem to use."""
    root = tmp_path_factory.mktemp("course")
    for folder in ("notebooks", "assets", "course_lib/commands"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "assets" / "square.png")
    (root / "course_lib" / "module.py").write_text("x = 1\n")
    (root / "pyproject.toml").write_text(
        '[project]\nurls = {Repository = "https://github.com/ada/course"}\n'
    )
    (root / "README.md").write_text(
        "# Tiny course\n\n![The attention explorer: a film.](assets/square.png)\n\n"
        "![A square](assets/square.png)\n\n"
        "[first](notebooks/00_first.ipynb) [third](notebooks/02_third.ipynb) "
        "[sheet](SHEET.md)\n"
    )
    (root / "SHEET.md").write_text("# Sheet\n\n[home](README.md)\n")
    write(root / "notebooks" / "00_first.ipynb", FIRST)
    write(
        root / "notebooks" / "01_second.ipynb",
        [new_markdown_cell("# 01 · Second"), new_code_cell("1 + 1")],
    )
    return root


def build_all(root):
    lessons = sorted((root / "notebooks").glob("*.ipynb"))
    return build(root, lessons, root / "site", lambda: EXPLORER)


@pytest.fixture(scope="module")
def pages(course):
    """The text of each page, built once."""
    return {path.name: path.read_text() for path in build_all(course)}


def page_of(*cells):
    """The content of a page with these cells."""
    notebook = new_notebook(cells=list(cells))
    prepare(notebook)
    return str(converted(notebook, ROOT))


def shown(**data):
    """The content of a page with a cell that shows this."""
    kinds = {"html": "text/html", "plain": "text/plain", "png": "image/png"}
    output = new_output("display_data", {kinds[name]: value for name, value in data.items()})
    return page_of(new_code_cell("x", outputs=[output]))


def loaded(text):
    """What a page loads by itself."""
    return re.findall(
        r'<(?:script|img|iframe|source)[^>]*\ssrc(?:set)?="([^"]*)"|<link[^>]*href="([^"]*)"', text
    )


# The pages


def test_every_page_has_its_title_its_language_and_ways_on(pages):
    assert list(pages) == ["index.html", "00_first.html", "01_second.html", "sheet.html"]
    titles = [re.search("<title>(.*)</title>", text)[1] for text in pages.values()]
    assert titles == [
        "Tiny course",
        "00 · First · Tiny course",
        "01 · Second · Tiny course",
        "Sheet · Tiny course",
    ]
    for text in pages.values():
        assert '<html lang="en">' in text
        assert 'class="skip" href="#content"' in text
        assert '<a href="01_second.html"' in text.split("<main")[0]  # the list of lessons
        assert text.count('aria-current="page"') == 1
    assert '<a rel="next" href="00_first.html">00 · First →</a>' in pages["index.html"]
    assert 'rel="prev"' not in pages["index.html"]
    assert '<a rel="prev" href="index.html">← Overview</a>' in pages["00_first.html"]
    assert '<a rel="next" href="01_second.html">01 · Second →</a>' in pages["00_first.html"]
    assert '<a rel="prev" href="00_first.html">← 00 · First</a>' in pages["01_second.html"]


def test_links_lead_to_pages_and_else_to_the_repository(pages):
    repository = "https://github.com/ada/course/blob/main"
    assert '<a href="00_first.html">first</a>' in pages["index.html"]
    assert '<a href="sheet.html">sheet</a>' in pages["index.html"]
    assert '<a href="index.html">home</a>' in pages["sheet.html"]
    assert f'href="{repository}/notebooks/02_third.ipynb"' in pages["index.html"]
    assert '<a href="01_second.html">second</a>' in pages["00_first.html"]
    assert f'href="{repository}/course_lib/files.py"' in pages["00_first.html"]
    assert '<li><a href="#a-part">A part</a></li>' in pages["00_first.html"]
    for address in ("colab.research.google.com/github/ada", "github.com/ada"):
        lesson = f"https://{address}/course/blob/main/notebooks/00_first.ipynb"
        assert f'<a class="launch" href="{lesson}">' in pages["00_first.html"]
        assert lesson not in pages["index.html"]


def test_nothing_comes_from_the_network_and_all_pictures_are_described(pages, course):
    for text in pages.values():
        sources = [first or second for first, second in loaded(text)]
        assert {"site.css", "site.js"} <= set(sources)
        for source in sources:
            assert (course / "site" / source).is_file()
        assert all(re.search(r'\salt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", text))
    assert '<a href="https://example.org/a">Open in Colab</a>' in pages["00_first.html"]
    assert 'alt="A square"' in pages["index.html"]
    assert problems(course / "site") == []


def test_what_is_no_prose_is_shown_and_not_run(pages):
    text = pages["00_first.html"]
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;script&gt;alert(2)" in text
    assert "<script>alert" not in text
    assert not re.search("<[^>]*onerror", text)
    assert "<summary>Why?</summary>" in text
    output = re.search(r'<pre tabindex="0">100 %\s+<span[^>]*>red</span> (.*)\s+</pre>', text)
    assert output[1] == "&lt;b&gt;&amp;"  # one line of the progress bar is left
    assert 'tabindex="0"><table>' in text


@pytest.mark.parametrize(
    "harmful",
    [
        "<script>alert(1)</script>",
        "<svg onload=alert(1)>",
        '<a href="javascript:alert(1)">x</a>',
        "<style>@import url(https://a.org)</style>",
        '<object data="https://a.org"></object>',
        '<img alt="a" src="data:image/gif;base64,R0lG" onload="alert(1)">',
    ],
)
def test_no_output_and_no_prose_runs_or_loads_anything(harmful):
    for text in (shown(html=harmful), page_of(new_markdown_cell(harmful))):
        assert not re.search(r"<(script|svg|style|object)|<[^>]*(onload|javascript:)", text), text


def test_a_frame_keeps_its_page_and_cannot_reach_out_of_it(pages, course):
    (frame,) = re.findall("<iframe[^>]*>", pages["00_first.html"])
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    assert 'src="00_first/frame-1.html"' in frame
    page = (course / "site" / "00_first" / "frame-1.html").read_text()
    assert page.startswith('<html lang=en><meta charset="utf-8"><script>')
    assert page.endswith("<title>In a frame</title>")


def test_figures_are_data_and_plotly_comes_once(pages, course):
    text = pages["00_first.html"]
    assert text.count("plotly.min.js") == 1
    assert "plotly" not in pages["01_second.html"]
    assert (course / "site" / "plotly.min.js").stat().st_size > 1_000_000
    assert len(text) < 20_000
    sentence = "A line &lt;/script&gt;."
    (place,) = re.findall('<div[^>]*class="plotly"[^>]*>.*</div>', text)
    assert 'role="img"' in place
    assert html.unescape(re.search('aria-label="([^"]*)"', place)[1]) == html.unescape(sentence)
    assert f">{sentence}</div>" in text  # which is all that there is without JavaScript
    assert text.count("</script>") == 6
    assert "which needs a kernel" in text
    assert "IntSlider()</pre>" not in text


def test_a_film_of_the_library_keeps_its_still_and_its_frames_and_the_page_plays_it_once(tmp_path):
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]
    film = Animation(frames, 2, "A tile that turns white.")
    text = shown(html=film._repr_html_(), plain="film")
    assert text.count("<img") == 1
    assert 'alt="A tile that turns white."' in text
    assert "data-film=" in text
    assert "<script" not in text
    assert "&lt;" not in text
    for folder in ("notebooks", "assets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text("# Films\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nurls = {Repository = "https://a.org/b"}\n')
    cells = [
        new_markdown_cell("# 00 · Films"),
        new_code_cell(
            "import numpy as np; from course_lib.pictures import Animation\n"
            "tiles = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]\n"
            "film = Animation(tiles, 2, 'A tile that turns white.'); display(film, film)"
        ),
    ]
    write(tmp_path / "notebooks" / "00_films.ipynb", cells)
    home, page = [path.read_text() for path in build_all(tmp_path)]
    assert page.count(player_script()) == 1
    assert player_script() not in home


def test_the_first_screen_is_the_explorer_with_one_sentence(pages, course):
    top = pages["index.html"].split("<main")[1]
    assert top.index("<h1>Tiny course</h1>") < top.index('class="lead"') < top.index("<iframe")
    assert 'src="explorer.html"' in top
    assert top.count("<h1>") == 1
    assert "a film" not in top
    assert (course / "site" / "explorer.html").read_text() == framed(EXPLORER)


def test_what_a_lesson_says_in_markdown_is_a_table_and_formulas_are_drawn(pages):
    text = pages["00_first.html"]
    assert "<td><strong>none</strong></td>" in text
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in text
    assert "$" not in re.sub("(?s)<script.*?</script>", "", text)


def test_the_index_of_the_search_has_every_section(pages, course):
    script = (course / "site" / "search.js").read_text()
    sections = json.loads(script.removeprefix("window.SECTIONS = ").rstrip(";\n"))
    (found,) = [section for section in sections if section[3] == "Grad-CAM"]
    assert found[:3] == ["00_first.html", "grad-cam", "00 · First"]
    assert "of gradients" in found[4]
    assert {section[0] for section in sections} == pages.keys()


def test_pictures_lie_beside_the_page_with_their_size(pages, course):
    pictures = re.findall("<img[^>]*>", pages["00_first.html"])
    assert len(pictures) == 3
    for picture in pictures:
        for attribute in ('width="4"', 'height="4"', 'loading="lazy"'):
            assert attribute in picture
    assert "base64" not in "".join(pictures)


def test_an_overview_has_a_page_with_a_title_and_a_language(tmp_path):
    text = shown(html='<div class="overview">Scores</div>', plain='Two "runs" & a table.')
    page = framed(BeautifulSoup(text, "html.parser").iframe["srcdoc"])
    (tmp_path / "frame.html").write_text(page)
    assert problems(tmp_path) == []
    assert "<title>Two &quot;runs&quot; &amp; a table.</title>" in page


def test_a_picture_comes_for_both_themes():
    figure, _ = blank_axes(1, 2, 4, 2)
    text = site_kernel.picture(Picture(figure, "A line & an image."))
    images = re.findall('class="on-(light|dark)" alt="A line &amp; an image."', text)
    assert images == ["light", "dark"]


def test_a_picture_in_a_widget_brings_no_style_of_its_own():
    figure, _ = blank_axes(1, 2, 4, 2)
    text = shown(html=f"<div>{Picture(figure, 'Two panels.')._repr_html_()}</div>")
    assert re.findall('class="on-(light|dark)"', text) == ["light", "dark"]
    assert "style" not in text


def test_a_picture_of_a_text_comes_for_the_theme_that_the_page_has():
    name = "assets/pictures/pipeline"
    text = f"""<picture>
<source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">
<img alt="The pipeline." src="{name}.png">
</picture>"""
    images = re.findall("<img[^>]*>", page_of(new_markdown_cell(text)))
    for theme, file, image in zip(("light", "dark"), ("", "-dark"), images, strict=True):
        data = (ROOT / f"{name}{file}.png").read_bytes()
        assert f'class="on-{theme}"' in image
        assert 'alt="The pipeline."' in image
        assert base64.b64encode(data).decode() in image


@pytest.mark.browser
def test_on_a_phone_a_wide_figure_scrolls_in_its_own_box(browser):
    figure, _ = blank_axes(1, 4, 8, 2)
    content = shown(html=site_kernel.picture(Picture(figure, "Four panels.")))
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.set_content(f"<style>{CSS}</style><main>{content}</main>")
    box = page.locator("figure")
    assert box.evaluate("e => e.scrollWidth") > 1.5 * box.evaluate("e => e.clientWidth")
    assert box.get_attribute("tabindex") == "0"
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem[:2])
def test_every_formula_of_a_lesson_can_be_drawn(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for latex, display in formulas(cell.source):
                assert mathml(latex, display).startswith("<math")


@pytest.mark.parametrize(
    ("latex", "words"),
    [
        (r"\foo", r"has \foo"),
        ("{a", "ends too early"),
        ("a}", "too many"),
        (r"\mathbb{Q}", r"\mathbb{Q}"),
        (r"\begin{cases}a\end{cases}", "begins 'cases'"),
    ],
)
def test_a_formula_that_cannot_be_drawn_is_refused_by_name(latex, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        mathml(latex)


@pytest.mark.parametrize(
    ("latex", "inside"),
    [
        ("x_t^2", "<msubsup><mi>x</mi><mi>t</mi><mn>2</mn></msubsup>"),
        (r"\tfrac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"a'", "<msup><mi>a</mi><mo>′</mo></msup>"),
        (r"\text{so that}", "<mtext>so\xa0that</mtext>"),
        (r"\begin{pmatrix}a & b\\ c & d\end{pmatrix}", "<mtr><mtd><mrow><mi>c</mi></mrow></mtd>"),
        ("a < b", "<mo>&lt;</mo>"),
    ],
)
def test_a_formula_becomes_mathml(latex, inside):
    assert inside in mathml(latex)


def test_a_bare_picture_is_described_by_its_text():
    assert 'alt="A tile &amp; more."' in shown(png="iVBORw0KGgo=", plain="A tile & more.")


def test_pages_that_a_lesson_saves_come_along_and_no_path_of_the_machine(pages, course):
    assert '<a href="00_first/own.html">own</a>' in pages["00_first.html"]
    assert (course / "site" / "00_first" / "own.html").read_text().endswith("<h1>Own</h1>")
    assert "../build/site/cache/lesson_00/own.html" in pages["00_first.html"]
    assert not any(str(course) in text for text in pages.values())


def test_the_prose_of_every_lesson_and_text_can_be_published(monkeypatch, tmp_path):
    """Their headings, pictures and links, without running them; `make site` looks at all of it."""
    monkeypatch.setattr(
        "tools.site.executed", lambda root, path, target: (nbformat.read(path, 4), [])
    )
    monkeypatch.setattr("tools.site._kept", lambda root, explorer: EXPLORER)
    names = {path.name for path in site(str(tmp_path))}
    lessons = {f"{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {"index.html", "cheatsheet.html"} | lessons <= names


# What is run


def test_a_lesson_is_run_again_only_if_it_or_what_it_uses_has_changed(pages, course, capsys):
    def again():
        capsys.readouterr()
        text = build_all(course)[1].read_text()
        return text, capsys.readouterr().out.count("unchanged")

    (course / "course_lib" / "commands" / "train.py").write_text("y = 1\n")
    assert again() == (pages["00_first.html"], 2)
    for file in ("course_lib/module.py", "assets/numbers.json"):
        (course / file).write_text("2\n")
        text, unchanged = again()
        assert unchanged == 0
        assert text != pages["00_first.html"]  # a new random number
    cells = [new_markdown_cell("# 01 · Second"), new_code_cell("2 + 2")]
    write(course / "notebooks" / "01_second.ipynb", cells)
    assert again() == (text, 1)
    kept = [path.name[:8] for path in sorted((course / "build" / "site").iterdir())]
    assert kept == ["00_first", "01_secon", "cache", "explorer"]


def test_a_failing_lesson_names_its_cell_and_the_ones_before_are_kept(tmp_path):
    good, bad = tmp_path / "00_good.ipynb", tmp_path / "01_bad.ipynb"
    write(good, [new_code_cell("1")])
    write(bad, [new_markdown_cell("# Bad"), new_code_cell("1 / 0", id="divides")])
    executed(tmp_path, good, tmp_path / "site")
    with pytest.raises(
        ValueError, match=r"01_bad.ipynb fails at cell 'divides': ZeroDivisionError: div"
    ):
        executed(tmp_path, bad, tmp_path / "site")
    (kept,) = (tmp_path / "build" / "site").glob("*/*.ipynb")
    assert kept.name == "00_good.ipynb"
    assert "widgets" not in json.loads(kept.read_text())["metadata"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_ctrl_c_stops_at_once_and_leaves_nothing_half(tmp_path):
    write(
        tmp_path / "00_long.ipynb",
        [new_code_cell("open('begun', 'w'); import time; time.sleep(600)")],
    )
    code = (
        "import sys; from pathlib import Path; from tools.site import executed\n"
        "try: executed(Path(), Path('00_long.ipynb'), Path('site'))\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    for _ in range(3000):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    errors = run.communicate(timeout=300)[1]
    assert run.returncode == 130, errors
    assert not list(tmp_path.glob("build/site/*/*.ipynb"))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(KeyboardInterrupt(), 130, "stopped; the same command"), (ValueError("no."), 2, "error: no.")],
)
def test_what_ends_a_command_is_one_sentence(error, code, words, monkeypatch, capsys):
    def command(output="here", lessons=()):
        raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run(command)
    assert ended.value.code == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("lessons", [["99"], ["04", "x"]])
def test_a_lesson_that_is_not_there_is_refused(lessons, tmp_path):
    with pytest.raises(ValueError, match=f"there is no lesson {lessons[-1]}"):
        site(str(tmp_path / "site"), lessons)
    assert not (tmp_path / "site").exists()


# What is refused

GOOD = (
    '<!doctype html><html lang="en"><head><title>A</title></head><body><h1'
    ' id="a">A</h1>{}</body></html>'
)


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ('<img src="a.png" alt=" ">', "no alternative text"),
        ('<img src="https://a.org/a.png" alt="a">', "the network"),
        ('<script src="//cdn.a.org/a.js"></script>', "from the network"),
        ('<a href="gone.html">x</a>', "leads nowhere"),
        ('<link rel="stylesheet" href="http://a.org/a.css">', "from the network"),
        ("<h3>x</h3>", "an h3 follows an h1"),
        ('<style>p { background: url("https://a.org/a") }</style>', "the network"),
        ('<iframe src="a.html"></iframe>', "no title"),
        ('<p id="a">x</p>', "used twice"),
        ('<a href="#b">x</a>', "leads nowhere"),
        ('<img src="gone.png" alt="a">', "leads nowhere"),
        (
            '<iframe title="a" srcdoc="&lt;script src=https://a.org/a.js&gt;"></iframe>',
            "from the network",
        ),
        ('<div style="background: url(https://a.org/a)"></div>', "from the network"),
        (f"<p>{'iVBORw0KGgo' * 50}</p>", "shows data or markup as if it were text"),
        ("<p>&lt;caption>A table</p>", "shows data or markup as if it were text"),
        ("<pre>&lt;IPython.core.display.Markdown object></pre>", "shows an object"),
        ("<pre>&lt;lib.Explorer object at 0x7f0d00></pre>", "shows an object"),
    ],
)
def test_a_planted_fault_on_a_page_is_found(planted, words, tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.html").write_text(GOOD.format(""))
    assert problems(tmp_path) == []
    (tmp_path / "b.html").write_text(GOOD.format(planted))
    assert any(
        problem.startswith("b.html: ") and words in problem for problem in problems(tmp_path)
    ), problems(tmp_path)


def test_a_page_without_language_or_title_is_found(tmp_path):
    (tmp_path / "a.html").write_text("<html><h1>A</h1></html>")
    assert problems(tmp_path) == ["a.html: has no title", "a.html: names no language"]


def test_a_page_with_a_fault_is_not_published(course, tmp_path):
    write(tmp_path / "00_first.ipynb", [new_markdown_cell("# A\n\n#### Too deep")])
    for name in ("README.md", "pyproject.toml"):
        (tmp_path / name).write_text(
            (course / name).read_text().replace("![A square](assets/square.png)", "")
        )
    with pytest.raises(ValueError, match=r"00_first\.html: an h4 follows an h1"):
        build(tmp_path, [tmp_path / "00_first.ipynb"], tmp_path / "site", lambda: EXPLORER)


# Light and dark


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(scheme):
    """At least 4.5 to 1, which WCAG 2.2 asks of text (level AA)."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", CSS)
    colours = {name: light if scheme == "light" else dark for name, light, dark in pairs}
    assert len(colours) == 11
    for name in set(colours) - {"paper", "panel", "line"}:
        for ground in ("paper", "panel"):
            bright, dim = sorted(
                (luminance(colours[name]), luminance(colours[ground])), reverse=True
            )
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, ground)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_pages_without_a_network(browser, pages, course, scheme):
    context, said = (
        browser.new_context(
            offline=True, color_scheme=scheme, viewport={"width": 400, "height": 800}
        ),
        [],
    )
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((course / "site" / "index.html").as_uri())
    grounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 29)"}
    other = {"light": "dark", "dark": "light"}[scheme]
    page.get_by_label("Theme").select_option(other)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[other]
    inside = page.frames[1]
    inside.wait_for_function(
        "colour => getComputedStyle(document.body).backgroundColor === colour",
        arg={"light": "rgb(255, 255, 255)", "dark": "rgb(17, 34, 51)"}[other],
    )
    page.get_by_label("Theme").select_option("")
    page.get_by_role("searchbox").fill("grad-cam")
    page.get_by_role("link", name="00 · First › Grad-CAM").wait_for()
    page.get_by_role("searchbox").fill("nowhere")
    page.get_by_text("Nothing is about “nowhere”.").wait_for()
    page.get_by_role("link", name="00 · First →").first.click()
    page.locator(".plotly .main-svg").first.wait_for()
    page.locator(".plotly[role=figure]").wait_for()
    assert page.locator(".plotly path.js-line").count() == 1
    page.locator(".plotly image").first.wait_for(state="attached")
    assert audit(page) == []
    clear = "each => getComputedStyle(each).backgroundColor"
    papers = {each.evaluate(clear) for each in page.locator(".drawn, .drawn .plotly").all()}
    assert papers == {"rgba(0, 0, 0, 0)"}
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == grounds[scheme]
    assert page.get_by_role("button", name="Copy this code").count() == 4
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_role("link", name="own").click()
    page.wait_for_url("**/own.html")
    assert page.title() == "Own"
    context.close()
    assert said == []


# The workflow


def test_the_workflow_publishes_what_make_site_writes():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert any(command.startswith("make site") for command in commands)
    uploads = [
        step["with"]["path"] for step in steps if "upload-pages-artifact" in step.get("uses", "")
    ]
    assert uploads == ["site"]
    (kept,) = [step["with"]["path"] for step in steps if "actions/cache" in step.get("uses", "")]
    assert kept == "build/site"
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert workflow["jobs"]["publish"]["needs"] == "build"

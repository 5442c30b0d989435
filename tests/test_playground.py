"""The playground: its numbers are PyTorch's, in Python and in the page, whatever one drags."""

import json
import math

import explorer_driver
import pytest
import torch
import torch.nn.functional as F
from explorer_driver import eventually, opened, put, settle, state
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_page import contrast, luminance
from torch.testing import assert_close
from traitlets import TraitError

from course_lib.explorer import AttentionPlayground
from tools import site

open_page = explorer_driver.open_page  # a fixture

STATE = ("query", "points", "values", "mask", "temperature", "heads", "self_attention")
NAMES = ("smile", "laugh", "nod", "shake", "brows", "still")

# The picture's own claim on what the heads do to a query.
TURNS = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (-y, x),
    3: lambda x, y: (1.4 * x, 0),
    4: lambda x, y: (0, 1.4 * y),
}


def of_torch(state):
    """PyTorch's weights, `heads queries keys`, and outputs, `queries 2`, in that state."""
    keys = torch.tensor(state["points"], dtype=torch.float64)
    queries, values = keys, keys
    if not state["self_attention"]:
        queries = torch.tensor([state["query"]], dtype=torch.float64)
        values = torch.tensor(state["values"], dtype=torch.float64)
    scale = 1 / (math.sqrt(2) * state["temperature"])
    mask, some = torch.tensor(state["mask"]), torch.eye(len(keys), dtype=torch.float64)
    weights, outputs = [], []
    for head in range(1, state["heads"] + 1):
        turned = [TURNS[head](*query) for query in queries.tolist()]
        turned = torch.tensor(turned, dtype=torch.float64)
        for content, results in ((some, weights), (values, outputs)):
            results.append(
                F.scaled_dot_product_attention(turned, keys, content, attn_mask=mask, scale=scale)
            )
    return torch.stack(weights), torch.stack(outputs).mean(0)


places = st.lists(st.integers(-250, 250).map(lambda number: number / 100), min_size=2, max_size=2)
STATES = st.fixed_dictionaries(
    {
        "query": places,
        "points": st.lists(places, min_size=6, max_size=6),
        "values": st.lists(places, min_size=6, max_size=6),
        "mask": st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
        "temperature": st.floats(0.05, 20),
        "heads": st.integers(1, 4),
        "self_attention": st.booleans(),
    }
)


def read(playground):
    return {name: getattr(playground, name) for name in STATE}


# ---------------------------------------------------------------- in Python


@given(STATES)
def test_python_computes_what_pytorch_does(wanted):
    playground = AttentionPlayground(**wanted)
    assert read(playground) == wanted
    weights, outputs = of_torch(wanted)
    assert_close(playground.weights, weights, rtol=0, atol=1e-5)
    assert_close(playground.output, outputs, rtol=0, atol=1e-5)


def test_one_key_gets_everything_whatever_the_query_is():
    playground = AttentionPlayground(mask=[False, False, True, False, False, False])
    for query in ([2.5, 2.5], [-1.0, 0.3], [0.0, 0.0]):
        playground.query = query
        assert playground.weights[0, 0].tolist() == [0, 0, 1, 0, 0, 0]
        assert playground.output[0].tolist() == playground.values[2]
    assert "attends most to nod (1.00)" in playground.describe()


def test_the_sentence_says_where_all_are_alike_or_masked():
    playground = AttentionPlayground(temperature=20, query=[0, 0])
    assert "attends to all alike (0.17); the output is" in playground.describe()
    playground.self_attention = True
    assert "still attends to all alike (0.17)" in playground.describe()
    playground.mask = [False] * 6
    assert playground.weights.abs().sum() == 0
    assert playground.describe().startswith("Every key is masked")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"query": [3, 0]}, r"query has the point \[3, 0\], expected two numbers from -2.5 to 2.5"),
        ({"query": [1]}, "expected two numbers"),
        ({"values": [[0.0, math.nan]] * 6}, "expected two numbers"),
        ({"points": [[0, 0]]}, "points has 1 entries, expected 6, one for each of smile, laugh"),
        ({"mask": [True] * 7}, "mask has 7 entries, expected 6"),
        ({"mask": [0.5] * 6}, "expected True or False"),
        ({"temperature": 0}, "temperature is 0.0, expected 0.05 to 20.0"),
        ({"heads": 5}, "heads is 5, expected 1 to 4"),
        ({"names": ("one", "two")}, "points has 6 entries, expected 2"),
    ],
)
def test_what_cannot_be_is_refused(changed, words):
    with pytest.raises(TraitError, match=words):
        AttentionPlayground(**changed)
    if "names" not in changed:
        playground = AttentionPlayground()
        before = read(playground)
        with pytest.raises(TraitError, match=words):
            playground.set_trait(*next(iter(changed.items())))
        assert read(playground) == before


def test_two_playgrounds_share_nothing():
    one, other = AttentionPlayground(), AttentionPlayground()
    one.points = [[1.0, 1.0]] * 6
    assert other.points != one.points
    assert AttentionPlayground().points == other.points


def test_other_points_have_names_of_their_own():
    own = {"points": [[1, 0], [0, 1]], "values": [[1, 1], [0, 0]], "mask": [True, True]}
    playground = AttentionPlayground(names=("left", "up"), query=[2, 0], **own)
    assert playground.weights.shape == (1, 1, 2)
    assert "attends most to left" in playground.describe()
    playground.self_attention = True
    assert playground.output.shape == (2, 2)


def test_a_notebook_that_forgot_its_widgets_shows_a_page_and_a_picture():
    playground = AttentionPlayground(temperature=0.5)
    data, _ = playground._repr_mimebundle_()
    assert data["text/plain"] == playground.describe()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == playground.model_id
    shown = data["text/html"]
    assert shown.count("<iframe ") == 1
    assert 'sandbox="allow-scripts"' in shown
    assert f'<img alt="{playground.describe()}" class="on-light"' in shown


# ---------------------------------------------------------------- in the page


def shown(root):
    """The numbers that stand in the page: weights `heads queries keys`, outputs `queries 2`."""
    cells = root.locator("[data-weight]").evaluate_all("all => all.map((one) => one.dataset)")
    texts = root.locator("[data-weight]").all_inner_texts()
    weights = {}
    for cell, text in zip(cells, texts, strict=True):
        assert float(text) == pytest.approx(float(cell["weight"]), abs=0.0051)
        place = int(cell["head"]), int(cell["query"]), int(cell["key"])
        weights[place] = float(cell["weight"])
    heads, queries, keys = (max(places) + 1 for places in zip(*weights, strict=True))
    weights = torch.tensor(list(weights.values()), dtype=torch.float64)
    outputs = root.locator("[data-output]").evaluate_all(
        "all => all.map((one) => JSON.parse(one.dataset.output))"
    )
    return weights.view(heads, queries, keys), torch.tensor(outputs, dtype=torch.float64)


def assert_pytorchs(root, state):
    weights, outputs = of_torch(state)
    assert_close(shown(root)[0], weights, rtol=0, atol=1e-5)
    assert_close(shown(root)[1], outputs, rtol=0, atol=1e-5)


def sentence(root):
    return root.locator(".sentence").inner_text()


def middle(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start, end):
    """From one place to another; a place is an element's middle, or numbers."""
    if not isinstance(end, tuple):
        end.scroll_into_view_if_needed()
    start, end = (one if isinstance(one, tuple) else middle(one) for one in (start, end))
    page.mouse.move(*start)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(*(a + (b - a) * step / 5 for a, b in zip(start, end, strict=True)))
    page.mouse.up()


def handle(root, name, index=0):
    """What one grips of a point, without its name."""
    return root.locator(f".plane [data-name={name}][data-index='{index}'] .grip").first


def play(page, root, now, expect):
    """Use all that can be used; `now()` is the state, and `expect` waits for what it should be."""
    root.locator(".plane").first.scroll_into_view_if_needed()

    def check(**wanted):
        for name, value in wanted.items():
            expect(name, value)
        settle(page)
        assert_pytorchs(root, now())
        assert sentence(root) == AttentionPlayground(**now()).describe()

    check(heads=1)
    # the mouse: the query onto a key, from an empty place, and a key and a value onto others
    drag(page, handle(root, "query"), handle(root, "points", 1))
    check(query=now()["points"][1])
    root.locator(".plane").first.scroll_into_view_if_needed()
    box = root.locator(".plane").first.bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    check(query=[-2.5, 2.5])
    page.mouse.move(*middle(handle(root, "points", 3)))
    check(query=now()["points"][3])
    page.mouse.up()
    check(query=now()["points"][3])
    drag(page, handle(root, "points", 2), handle(root, "points", 4))
    check(points=[*now()["points"][:2], now()["points"][4], *now()["points"][3:]])
    drag(page, handle(root, "values", 0), handle(root, "values", 5))
    check(values=[now()["values"][5], *now()["values"][1:]])
    # the keyboard
    x, y = now()["query"]
    query = root.get_by_role("slider", name="query")
    query.focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    check(query=[round(x + 0.1, 2), round(y + 0.11, 2)])
    page.keyboard.press("Shift+Tab")  # the last key
    page.keyboard.press("ArrowLeft")
    check(points=[*now()["points"][:5], [-0.1, 0]])
    root.get_by_role("slider", name="Temperature").press("ArrowRight")
    check(temperature=1.1)
    root.get_by_role("radio", name="1 head").press("ArrowRight")
    check(heads=2)
    root.get_by_role("radio", name="4 heads").click()
    check(heads=4)
    root.get_by_label("nod", exact=True).and_(root.get_by_role("checkbox")).press("Space")
    check(mask=[True, True, False, True, True, True])
    root.get_by_role("radio", name="as self-attention").click()
    check(self_attention=True)
    drag(page, handle(root, "points", 0), handle(root, "points", 3))
    check(points=[now()["points"][3], *now()["points"][1:]])
    root.get_by_role("radio", name="as self-attention").press("ArrowLeft")
    check(self_attention=False)
    assert page.evaluate("document.activeElement.innerText") == "as cross-attention"
    # the presets
    for name, wanted in {
        "very cold": {"temperature": 0.05},
        "very hot": {"temperature": 20},
        "two keys alike": {"points": replaced(now()["points"], 1, now()["points"][0])},
        "one key": {"mask": [True, False, False, False, False, False]},
    }.items():
        root.get_by_role("button", name=name).click()
        check(**wanted)
    assert shown(root)[0][:, 0, 0].tolist() == [1] * 4
    root.get_by_role("button", name="reset").click()
    check(**read(AttentionPlayground()))


def replaced(points, index, point):
    return [point if i == index else other for i, other in enumerate(points)]


def near(one, other):
    return torch.allclose(torch.tensor(one).float(), torch.tensor(other).float(), atol=0.011)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return AttentionPlayground().to_html(tmp_path_factory.mktemp("page") / "playground.html")


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 833])
def test_the_saved_page_by_mouse_and_keyboard(open_page, saved, width):
    page = open_page(saved, width=width)

    def now():
        return {name: state(page, name) for name in STATE}

    play(
        page,
        page.locator(".playground"),
        now,
        lambda name, value: eventually(lambda: near(now()[name], value)),
    )


@pytest.mark.browser
def test_random_states_are_pytorchs_in_the_page(open_page, saved):
    page = open_page(saved)
    root = page.locator(".playground")

    @given(STATES)
    def check(wanted):
        put(page, **wanted)
        assert_pytorchs(root, wanted)
        assert sentence(root) == AttentionPlayground(**wanted).describe()

    check()


@pytest.mark.browser
def test_the_formula_follows_the_pointer(open_page, saved):
    page = open_page(saved)
    formula = page.locator(".formula")
    assert "From query to laugh" in formula.inner_text()
    page.locator(".playground tr", has_text="nod").hover()
    settle(page)
    score = (1.2 * 0.2 + 0.4 * 1.6) / math.sqrt(2)
    assert "From query to nod" in formula.inner_text()
    assert f"= (1.20 · 0.20 + −0.40 · −1.60) / (1.41 · 1) = {score:.2f}" in formula.inner_text()
    page.get_by_role("slider", name="brows").first.focus()
    settle(page)
    assert "From query to brows" in formula.inner_text()
    page.get_by_role("radio", name="as self-attention").click()
    page.locator("[data-query='3'][data-key='4']").hover()
    settle(page)
    assert "From shake to brows" in formula.inner_text()


@pytest.mark.browser
def test_a_screen_reader_is_told_after_a_while(open_page, saved):
    page = open_page(saved)
    page.get_by_role("slider", name="query").press("ArrowUp")
    settle(page)
    eventually(lambda: page.locator("[aria-live]").inner_text() == sentence(page))
    assert "(1.20, -0.30)" in sentence(page)


@pytest.mark.browser
def test_a_finger_drags_a_point_and_taps_the_query_elsewhere(browser, saved):
    context = browser.new_context(
        has_touch=True, viewport={"width": 400, "height": 900}, offline=True
    )
    page = context.new_page()
    page.goto(f"file://{saved}")
    eventually(lambda: page.evaluate("window.attention !== undefined"))
    plane = page.locator(".plane").first
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    eventually(lambda: near(state(page, "query"), [-1.35, 1.35]))
    start, end = middle(handle(page, "points", 0)), middle(handle(page, "points", 2))
    touch = context.new_cdp_session(page)
    for step in range(11):  # downwards and in small steps, as the page would be scrolled
        x, y = (a + (b - a) * step / 10 for a, b in zip(start, end, strict=True))
        kind = "touchMove" if step else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    eventually(lambda: near(state(page, "points")[0], state(page, "points")[2]))
    context.close()


@pytest.mark.browser
def test_the_address_remembers_and_nonsense_is_brought_within_bounds(open_page, saved):
    page = open_page(saved)
    put(page, query=[9, "x"], heads=17, temperature=-1, mask=None, points=[[1]])
    assert state(page, "heads") == 17  # what was asked for
    assert_pytorchs(
        page.locator(".playground"),
        read(AttentionPlayground())
        | {"query": [2.5, 0], "heads": 4, "temperature": 0.05}
        | {"points": replaced(AttentionPlayground().points, 0, [1, 0.6])},
    )
    put(page, **read(AttentionPlayground(query=[0.5, 0.25])))
    eventually(lambda: "0.25" in page.evaluate("location.hash"))
    again = open_page(f"{saved}{page.evaluate('location.hash')}")
    assert state(again, "query") == [0.5, 0.25]


@pytest.mark.browser
def test_light_dark_narrow_and_without_javascript(open_page, saved):
    for scheme in ("light", "dark"):
        page = open_page(saved, scheme, width=400)
        for heads, within in ((1, False), (4, True)):
            put(page, heads=heads, self_attention=within)
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
        paper, ink = colours(page)
        assert contrast(ink, paper) > 7
        assert (luminance(paper) > 0.5) == (scheme == "light")
        # the notebook's theme goes before the system's
        page.evaluate(f"document.body.dataset.jpThemeLight = '{str(scheme == 'dark').lower()}'")
        paper, ink = colours(page)
        assert contrast(ink, paper) > 7
        assert (luminance(paper) > 0.5) == (scheme == "dark")
    page = open_page(saved, script=False)
    assert "JavaScript is off" in page.locator("#note").inner_text()
    image = page.locator("#static img")
    assert image.get_attribute("alt") == AttentionPlayground().describe()
    assert "0.412" in page.locator("#static table").inner_text()


def colours(page):
    return page.evaluate(
        "(({ backgroundColor, color }) => [backgroundColor, color])"
        '(getComputedStyle(document.querySelector(".playground")))'
    )


@pytest.mark.browser
def test_the_site_shows_it_alive_in_a_frame(browser, tmp_path):
    data, _ = AttentionPlayground()._repr_mimebundle_()
    cell = new_code_cell(outputs=[new_output("display_data", data)])
    notebook = new_notebook(cells=[cell])
    site.prepare(notebook)
    content = str(site.converted(notebook, tmp_path))
    page = browser.new_page()
    page.set_content(content)
    root = page.frame_locator("iframe").locator(".playground")
    root.get_by_role("slider", name="query").press("ArrowUp")
    eventually(lambda: "(1.20, -0.30)" in sentence(root))
    assert (
        page.locator("figure img.on-light").get_attribute("alt") == AttentionPlayground().describe()
    )
    page.close()


# ---------------------------------------------------------------- in real notebooks

CELLS = [
    """\
import sys
sys.path.insert(0, r"ROOT")
from course_lib.explorer import AttentionPlayground
playground = AttentionPlayground()
playground"""
]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("name", ["lab", "classic"])
def test_page_and_python_agree_in_a_notebook(browser, tmp_path, name):
    with opened(browser, tmp_path, name, CELLS, ".playground") as (page, kernel):
        root = page.locator(".playground")

        def now():
            names = ", ".join(f"{name!r}: playground.{name}" for name in STATE)
            return json.loads(kernel(f"import json; print(json.dumps({{{names}}}))"))

        play(page, root, now, lambda name, value: eventually(lambda: near(now()[name], value)))
        kernel(
            "with playground.hold_sync():\n"
            "    playground.query, playground.temperature = [-1.5, 1.0], 0.3"
        )
        eventually(lambda: "(-1.50, 1.00)" in sentence(root))
        assert_pytorchs(root, now())
        weights = json.loads(kernel("print(playground.weights.tolist())"))
        assert_close(torch.tensor(weights).double(), shown(root)[0], rtol=0, atol=1e-5)
        root.wait_for()

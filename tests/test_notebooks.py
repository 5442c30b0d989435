"""The conventions that all notebooks keep, each with a planted fault that shows it can fail.

A convention is a function `(notebook, name) -> list of problems`.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.lessons.exercises import all_exercises
from retarget import configured

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = f"https://github.com/{configured()}"

FIRST_CELL = f"""\
import importlib.util
if importlib.util.find_spec("course_lib") is None:  # on Colab; elsewhere it is installed
    !rm -rf course_part  # what an interrupted clone has left
    !GIT_TERMINAL_PROMPT=0 git clone -q --depth 1 {REPOSITORY} course_part \\
        && rm -rf course_clone && mv course_part course_clone && ln -sfn course_clone/course_lib
    importlib.invalidate_caches()
    if importlib.util.find_spec("course_lib") is None:
        raise ImportError("the clone failed, see above; check the network and the address, then run this cell again")
from course_lib import setup; rt = setup()"""

FORBIDDEN = {
    r"\bpip3? install|%pip|%conda|conda install": "installs something; all that is needed is there",
    r"tqdm\.(notebook|auto)": "tqdm's widget breaks GitHub's rendering; use tqdm.std",
    r"\bFigureWidget\b": "a FigureWidget stores 5 MB in the notebook; use a plain figure",
    r"\bAccordion\b": "an Accordion differs between ipywidgets 7 and 8",
    r"(?m)^\s*(\w+\s*=\s*)?!(?!=)|^\s*%%(bash|sh|script|cmd)\b": "runs a shell command",
    r"%cd\b|\bos\.chdir\b": "changes the working folder, so that cells cannot be run in any order",
    r"""["'](/(?!content/drive)|~/|[A-Za-z]:[\\/])\w""": "holds an absolute path",
    rf"https?://(?!{re.escape(REPOSITORY.removeprefix('https://'))})": (
        "names a host on the network"
    ),
    r"\btorch\.load\((?!.*weights_only=True)|\bpickle\.(load|Unpickler)": (
        "reads pickles; use files.load_tensors, or weights_only=True"
    ),
    r"(?m)^\s*from \S+ import \*": "imports a star",
}
COLUMNS = 88  # of a drawing
EXERCISE = re.compile(
    r"\*\*Exercise (\d+)\.(\d+) — [^*]+\*\* · difficulty (●*○*) · importance (●*○*) · "
    r"about \d+ minutes?$"
)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def parse(source):
    """The syntax tree of a cell, its magics and shell lines made into calls."""
    return ast.parse(TransformerManager().transform_cell(source))


# The conventions


def is_valid(notebook, name):
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"is no valid notebook: {error.message}"]
    return []


def is_committed_without_outputs(notebook, name):
    problems = []
    for cell in code_cells(notebook):
        # nbval refuses an output without a count
        if (cell.execution_count is None) == bool(cell.outputs):
            problems.append(
                f"cell {cell.id} has an execution count without outputs, or outputs without a count"
            )
        if cell.outputs and "nbval-check-output" not in cell.metadata.get("tags", []):
            problems.append(f"cell {cell.id} has outputs and no tag nbval-check-output")
        for output in cell.outputs:
            if output.output_type != "stream" and set(output.get("data", {"not text": 0})) != {
                "text/plain"
            }:
                problems.append(f"cell {cell.id} has an output that is not text")
            if len(json.dumps(output)) > 2000:
                problems.append(f"cell {cell.id} has an output of more than 2,000 characters")
    return problems


def holds_no_widget_state(notebook, name):
    return ["metadata.widgets is there"] if "widgets" in notebook.metadata else []


def is_small(notebook, name):
    size = len(nbformat.writes(notebook).encode())
    return [f"is {size} bytes, more than 200 kB"] if size >= 200_000 else []


def runs_on_python3(notebook, name):
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    return [] if kernel == "python3" else [f"asks for the kernel {kernel}, not python3"]


def has_unique_cell_ids(notebook, name):
    ids = [cell.get("id", "") for cell in notebook.cells]
    return [
        f"the cell id {cell_id!r} is empty or used twice"
        for cell_id in {*ids}
        if not cell_id or ids.count(cell_id) > 1
    ]


def begins_like_all(notebook, name):
    cells = code_cells(notebook)
    return (
        []
        if cells and cells[0].source == FIRST_CELL
        else [f"the first code cell is not\n{FIRST_CELL}"]
    )


def has_its_colab_badge(notebook, name):
    link = f"(https://colab.research.google.com/github/{configured()}/blob/main/notebooks/{name})"
    badges = [
        line
        for cell in markdown_cells(notebook)
        for line in cell.source.splitlines()
        if "colab.research.google.com/github" in line
    ]
    return (
        []
        if len(badges) == 1 and badges[0].count(link) == 1
        else [f"expected one Colab badge, linking to {link}"]
    )


def calls_nothing_forbidden(notebook, name):
    return [
        f"cell {cell.id} {why}"
        for cell in code_cells(notebook)[1:]
        for pattern, why in FORBIDDEN.items()
        if re.search(pattern, cell.source)
    ]


def shows_no_plotly_inside_an_output(notebook, name):
    return [
        f"cell {cell.id} puts a plotly figure into an ipywidgets Output, which stays empty on Colab"
        for cell in code_cells(notebook)
        if re.search(r"\bOutput\(|\binteract(ive)?(_output)?\(", cell.source)
        and re.search(r"plotly|\bgo\.Figure|\bfigures\.|\.show\(", cell.source)
    ]


def parses(notebook, name):
    problems = []
    for cell in code_cells(notebook):
        try:
            parse(cell.source)
        except SyntaxError as error:
            problems.append(f"cell {cell.id}, line {error.lineno}: {error.msg}")
    return problems


def describes_its_pictures(notebook, name):
    return [
        f"cell {cell.id} has a picture without a description"
        for cell in markdown_cells(notebook)
        if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")", cell.source)
    ]


def heads_its_exercises(notebook, name):
    problems, numbers = [], []
    lines = [line for cell in markdown_cells(notebook) for line in cell.source.splitlines()]
    for line in (line for line in lines if re.match(r"[>#\s]*(\*\*)?Exercise\b", line)):
        heading = EXERCISE.search(line)
        if not heading or {len(heading[3]), len(heading[4])} != {5}:
            problems.append(
                f"{line!r} is not '**Exercise 4.2 — title** · difficulty ●●○○○ · importance ●●●●● ·"
                " about 8 minutes'"
            )
        else:
            numbers.append((int(heading[1]), int(heading[2])))
    if not problems and numbers != [
        (int(name[:2]), 1 + index) for index in range(max(3, len(numbers)))
    ]:
        problems.append(
            f"expected three or more exercises numbered {int(name[:2])}.1, .2, .3 …; found"
            f" {numbers}"
        )
    return problems


def checks_each_exercise(notebook, name):
    problems, awaited = [], None
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for line in filter(EXERCISE.search, cell.source.splitlines()):
                if awaited:
                    problems.append(f"{awaited!r} is followed by no check")
                awaited = line
        elif re.search(r"\bcheck\(", cell.source):
            problems += stub_problems(cell, name)
            if not awaited:
                problems.append(f"cell {cell.id} checks an exercise that has no heading")
            elif not any(map(EXERCISE.search, notebook.cells[index - 1].source.splitlines())):
                problems.append(f"cell {cell.id} is not right after the heading of its exercise")
            awaited = None
    return problems + ([f"{awaited!r} is followed by no check"] if awaited else [])


def stub_problems(cell, name):
    """What is wrong with a cell that should read: stub with a docstring and `...`, then `f =
    check("f", f)`.
    """
    match parse(cell.source).body:
        case [
            *_,
            ast.FunctionDef() | ast.ClassDef() as stub,
            ast.Assign(
                targets=[ast.Name(bound)],
                value=ast.Call(ast.Name("check"), [ast.Constant(exercise), ast.Name(passed)]),
            ),
        ]:
            problems = []
            if not bound == passed == stub.name:
                problems.append(
                    f"cell {cell.id} defines {stub.name}, checks {passed} and binds {bound}"
                )
            if all_exercises().get(exercise, [""])[0] != name[:2]:
                problems.append(
                    f"cell {cell.id} checks {exercise!r}, which is no exercise of lesson {name[:2]}"
                )
            functions = [node for node in ast.walk(stub) if isinstance(node, ast.FunctionDef)]
            if not ast.get_docstring(stub) or not any(
                isinstance(function.body[-1], ast.Expr)
                and ast.unparse(function.body[-1]) == "..."
                and len(function.body) <= 2
                for function in functions
            ):
                problems.append(
                    f"cell {cell.id}: the body of {stub.name} is not a docstring and `...`"
                )
            return problems
    return [f'cell {cell.id} does not end with a stub and `name = check("name", name)`']


def has_narrow_drawings(notebook, name):
    """JupyterLab breaks the lines of a drawing that is wider than a cell of a small window."""
    problems = []
    for cell in markdown_cells(notebook):
        for drawing in re.findall(r"^```\w*\n(.*?)^```", cell.source, re.DOTALL | re.MULTILINE):
            widest = max(map(len, drawing.splitlines()))
            if widest > COLUMNS:
                problems.append(f"cell {cell.id} has a drawing of {widest} columns, not {COLUMNS}")
    return problems


def has_valid_forms(notebook, name):
    problems = []
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            if "@param" in line and (problem := form_problem(line)):
                problems.append(f"cell {cell.id}, {line!r}: {problem}")
    return problems


def form_problem(line):
    form = re.fullmatch(r"[A-Za-z_]\w* = (.+?)  # @param (\[.*?\])? ?(\{.*\})?", line)
    if not form:
        return 'expected NAME = default  # @param ["a", "b"] or {type: "string"}'
    try:
        default = ast.literal_eval(form[1])
        options = ast.literal_eval(form[2]) if form[2] else None
    except (ValueError, SyntaxError):
        return "the default and the options must be literals"
    if options is None and not re.search(r"\btype\"?\s*:", form[3] or ""):
        return "neither options nor a type"
    if options is not None and default not in options and "allow-input" not in (form[3] or ""):
        return f"the default {default!r} is not among the options"
    return None


CONVENTIONS = [
    is_valid,
    is_committed_without_outputs,
    holds_no_widget_state,
    is_small,
    runs_on_python3,
    has_unique_cell_ids,
    begins_like_all,
    has_its_colab_badge,
    calls_nothing_forbidden,
    shows_no_plotly_inside_an_output,
    parses,
    describes_its_pictures,
    heads_its_exercises,
    checks_each_exercise,
    has_narrow_drawings,
    has_valid_forms,
]


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: convention.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook(path, convention):
    problems = convention(nbformat.read(path, as_version=nbformat.NO_CONVERT), path.name)
    assert not problems, "\n".join(problems)


# Planted faults

NAME = "00_start_here.ipynb"
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    f"(https://colab.research.google.com/github/{configured()}/blob/main/notebooks/{NAME})"
)


def exercise_cells(number, name):
    heading = (
        f"> **Exercise 0.{number} — {name}** · difficulty ●○○○○ · importance ●●●●● · about 5"
        " minutes"
    )
    stub = f'def {name}(*inputs):\n    """What to write."""\n    ...'
    return [
        new_markdown_cell(f"{heading}\n>\n> Write it."),
        new_code_cell(f'{stub}\n\n{name} = check("{name}", {name})'),
    ]


def good_notebook():
    forms = (
        'DATA = "synthetic"  # @param ["synthetic", "celeba"]\nPATH = ""  # @param {type: "string"}'
    )
    cells = [
        new_markdown_cell(f"# Start here\n\n{BADGE}\n\n![a map](map.png)"),
        new_code_cell(FIRST_CELL),
        new_code_cell(f"from course_lib.lessons import check\n\n{forms}"),
        new_code_cell(
            "%matplotlib inline\n1 + 1",
            metadata={"tags": ["nbval-check-output"]},
            execution_count=3,
            outputs=[new_output("execute_result", {"text/plain": "2"}, execution_count=3)],
        ),
    ]
    for number, name in enumerate(("to_tokens", "mean_accuracy", "floor_prediction"), start=1):
        cells += exercise_cells(number, name)
    return new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda convention: convention.__name__)
def test_a_good_notebook_keeps_every_convention(convention):
    assert convention(good_notebook(), NAME) == []


def in_cell(index, old, new):
    """A fault planted in the text of one cell."""

    def plant(notebook):
        assert old in notebook.cells[index].source
        notebook.cells[index].source = notebook.cells[index].source.replace(old, new)

    return plant


def add(source, **more):
    return lambda notebook: notebook.cells.append(new_code_cell(source, **more))


PICTURE = new_output("display_data", {"image/png": "iVBORw0KGgo="})
FAULTS = [
    (is_valid, lambda notebook: notebook.cells[1].pop("outputs"), "no valid notebook"),
    (
        is_committed_without_outputs,
        add("1", outputs=[new_output("stream", text="1")]),
        "no tag nbval-check-output",
    ),
    (is_committed_without_outputs, add("1", execution_count=3), "execution count without outputs"),
    (
        is_committed_without_outputs,
        lambda notebook: notebook.cells[3].update(execution_count=None),
        "without a count",
    ),
    (
        is_committed_without_outputs,
        lambda notebook: notebook.cells[3].outputs.append(PICTURE),
        "is not text",
    ),
    (
        is_committed_without_outputs,
        lambda notebook: notebook.cells[3].outputs.append(
            new_output("stream", text="epoch 1\n" * 300)
        ),
        "more than 2,000 characters",
    ),
    (
        holds_no_widget_state,
        lambda notebook: notebook.metadata.update(widgets={}),
        "metadata.widgets",
    ),
    (
        is_small,
        lambda notebook: notebook.cells.append(new_markdown_cell("word " * 40_000)),
        "more than 200 kB",
    ),
    (
        runs_on_python3,
        lambda notebook: notebook.metadata.kernelspec.update(name="course"),
        "the kernel course",
    ),
    (runs_on_python3, lambda notebook: notebook.metadata.clear(), "the kernel None"),
    (
        has_unique_cell_ids,
        lambda notebook: notebook.cells[2].update(id=notebook.cells[1].id),
        "used twice",
    ),
    (begins_like_all, in_cell(1, "--depth 1", ""), "first code cell is not"),
    (
        begins_like_all,
        lambda notebook: notebook.cells.insert(0, new_code_cell("import torch")),
        "first code cell",
    ),
    (
        has_its_colab_badge,
        in_cell(0, configured(), "another/repository"),
        "expected one Colab badge",
    ),
    (has_its_colab_badge, in_cell(0, NAME, "01_static_features.ipynb"), "expected one Colab badge"),
    (has_its_colab_badge, in_cell(0, BADGE, ""), "expected one Colab badge"),
    (has_its_colab_badge, in_cell(0, BADGE, f"{BADGE}\n{BADGE}"), "expected one Colab badge"),
    (calls_nothing_forbidden, add("!pip install einops"), "installs something"),
    (calls_nothing_forbidden, add("%pip install einops"), "installs something"),
    (calls_nothing_forbidden, add("from tqdm.notebook import tqdm"), "use tqdm.std"),
    (calls_nothing_forbidden, add("from tqdm.auto import tqdm"), "use tqdm.std"),
    (calls_nothing_forbidden, add("go.FigureWidget(figure)"), "a plain figure"),
    (calls_nothing_forbidden, add("widgets.Accordion([a])"), "Accordion"),
    (calls_nothing_forbidden, add("x = 1\nif x:\n    !ls"), "shell command"),
    (calls_nothing_forbidden, add("names = !ls"), "shell command"),
    (calls_nothing_forbidden, add("%%bash\nls"), "shell command"),
    (calls_nothing_forbidden, add("%cd notebooks"), "working folder"),
    (calls_nothing_forbidden, add('clip = "/content/clip.mp4"'), "absolute path"),
    (calls_nothing_forbidden, add("clip = '~/clip.mp4'"), "absolute path"),
    (calls_nothing_forbidden, add(r"clip = 'C:\clips\one.mp4'"), "absolute path"),
    (
        calls_nothing_forbidden,
        add('download("https://example.org/clip.mp4", "clip.mp4")'),
        "a host on the network",
    ),
    (calls_nothing_forbidden, add('torch.load("model.pt")'), "pickles"),
    (calls_nothing_forbidden, add("from course_lib import *"), "star"),
    (
        shows_no_plotly_inside_an_output,
        add("out = widgets.Output()\nwith out:\n    figure.show()"),
        "empty on Colab",
    ),
    (
        shows_no_plotly_inside_an_output,
        add("interact(lambda t: go.Figure(data[t]), t=(0, 9))"),
        "empty on Colab",
    ),
    (parses, add("x = = 1"), "invalid syntax"),
    (describes_its_pictures, in_cell(0, "![a map]", "![]"), "without a description"),
    (
        describes_its_pictures,
        in_cell(0, "![a map](map.png)", '<img src="map.png" width="9">'),
        "without a description",
    ),
    (heads_its_exercises, in_cell(4, " · about 5 minutes", ""), "is not '**Exercise"),
    (heads_its_exercises, in_cell(4, "●○○○○", "●○○○"), "is not '**Exercise"),
    (heads_its_exercises, in_cell(4, "> **Exercise", "### Exercise"), "is not '**Exercise"),
    (heads_its_exercises, in_cell(4, "0.1", "1.1"), "numbered 0.1"),
    (
        heads_its_exercises,
        lambda notebook: notebook.cells.__delitem__(slice(4, 6)),
        "three or more exercises",
    ),
    (checks_each_exercise, lambda notebook: notebook.cells.pop(5), "followed by no check"),
    (checks_each_exercise, lambda notebook: notebook.cells.pop(9), "followed by no check"),
    (checks_each_exercise, lambda notebook: notebook.cells.pop(4), "has no heading"),
    (
        checks_each_exercise,
        lambda notebook: notebook.cells.insert(5, new_markdown_cell("Another section.")),
        "not right after the heading",
    ),
    (checks_each_exercise, in_cell(5, "...", "return 1"), "is not a docstring and `...`"),
    (checks_each_exercise, in_cell(5, '"""What to write."""\n', ""), "is not a docstring"),
    (
        checks_each_exercise,
        in_cell(5, 'check("to_tokens"', 'check("to_token"'),
        "no exercise of lesson 00",
    ),
    (checks_each_exercise, in_cell(5, "to_tokens = check", "answer = check"), "binds answer"),
    (checks_each_exercise, in_cell(5, "to_tokens = check", "check"), "does not end with a stub"),
    (
        has_narrow_drawings,
        lambda notebook: notebook.cells.append(new_markdown_cell(f"```\n{'─' * 89}\n```")),
        "a drawing of 89 columns",
    ),
    (has_valid_forms, in_cell(2, '"synthetic"  #', '"drawn"  #'), "not among the options"),
    (has_valid_forms, in_cell(2, ' {type: "string"}', ""), "expected NAME = default"),
    (has_valid_forms, in_cell(2, ' {type: "string"}', " {}"), "neither options nor a type"),
    (has_valid_forms, in_cell(2, '["synthetic", "celeba"]', "[synthetic]"), "literals"),
]


@pytest.mark.parametrize(("convention", "plant", "words"), FAULTS)
def test_a_planted_fault_is_found(convention, plant, words):
    notebook = good_notebook()
    plant(notebook)
    assert words in "\n".join(convention(notebook, NAME))


def test_every_convention_has_a_planted_fault():
    assert {fault[0] for fault in FAULTS} == set(CONVENTIONS)


def test_every_forbidden_call_has_a_planted_fault():
    planted = [words for convention, _, words in FAULTS if convention is calls_nothing_forbidden]
    assert all(any(words in why for words in planted) for why in FORBIDDEN.values())

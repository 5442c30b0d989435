"""What holds the repository together: its addresses, its commands, and the hygiene of its files."""

import ast
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import over_budget

from retarget import configured, origin, retarget

ROOT = Path(__file__).parent.parent
VENV = os.path.relpath(sys.prefix, ROOT)  # relative, because make knows no spaces in names
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIBRARY = sorted((ROOT / "course_lib").rglob("*.py"))
# Imports run one way through the rooms.
LAYERS = (
    "world",
    "data",
    "models",
    "training",
    "looking",
    "pictures",
    "recorder",
    "explorer",
    "lessons",
    "commands",
    "__main__",
)
GROUND_FLOOR = ("runtime", "shapes", "files", "tables")
# owner/name in addresses of GitHub and of Colab
NAMED = re.compile(r"github(?:\.com)?/([\w-]+/[\w.-]*[\w-])")


def run(*command, **options):
    return subprocess.run(
        command,
        cwd=options.pop("cwd", ROOT),
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def tracked() -> list[Path]:
    """The files that are, or would be, committed."""
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listing.returncode:
        pytest.skip("no git here, so nobody knows which files belong to the repository")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", errors="replace")


# One address everywhere


def addressed(root):
    """The files in which a reader meets the repository's address."""
    files = (
        *root.glob("*.md"),
        *root.glob("*.cff"),
        root / "pyproject.toml",
        *root.glob("notebooks/*.ipynb"),
    )
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


def misnamed(root):
    """Badges, clone lines and citations that name another copy: (file, what it names)."""
    own = re.compile(
        r"(?:colab\.research\.google\.com/github/|git clone [^\n]*?github\.com/|"
        r"repository-code: \S*github\.com/)([\w-]+/[\w.-]*[\w-])"
    )
    return [
        (name, found)
        for name, text in addressed(root).items()
        for found in own.findall(text)
        if found.removesuffix(".git") != configured(root)
    ]


def test_badges_and_clone_lines_name_the_configured_repository():
    assert misnamed(ROOT) == []


@pytest.fixture
def copy(tmp_path):
    """The files with an address, and a notebook and a README that name it in every way."""
    for name in addressed(ROOT):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    (tmp_path / "notebooks" / "12_more.ipynb").write_text(
        f"!git clone --depth 1 https://github.com/{configured()} course\n"
        f"https://colab.research.google.com/github/{configured()}/blob/main/notebooks/12_more.ipynb\n"
    )
    (tmp_path / "MORE.md").write_text(
        f"git clone https://github.com/{configured()}.git\nhttps://github.com/{configured()}-else\n"
    )
    return tmp_path


def test_a_wrong_address_is_found(copy):
    assert misnamed(copy) == []
    for name in ("CITATION.cff", "MORE.md", "notebooks/12_more.ipynb"):
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace(configured(), "someone/else"))
        assert [found[0] for found in misnamed(copy)][:1] == [name]
        (copy / name).write_text(text)


def test_retarget_rewrites_every_address_and_can_be_repeated(copy):
    before = addressed(copy)
    mentions = [name for name, text in before.items() if configured() in NAMED.findall(text)]
    changed = retarget("ada/her-course.v2", copy)
    assert {
        "CITATION.cff",
        "MORE.md",
        "notebooks/12_more.ipynb",
        "pyproject.toml",
        *mentions,
    } == set(changed)
    assert configured(copy) == "ada/her-course.v2"
    assert misnamed(copy) == []
    assert (
        (copy / "MORE.md").read_text()
        == f"git clone https://github.com/ada/her-course.v2.git\nhttps://github.com/{configured()}-else\n"
    )
    assert retarget("ada/her-course.v2", copy) == []
    retarget(configured(), copy)
    assert addressed(copy) == before


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/ada/course.git",
        "git@github.com:ada/course.git",
        "https://github.com/ada/course",
        "ssh://git@github.com/ada/course/",
    ],
)
def test_retarget_takes_the_origin(url, tmp_path):
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "remote", "add", "origin", url, cwd=tmp_path)
    assert origin(tmp_path) == "ada/course"


@pytest.mark.parametrize(
    "name", ["course", "https://github.com/ada/course", "ada/course/more", "", "ada/a b"]
)
def test_retarget_refuses_what_is_no_repository(name, copy):
    with pytest.raises(ValueError, match="expected owner/name"):
        retarget(name, copy)
    assert configured(copy) == configured()


def test_retarget_without_an_origin_asks_for_the_name(tmp_path):
    run("git", "init", "-q", cwd=tmp_path)
    with pytest.raises(ValueError, match="the remote origin is not set"):
        origin(tmp_path)


# One version, one list of dependencies


def test_the_version_is_the_same_everywhere():
    import course_lib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == course_lib.__version__ == citation["version"]
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)


def test_conda_takes_all_but_python_from_pyproject():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert conda == ["python>=3.11,<3.14", "pip"]
    assert pip == {"pip": ["-e .[dev]"]}


# The commands


def fresh_environment():
    """The environment without what an outer `make test ARGS=…` has put there."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS")) and name not in ("ARGS", "CPU", "PORT", "REPO")
    }


def make(*arguments, **options):
    return run("make", "--no-print-directory", *arguments, env=fresh_environment(), **options)


@pytest.mark.parametrize(
    "target",
    [
        "lab",
        "test",
        "test-all",
        "device",
        "colab",
        "site",
        "answers",
        "bench",
        "size",
        "retarget",
        "clean",
    ],
)
def test_each_target_is_there(target):
    result = make("--dry-run", target)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_make_clean_keeps_runs_and_data():
    assert not {"results", "data"} & set(make("--dry-run", "clean").stdout.split())


def test_make_test_leaves_out_only_the_slow_tests():
    lines = {
        target: make("--dry-run", target, f"VENV={VENV}").stdout.splitlines()[-1]
        for target in ("test", "test-all")
    }
    assert lines["test"].removesuffix(' -m "not slow"').split() == lines["test-all"].split()
    assert "pytest tests notebooks" in " ".join(lines["test"].split())
    assert "--nbval-lax" in lines["test"]
    assert "--nbval-cell-timeout=600" in lines["test"]  # against hanging only: slow is not wrong


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("00 08 -x", "notebooks/00_start_here.ipynb notebooks/08_class_imbalance.ipynb -x"),
        ("tests/test_kit.py", "tests/test_kit.py"),
        ("99", "tests notebooks 99"),  # which pytest then refuses
    ],
)
def test_make_test_takes_lessons_by_number_and_files_by_name(arguments, named):
    line = make("--dry-run", "test", f"VENV={VENV}", f"ARGS={arguments}").stdout.splitlines()[-1]
    options = [word for word in line.split() if not re.match(r"--(num|max|dist|nbval|dur)", word)]
    assert " ".join(options).endswith(f'pytest {named} -m "not slow"')


def test_without_a_fitting_python_make_says_what_to_do(tmp_path):
    for target in (f"{tmp_path}/none/.ready", "retarget"):
        result = make(target, "PYTHON=", f"VENV={tmp_path}/none")
        assert result.returncode != 0
        assert "no Python 3.11, 3.12 or 3.13 with venv was found; install one" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("--index-url", "PyTorch's CPU build could not be fetched"),
        ("--editable", "some packages could not be installed"),
        ("import torchvision", "torch and torchvision do not belong together"),
    ],
)
def test_where_the_set_up_cannot_go_on_make_says_what_to_do(fails, words, tmp_path):
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ncase "$*" in *"{fails}"*) exit 1;; esac\n')
    fake.chmod(0o755)
    result = make(f"{tmp_path}/.ready", "CPU=1", f"VENV={tmp_path}")
    assert result.returncode != 0
    assert words in result.stderr
    assert not (tmp_path / ".ready").exists()


def test_make_finds_a_fitting_python():
    result = make("--dry-run", "retarget", "REPO=ada/course")
    name = result.stdout.split()[-3]
    version = run(name, "-c", "import sys; print(*sys.version_info[:2])").stdout.split()
    assert ("3", "11") <= tuple(version) <= ("3", "13")


@pytest.mark.parametrize(("code", "targets"), [(3, ["test"]), (0, ["test", "device"])])
def test_ci_calls_make_test_and_device_and_fails_with_them(code, targets, tmp_path):
    assert run("bash", "-n", ".ci/run").returncode == 0
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    fake = bin_folder / "make"
    fake.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    fake.chmod(0o755)
    result = run(
        "bash",
        ".ci/run",
        env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
    )
    assert result.returncode == code
    assert result.stdout.splitlines() == [f"--no-print-directory {target}" for target in targets]


@pytest.mark.parametrize(("owner", "code"), [("OWNER", 1), ("ada", 0)])
def test_the_workflow_fails_while_no_owner_is_set(owner, code, tmp_path):
    steps = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"][
        "steps"
    ]
    (step,) = [step for step in steps if step.get("name") == "The repository's address is set"]
    (tmp_path / "pyproject.toml").write_text(
        f'Repository = "https://github.com/{owner}/seeing-cross-attention"'
    )
    result = run("bash", "-ec", step["run"], cwd=tmp_path)
    assert result.returncode == code
    assert ("make retarget" in result.stdout) == bool(code)
    assert any(step.get("run", "").startswith("make test") for step in steps)


def test_benches_and_film_find_their_neighbours_as_the_tests_do():
    """By bare names: whoever runs a file of tests/ has that folder on the path."""
    otherwise = re.compile(r"^\s*(?:from|import) tests\b", re.MULTILINE)
    assert [
        path.name for path in (ROOT / "tests").glob("*.py") if otherwise.search(path.read_text())
    ] == []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = run(
        sys.executable, "-c", "import bench, film_explorer", cwd=ROOT / "tests", env=environment
    )
    assert result.returncode == 0, result.stderr
    assert make("--dry-run", "bench", "ARGS=", f"VENV={VENV}").stdout.split()[-2:] == [
        f"{VENV}/bin/python",
        "tests/bench.py",
    ]


def end(server):
    """End a process and all that it started, patiently at first."""
    for attempt in range(50):
        try:
            os.killpg(
                server.pid,
                signal.SIGKILL if attempt == 40 else signal.SIGTERM if attempt == 0 else 0,
            )
        except ProcessLookupError:
            return
        server.poll()
        time.sleep(0.1)


@pytest.mark.browser
def test_make_lab_opens_lesson_00(browser, tmp_path):
    ready = Path(sys.prefix) / ".ready"
    if not ready.exists() or ready.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        pytest.skip("runs in the environment that make has set up; use `make test`")
    if not (ROOT / "notebooks" / "00_start_here.ipynb").exists():
        pytest.skip("lesson 00 is not there")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        name: str(tmp_path / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    address = f"http://localhost:{port}"
    with open(tmp_path / "log", "w") as log:
        command = [
            "make",
            "lab",
            f"VENV={VENV}",
            f"PORT={port}",
            "ARGS=--no-browser --IdentityProvider.token=course",
        ]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env=fresh_environment() | own,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=200).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        page = browser.new_page()
        page.goto(f"{address}/?token=course")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        assert page.url.endswith("/lab/tree/notebooks/00_start_here.ipynb")
        page.close()
    finally:
        end(server)


# The hygiene of the files: each rule takes {name: text} or trees and returns problems


def machine_paths(files):
    """Paths that exist on one machine only."""
    local = re.compile(
        r"(?<![\w.~-])/(?:work|root|tmp|home/\w+|Users/\w+|opt/wheels)(?:/[\w.]|\b(?=[\"'\s]))"
    )
    return [(name, found[0]) for name, text in files.items() if (found := local.search(text))]


def unsafe_loads(files):
    """Ways to run code that comes with a file."""
    unsafe = re.compile(
        r"\b(?:pickle|dill|joblib|yaml)\.loads?\(|from (?:pickle|dill|joblib)"
        r" import|allow_pickle=True|"
        r"\btorch\.load\((?![^\n]*weights_only=True)"
    )
    return [
        (name, found[0].strip()) for name, text in files.items() if (found := unsafe.search(text))
    ]


def assumed_cuda(files):
    """Code that asks for the word "cuda", where the device of a model or of `setup` decides."""
    asks = re.compile(r"""["']cuda\b|\bcuda\.is_available|\.is_cuda\b|\.cuda\(""")
    return [(name, found[0]) for name, text in files.items() if (found := asks.search(text))]


# What there is on NVIDIA's GPUs only: the choice of one, precisions, an allocator that knows its peak.
KNOWS_CUDA = {
    "course_lib/runtime.py",
    "course_lib/looking/cost.py",
    "course_lib/commands/runs.py",
}


def asserted_times(files):
    """Assertions that a clock decides, which a busy machine turns red; speeds belong into
    tests/bench.py.
    """
    clock = re.compile(r"assert [^\n]*\b(?:time|perf_counter|process_time|monotonic)\(\)")
    return [(name, found[0]) for name, text in files.items() if (found := clock.search(text))]


def layer(module: str) -> int:
    """Where a module of the library stands; -1 for the ground floor and the package itself."""
    part = module.split(".")[1] if "." in module else ""
    return LAYERS.index(part) if part in LAYERS else -1


def import_statements(module: str, is_package: bool, source: str) -> list[tuple[str, list[str]]]:
    """What a module imports, anywhere in its source: each origin, and the names taken from it."""
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
            origin = ".".join(filter(None, [base, node.module]))
            found.append((origin, [alias.name for alias in node.names]))
    return found


def imported(module: str, is_package: bool, source: str) -> set[str]:
    """The modules of the library that a module's source imports, anywhere in it."""
    names = set()
    for origin_name, taken in import_statements(module, is_package, source):
        names |= (
            {origin_name} if origin_name.count(".") else {f"{origin_name}.{name}" for name in taken}
        )
    return {name for name in names if name.startswith("course_lib.")}


def backward_imports(modules):
    """Imports against the one way; `modules` maps a name to (is a package, source)."""
    problems = []
    for module, (is_package, source) in modules.items():
        for other in imported(module, is_package, source):
            ground = module.split(".")[1:2] and module.split(".")[1] in GROUND_FLOOR
            if (layer(other) > layer(module) and module != "course_lib") or (
                ground and layer(other) >= 0
            ):
                problems.append((module, other))
    return problems


def circles(modules):
    """Modules that import each other, directly or through others, imports inside functions too."""
    graph = {}
    for name, (is_package, source) in modules.items():
        if is_package:  # a package's face imports all that is in it
            continue
        statements = import_statements(name, is_package, source)
        reachable = {origin_name for origin_name, _ in statements}
        reachable |= {
            f"{origin_name}.{taken}" for origin_name, names in statements for taken in names
        }
        graph[name] = reachable & set(modules)

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return sorted(name for name in graph if name in reached(name))


def undefined_exports(name, names, exported):
    """What `__all__` promises and the module does not have, or that it has no `__all__`."""
    if exported is None:
        return [(name, "__all__")]
    return [(name, export) for export in exported if export not in names]


def texts(paths):
    return {path.relative_to(ROOT).as_posix(): text_of(path) for path in paths}


def library_modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
            path.name == "__init__.py",
            path.read_text(),
        )
        for path in LIBRARY
    }


def test_no_file_holds_a_path_of_one_machine():
    assert machine_paths(texts(tracked())) == []


def test_nothing_unpickles():
    code = [
        path
        for path in tracked()
        if path.suffix in {".py", ".ipynb"} and path.parent.name != "tests"
    ]
    assert unsafe_loads(texts(code)) == []


def test_no_code_takes_cuda_for_every_device_but_the_cpu():
    code = (*LIBRARY, *(ROOT / "notebooks").glob("*.ipynb"))
    assert [found for found in assumed_cuda(texts(code)) if found[0] not in KNOWS_CUDA] == []


def test_no_test_asserts_a_time():
    assert asserted_times(texts(ROOT.glob("tests/**/*.py"))) == []


def test_the_code_is_formatted():
    for command in (["format", "--check"], ["check"]):
        places = ("course_lib", "assets", "tests", "tools", "retarget.py")
        result = run(sys.executable, "-m", "ruff", *command, *places)
        assert result.returncode == 0, result.stdout + result.stderr


def test_only_weights_are_large():
    large = [
        path.relative_to(ROOT).as_posix() for path in tracked() if path.stat().st_size > 1_000_000
    ]
    assert [name for name in large if not name.startswith("assets/weights/")] == []
    assert (
        sum(path.stat().st_size for path in tracked() if "assets/weights" in path.as_posix())
        <= 48_000_000
    )


def dead_links(text, folder, files):
    """Files that a Markdown text links to or shows and that the repository does not hold."""
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text)
    links += re.findall(r'<(?:img|source) [^>]*src(?:set)?="([^"]+)"', text)
    return [link for link in links if (folder / link).resolve() not in files]


def test_every_link_leads_to_a_file_of_the_repository():
    files = {path.resolve() for path in tracked()}
    assert dead_links((ROOT / "README.md").read_text(), ROOT, files) == []
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
        assert dead_links(text, path.parent, files) == [], path.name


def test_a_dead_link_is_found():
    text = (
        "[lesson](notebooks/00_start_here.ipynb) ![world](assets/pictures/gone.jpg)"
        " [page](https://example.org)"
        ' <img alt="dark" src="assets/pictures/gone.png">'
    )
    assert dead_links(text, ROOT, {ROOT / "notebooks" / "00_start_here.ipynb"}) == [
        "assets/pictures/gone.jpg",
        "assets/pictures/gone.png",
    ]


def test_a_notebook_over_budget_is_reported_and_the_run_stays_green(tmp_path):
    assert over_budget({"00": 30, "01": 119}) == []
    assert over_budget({"00": 30, "01": 121}) == ["01 took 121 s"]
    assert over_budget(dict.fromkeys("abcdefghij", 109)) == ["all took 1090 s"]
    (tmp_path / "test_one.py").write_text(
        "import conftest\n\n\ndef test_slow():\n    conftest.NOTEBOOK_SECONDS['01_slow'] = 300\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
    }
    result = run(
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "conftest",
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT / "tests")},
    )
    assert "over the budget of 2 min each and 18 together: 01_slow took 300 s" in result.stdout
    assert result.returncode == 0, result.stdout


def test_imports_run_one_way():
    assert backward_imports(library_modules()) == []


def test_the_library_does_not_import_its_recipes():
    for module, (is_package, source) in library_modules().items():
        origins = [origin for origin, _ in import_statements(module, is_package, source)]
        assert not [origin for origin in origins if origin.startswith("assets")], module


def test_no_two_modules_import_each_other():
    assert circles(library_modules()) == []


def test_a_planted_circle_is_found():
    planted = {
        "course_lib.looking.cost": (False, "from ..pictures.base import Picture"),
        "course_lib.pictures.base": (False, "def f():\n    from ..looking import cost"),
        "course_lib.files": (False, "import json"),
    }
    assert circles(planted) == ["course_lib.looking.cost", "course_lib.pictures.base"]


CLAIM = re.compile(
    r"(?:Derived|Built|Shown|Used)\s+in\s+lessons?\s+(\d\d(?:,\s+\d\d)*(?:\s+and\s+\d\d)?)"
)


def untrue_claims(modules: dict[str, str], lessons: dict[str, str]) -> list[tuple[str, str, str]]:
    """Names whose docstring claims a lesson that neither imports nor defines them."""
    found = []
    for module, source in modules.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for claim in CLAIM.findall(ast.get_docstring(node) or ""):
                for number in re.findall(r"\d\d", claim):
                    brings = rf"(?:import [^\n]*|def |class )\b{node.name}\b"
                    if not re.search(brings, lessons.get(number, "")):
                        found.append((module, node.name, number))
    return found


def code_of_lessons() -> dict[str, str]:
    """The code of each lesson, by its number."""
    code = {}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        code[path.name[:2]] = "\n".join(sources)
    return code


def test_docstrings_name_lessons_that_use_what_they_describe():
    modules = {name: source for name, (_, source) in library_modules().items()}
    assert untrue_claims(modules, code_of_lessons()) == []


def test_an_untrue_claim_is_found():
    source = 'def attend():\n    """Weigh. Derived in lessons 04 and\n    05."""'
    lessons = {"04": "def attend(q, k, v):", "05": "attend = 1"}
    assert untrue_claims({"attention": source}, lessons) == [("attention", "attend", "05")]


def unused_names(modules: dict[str, str], shown: str) -> list[tuple[str, str]]:
    """Public names that no other module uses, nor their own more than once, nor what people read
    and run.
    """
    words = {name: Counter(re.findall(r"\w+", source)) for name, source in modules.items()}
    people = Counter(re.findall(r"\w+", shown))
    return [
        (module, name)
        for module, source in modules.items()
        for name in exported(source)
        if not people[name]
        and words[module][name] <= 2
        and not any(words[other][name] for other in modules if other != module)
    ]


def exported(source: str) -> list[str]:
    """What `__all__` lists."""
    return next(
        (
            ast.literal_eval(node.value)
            for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
        ),
        [],
    )


def test_each_public_name_is_used_by_a_lesson_or_a_command():
    modules = {
        name: source for name, (is_package, source) in library_modules().items() if not is_package
    }
    shown = "\n".join(
        path.read_text()
        for path in (
            *ROOT.glob("notebooks/*.ipynb"),
            *ROOT.glob("*.md"),
            *ROOT.glob("tests/bench*.py"),
            *ROOT.glob("assets/recipes/*.py"),
        )
    )
    assert unused_names(modules, shown) == []


def test_an_unused_name_is_found():
    modules = {
        "a": (
            '__all__ = ["used", "shown", "idle"]\ndef used(): ...\ndef shown(): ...\ndef'
            " idle(): ..."
        ),
        "b": "from .a import used",
    }
    assert unused_names(modules, "from a import shown") == [("a", "idle")]


@pytest.mark.parametrize(
    "module", [name for name in library_modules() if not name.endswith("__main__")]
)
def test_each_public_name_exists(module):
    loaded = importlib.import_module(module)
    is_package, source = library_modules()[module]
    if not (is_package and not source.strip()):
        assert undefined_exports(module, dir(loaded), getattr(loaded, "__all__", None)) == []


def test_the_types_of_every_annotated_function_are_checked_in_this_run():
    from jaxtyping import TypeCheckError

    from course_lib import assets

    with pytest.raises(TypeCheckError):
        assets(3)


def test_course_lib_comes_without_torch():
    code = "import sys, course_lib; sys.exit('torch' in sys.modules)"
    assert run(sys.executable, "-c", code).returncode == 0


@pytest.mark.parametrize(
    ("rule", "planted", "innocent"),
    [
        (
            machine_paths,
            f"see /{'root'}/clips/one.mp4",
            "course_lib/root/x.py and notebooks/work/y",
        ),
        (machine_paths, f'folder = "/{"tmp"}"', "and/or"),
        (machine_paths, f"/{'home'}/ada/clips", "https://example.org/home/ada"),
        (unsafe_loads, "pickle.load(file)", "except pickle.UnpicklingError:"),
        (unsafe_loads, "x = torch.load(path)", "x = torch.load(path, weights_only=True)"),
        (unsafe_loads, "np.load(path, allow_pickle=True)", "np.load(path)"),
        (
            asserted_times,
            f"{'assert'} time.perf_counter() - started < 5",
            "while time.monotonic() < deadline:",
        ),
        (assumed_cuda, 'if device.type == "cuda":', 'if device.type != "cpu":'),
        (assumed_cuda, "model.to('cuda:0')", "model.to(rt.device)"),
        (assumed_cuda, "x = torch.cuda.is_available()", "torch.accelerator.is_available()"),
    ],
)
def test_a_planted_stain_is_found(rule, planted, innocent):
    assert rule({"planted": planted, "innocent": innocent})[0][0] == "planted"
    assert len(rule({"planted": planted, "innocent": innocent})) == 1


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        (
            "course_lib.models.static",
            "from course_lib.training.fit import fit",
            "course_lib.training.fit",
        ),
        (
            "course_lib.world.faces",
            "def f():\n    from ..models import static",
            "course_lib.models",
        ),
        (
            "course_lib.training.fit",
            "import course_lib.recorder.recorder",
            "course_lib.recorder.recorder",
        ),
        ("course_lib.lessons.exercises", "from ..commands import train", "course_lib.commands"),
        ("course_lib.files", "from .data import faces", "course_lib.data"),
        (
            "course_lib.models.static",
            "from ..world.faces import draw_face\nfrom .attention import attend",
            None,
        ),
        ("course_lib.pictures.images", "from course_lib import scale\nimport torch", None),
        ("course_lib.commands.train", "from course_lib.lessons import check", None),
    ],
)
def test_a_planted_backward_import_is_found(module, source, wrong):
    assert backward_imports({module: (False, source)}) == ([(module, wrong)] if wrong else [])


def test_a_planted_missing_name_is_found():
    assert undefined_exports("module", ["a"], ["a", "b"]) == [("module", "b")]
    assert undefined_exports("module", ["a"], None) == [("module", "__all__")]

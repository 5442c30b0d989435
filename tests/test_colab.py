"""The environment like Colab's: what it holds, how notebooks are run in it, and what shows that
Colab has moved on.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
COLAB = ROOT / os.environ.get("COLAB", ".venv-colab") / "bin" / "python"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LISTED, *STARTS = (
    (ROOT / "tests" / "colab" / "requirements.txt").read_text().split("# Not read from the list")
)
PINS = [Requirement(line) for line in LISTED.splitlines() if line and not line.startswith("#")]
NEEDED = [
    Requirement(line)
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]


def script(name):
    specification = importlib.util.spec_from_file_location(
        f"colab_{name}", ROOT / "tests" / "colab" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


drift, run = script("drift"), script("run")


# The list


def misfits(pins, needed):
    """Pins that the library's ranges exclude, and needed packages without a pin."""
    pinned = {pin.name: next(iter(pin.specifier)).version.removesuffix(".*") for pin in pins}
    wrong = [
        f"{need.name} {pinned[need.name]}"
        for need in needed
        if need.name in pinned and not need.specifier.contains(pinned[need.name])
    ]
    return wrong + [need.name for need in needed if need.name not in pinned]


def test_the_library_can_live_with_what_colab_has():
    # with torch, scikit-learn, accelerate, matplotlib and the hub
    come_along = {"filelock", "scipy", "psutil", "pillow", "tqdm"}
    assert misfits(PINS, [need for need in NEEDED if need.name not in come_along]) == []
    assert all(next(iter(pin.specifier)).operator == "==" for pin in PINS)
    assert re.search(r"\bin [A-Z][a-z]+ 20\d\d\.", LISTED)  # the date of the list


def test_a_pin_that_does_not_fit_is_found():
    pins = [Requirement("numpy==3.0.*"), Requirement("torch==2.11.*")]
    assert misfits(
        pins, [Requirement("numpy>=1.26,<3"), Requirement("torch>=2.9"), Requirement("einops")]
    ) == ["numpy 3.0", "einops"]


def test_nothing_is_there_that_colab_lacks():
    lacking = {
        "lightning",
        "torchmetrics",
        "torchinfo",
        "kaleido",
        "jaxtyping",
        "beartype",
        "jsonargparse",
        "nbval",
    }
    assert lacking.isdisjoint(pin.name for pin in PINS)
    assert not any(name in STARTS[0] for name in lacking)


# What moves


def test_what_has_moved_is_shown_and_nothing_else():
    older = drift.versions(
        "torch==2.11.*\nipython==7.34.0\nimageio[ffmpeg]==2.37.*\nscikit_image==0.25.*  # why\n"
        "plotly==5.24.1\nipykernel<7\n# numpy==1.0\n"
    )
    newer = drift.versions(
        "torch @ https://a.org/whl/cu128/torch-2.12.0%2Bcu128-cp313-cp313-linux_x86_64.whl#sha=1f\n"
        "IPython==7.34.0\nimageio==2.37.2\nscikit-image==0.25\nother==1\nnumpy==2.1.3\n"
    )
    assert [line.split() for line in drift.moved(older, newer)] == [
        ["torch", "2.11.*", "→", "2.12.0"],
        ["plotly", "5.24.1", "→", "gone"],
    ]
    assert drift.versions("torch==2.11.0+cu128")["torch"] == "2.11.0"
    assert drift.moved({"a": "1.1.*"}, {"a": "1.10"}) != []


def test_the_script_reads_the_list_beside_it(tmp_path, capsys):
    same = "\n".join(
        f"{pin.name}=={next(iter(pin.specifier)).version.replace('*', '9')}" for pin in PINS
    )
    (tmp_path / "newer.txt").write_text(same + "\njupyter-client==7.4.9")
    assert drift.main(tmp_path / "newer.txt") == 0
    assert f"all {len(PINS)} packages are as before" in capsys.readouterr().out
    (tmp_path / "newer.txt").write_text(same.replace("ipywidgets==7.7.1", "ipywidgets==8.1.0"))
    assert drift.main(tmp_path / "newer.txt") == 1
    assert capsys.readouterr().out.split() == ["ipywidgets", "7.7.1", "→", "8.1.0"]


# How notebooks are run


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("a repository")
    (root / "library.py").write_text("x = 41\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "One"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_a_notebooks_own_line_clones_the_local_repository(repository, tmp_path):
    nbformat.write(
        new_notebook(
            cells=[
                new_markdown_cell("# A"),
                new_code_cell(
                    "!git clone --quiet --depth 1 https://github.com/OWNER/course course && ln -s"
                    " course/library.py\nimport library"
                ),
                new_code_cell("library.x + 1 / (library.x - 41)", id="divides"),
            ]
        ),
        tmp_path / "a.ipynb",
    )
    (folder := tmp_path / "empty").mkdir()
    first, total, failure = run.run_notebook(
        tmp_path / "a.ipynb",
        folder,
        run.cloning_from(repository, "https://github.com/OWNER/course"),
    )
    assert (folder / "course" / "library.py").exists()
    assert failure == "cell divides: ZeroDivisionError: division by zero"
    assert 0 < first < total


def test_it_refuses_to_run_where_nothing_would_be_cloned():
    with pytest.raises(SystemExit, match="course_lib can be imported here"):
        run.main([])


def test_it_says_which_python_runs_and_what_to_do_where_that_is_not_colabs():
    assert run.which_python((3, 13, 5)) == "Python 3.13.5, like Colab"
    assert run.which_python((3, 11, 7)).startswith(
        "Python 3.11.7; Colab has 3.13: install that, delete"
    )


@pytest.mark.slow
def test_the_notebooks_run_as_on_colab():
    if not COLAB.exists():
        pytest.skip("there is no environment like Colab's; `make colab` sets it up")
    result = subprocess.run(
        [COLAB, "tests/colab/run.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def script_at(path, content):
    """A program that is a shell script of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)
    return path


def make(*arguments, **variables):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment | variables,
    ).stdout


@pytest.mark.parametrize("target", ["colab", "site", "answers"])
def test_each_target_is_there(target):
    lines = make("--dry-run", target, "ARGS=04").splitlines()
    assert lines[-1].split()[-1] == "04"
    assert target in lines[-1]


@pytest.mark.parametrize(
    ("on_path", "in_pyenv", "taken"),
    [
        ("exit 0", "exit 0", "python3.13"),
        ("exit 1", "exit 0", "{pyenv}"),
        ("exit 1", "exit 1", "given"),
    ],
)
@pytest.mark.parametrize("root", [".pyenv", "elsewhere"])
def test_colab_takes_a_python_3_13_that_runs(on_path, in_pyenv, taken, root, tmp_path):
    script_at(tmp_path / "bin" / "python3.13", on_path)
    pyenv = script_at(tmp_path / root / "versions" / "3.13.2" / "bin" / "python", in_pyenv)
    named = make(
        "PYTHON=given",
        "--eval",
        "show:;@echo $(COLAB_PYTHON)",
        "show",
        HOME=str(tmp_path),
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        PYENV_ROOT="" if root == ".pyenv" else str(tmp_path / root),
    )
    assert named.strip() == taken.format(pyenv=pyenv)


@pytest.mark.parametrize("there", ["3.13.2", "3.11.7", None])
def test_an_environment_of_another_python_is_made_again(there, tmp_path):
    colab, log = tmp_path / "colab", tmp_path / "log"
    if there:
        script_at(colab / "bin" / "python", f"echo Python {there}")
    new = script_at(
        tmp_path / "new",
        f"""echo $@ >> {log}
        case "$*" in
            -V) echo Python 3.13.2 ;;
            "-m venv"*) mkdir -p {colab}/bin; cp $0 {colab}/bin/python ;;
        esac""",
    )
    said = make(f"COLAB={colab}", f"COLAB_PYTHON={new}", f"{colab}/.ready")
    assert f"setting up {colab} with {new}" in said
    assert (f"-m venv --clear {colab}" in log.read_text()) == (there != "3.13.2")
    assert (colab / ".ready").exists()


@pytest.mark.parametrize("there", [False, True])
def test_the_explorers_slow_test_finds_the_old_jupyter_once_it_is_there(
    there, tmp_path, monkeypatch
):
    if there:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").touch()
    monkeypatch.delenv("COURSE_CLASSIC_PYTHON", raising=False)
    said = make(f"COLAB={tmp_path}", "--eval", "show:;@echo $$COURSE_CLASSIC_PYTHON", "show")
    assert said.strip() == (str(tmp_path / "bin" / "python") if there else "")


# The workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_well_formed(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["name"] == path.stem
    assert workflow[True]  # YAML 1.1 reads the key `on` so
    targets = set(
        re.findall(r"^([\w-]+(?: [\w-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    targets = {word for line in targets for word in line.split()}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step.get("uses", "actions/checkout@v4"))
            assert (
                set(re.findall(r"\bmake ([\w-]+)", step.get("run", ""))) - {"retarget"} <= targets
            )
            for used in re.findall(r"python (\S+\.py)", step.get("run", "")):
                assert (ROOT / used).exists()


def test_each_python_that_make_takes_is_tested():
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]
    assert job["strategy"]["matrix"] == {"python": ["3.11", "3.12", "3.13"]}
    (setting_up,) = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setting_up["with"]["python-version"] == "${{ matrix.python }}"


def steps_of(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"][
        name
    ]["steps"]


def test_the_regular_run_takes_the_newest_and_says_what_moved(tmp_path):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "drift.yml").read_text())
    (schedule,) = workflow[True]["schedule"]
    days = re.fullmatch(r"\d+ \d+ \* \* ([0-6](?:,[0-6])*)", schedule["cron"])[1].split(",")
    assert len(set(days)) > 1  # what it compares with is dropped if nobody reads it for seven days
    names = [step.get("name", step.get("run")) for step in steps_of("drift")]
    assert any("make test" in step.get("run", "") for step in steps_of("drift"))
    (says,) = [
        step
        for step in steps_of("drift")
        if step.get("name") == "What has moved since the last green run"
    ]
    assert says["if"] == "always()"
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text("#!/bin/sh\nprintf 'numpy==2.5.0\\neinops==0.8.2\\n'\n")
    (bin_folder / "python").chmod(0o755)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def said():
        return subprocess.run(
            ["bash", "-ec", says["run"]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout.strip()

    assert said() == "there was no green run before"
    (tmp_path / "versions" / "green.txt").write_text("numpy==2.4.6\neinops==0.8.2\n")
    assert said().split() == ["numpy", "2.4.6", "→", "2.5.0"]
    green = names.index("These versions are green")
    subprocess.run(["bash", "-ec", steps_of("drift")[green]["run"]], cwd=tmp_path, check=True)
    assert said() == "all 2 packages are as before"
    assert names.index("make test CPU=1 PYTHON=python") < green
    assert "if" not in steps_of("drift")[green]  # so it is left out where the tests fail

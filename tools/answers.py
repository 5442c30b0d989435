"""Notebooks with every exercise answered by the library's own source, for teachers and the tests.

python -m tools.answers 00 08
"""

import ast
import importlib
import inspect
import json
import re
import symtable
from collections.abc import Sequence
from importlib.util import resolve_name
from pathlib import Path

from course_lib import files
from course_lib.lessons.exercises import all_exercises

from .chosen import chosen, run

__all__ = ["answer", "answers"]

CHECKED = re.compile(r'^(\w+) = check\("\1", \1\)$', re.MULTILINE)


def answers(output: str = "answers", lessons: Sequence[str] = ()) -> list[Path]:
    """Write the notebooks (all, or these numbers) with their exercises answered and everything else
    as it was; return the paths.
    """
    notebooks, target = chosen(lessons), Path(output)
    if target.resolve() == notebooks[0].parent:
        raise ValueError(
            f"{target} holds the students' notebooks, which this would overwrite; name another"
            " folder"
        )
    paths = []
    for path in notebooks:
        notebook, count = files.read_json(path), 0
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and CHECKED.search(source):
                cell["source"] = answer(source).splitlines(keepends=True)
                count += 1
        with files.atomic(target / path.name) as temporary:
            temporary.write_text(
                json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        paths.append(target / path.name)
        print(f"{paths[-1]}: {count} exercises answered")
    return paths


def answer(source: str) -> str:
    """The source of a cell with the library's function, and the imports that it needs, in place of
    the stub.
    """
    name, lines = CHECKED.search(source)[1], source.splitlines()
    stub = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    )
    exercise = all_exercises()[name][1]
    solution = inspect.getsource(exercise.load_solution()).rstrip()
    imports = [
        line for line in _imports(solution, exercise.solution.split(":")[0]) if line not in lines
    ]
    before, after = lines[: stub.lineno - 1], lines[stub.end_lineno :]
    return "\n".join([*imports, *[""] * bool(imports and not before), *before, solution, *after])


def _imports(solution: str, module_name: str) -> list[str]:
    """The lines that import what the source of a function uses of its module, its private helpers
    included.
    """
    module = importlib.import_module(module_name)
    tables = [symtable.symtable(solution, module_name, "exec")]
    for table in tables:  # grows: functions have functions inside
        tables += table.get_children()
    used = {
        symbol.get_name()
        for table in tables
        for symbol in table.get_symbols()
        if symbol.is_global() and symbol.is_referenced()
    } & vars(module).keys()
    own, lines = used - {tables[1].get_name()}, []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
            if isinstance(node, ast.ImportFrom):
                node.module, node.level = (
                    resolve_name("." * node.level + (node.module or ""), module.__package__),
                    0,
                )
            own -= {alias.asname or alias.name for alias in node.names}
            lines += [ast.unparse(node)] * bool(node.names)
    return lines + [f"from {module_name} import {', '.join(sorted(own))}"] * bool(own)


if __name__ == "__main__":
    run(answers)

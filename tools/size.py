"""How large each room is: lines of Python as `ruff format` writes them at 100 columns, and of JavaScript.

python tools/size.py
"""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("course_lib", "assets/recipes", "tools", "tests")


def room(path: Path) -> str:
    """`course_lib/models` for what lies in it; `course_lib` for its own files; other folders are one room each."""
    parts = path.parts
    return (
        "/".join(parts[:2]) if parts[0] in ("course_lib", "assets") and len(parts) > 2 else parts[0]
    )


def count(folder: Path) -> dict[str, Counter]:
    """Files, and lines by kind, of each room of a copy of the repository."""
    rooms: dict[str, Counter] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".js") and path.is_file():
            lines = len(path.read_text(encoding="utf-8").splitlines())
            rooms.setdefault(room(path.relative_to(folder)), Counter()).update(
                {"files": 1, path.suffix: lines}
            )
    return rooms


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for name in ROOMS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name)
        ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--isolated", "--line-length"]
        subprocess.run([*ruff, "100", str(copy)], check=True)
        rooms = count(copy)
    rooms["all of course_lib"] = sum(
        (rooms[name] for name in list(rooms) if name.startswith("course_lib")), Counter()
    )
    print(f"{'room':24}{'files':>7}{'.py':>9}{'.js':>8}")
    for name, counted in rooms.items():
        print(f"{name:24}{counted['files']:7,}{counted['.py']:9,}{counted['.js']:8,}")


if __name__ == "__main__":
    main()

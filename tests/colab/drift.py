"""What has moved between two lists of installed packages: Colab's newer one, say, and what this
course is tested with.

    python tests/colab/drift.py NEWER_LIST [OLDER_LIST]

A list is what `pip freeze` prints, such as pip-freeze.txt of github's googlecolab/backend-info; the
older one is requirements.txt beside this file, unless another is given. Only packages of the older
list are compared.
"""

import re
import sys
from pathlib import Path

PINS = Path(__file__).with_name("requirements.txt")
LINE = re.compile(
    r"([\w.-]+)(?:\[[\w,]+\])?\s*(?:==\s*([\w.*!+-]+)|@\s*\S*?/[\w.]+-(\d[\w.]*)[^/]*$)"
)


def versions(text: str) -> dict[str, str]:
    """The version of each package that a list names exactly; what follows a plus (a CUDA build) is
    left out.
    """
    found = (LINE.match(line.split("#")[0].strip()) for line in text.splitlines())
    return {
        match[1].lower().replace("_", "-"): (match[2] or match[3]).split("+")[0]
        for match in found
        if match
    }


def moved(older: dict[str, str], newer: dict[str, str]) -> list[str]:
    """A line for each package of the older list whose version no longer fits, or that is gone."""
    return [
        f"{name:24} {version:12} → {newer.get(name, 'gone')}"
        for name, version in older.items()
        if not re.fullmatch(re.escape(version).replace(r"\.\*", r"(\..*)?"), newer.get(name, ""))
    ]


def main(newer: str, older: str | Path = PINS) -> int:
    lists = [versions(Path(path).read_text(encoding="utf-8")) for path in (older, newer)]
    lines = moved(*lists)
    print("\n".join(lines) or f"all {len(lists[0])} packages are as before")
    return bool(lines)


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))

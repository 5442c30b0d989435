"""Let every badge, clone line and address name another copy of this repository: `make retarget
REPO=owner/name`.

Without an argument it takes the remote called `origin`.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent


def configured(root: Path = ROOT) -> str:
    """`owner/name` as `pyproject.toml` has it."""
    urls = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]
    return urls["Repository"].removeprefix("https://github.com/")


def origin(root: Path = ROOT) -> str:
    """`owner/name` of the remote called `origin`."""
    git = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=root, capture_output=True, text=True
    )
    url = git.stdout.strip()
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", url)
    if not found:
        raise ValueError(
            f"the remote origin is {url or 'not set'}, which names no GitHub repository; say which"
            " one: make retarget REPO=owner/name"
        )
    return found[1]


def retarget(new: str, root: Path = ROOT) -> list[str]:
    """Rewrite all files that name the configured repository; the names of those that changed."""
    if not re.fullmatch(r"[\w-]+/[\w.-]+", new):
        raise ValueError(
            f"{new!r} is no repository; expected owner/name, as in make retarget REPO=ada/seeing"
        )
    named = re.compile(rf"(github(?:\.com)?/){re.escape(configured(root))}(?![\w-])")
    changed = []
    for path in [*root.glob("*.*"), *root.glob("notebooks/*.ipynb")]:
        if path.suffix in {".md", ".toml", ".cff", ".yml", ".ipynb"}:
            text = path.read_text(encoding="utf-8")
            rewritten = named.sub(rf"\g<1>{new}", text)
            if rewritten != text:
                path.write_text(rewritten, encoding="utf-8")
                changed.append(str(path.relative_to(root)))
    return sorted(changed)


if __name__ == "__main__":
    try:
        repository = sys.argv[1] if len(sys.argv) > 1 else origin()
        print(
            f"{repository} is now named in:",
            ", ".join(retarget(repository)) or "nothing new, all named it before",
        )
    except ValueError as error:
        sys.exit(str(error))

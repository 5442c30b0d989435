"""What would keep a page of the site from being read: by anyone, and offline."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

__all__ = ["site_problems"]

LITERAL = ("pre", "code", "script", "style")
REMOTE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)


def site_problems(folder: Path) -> list[str]:
    """What is wrong with the HTML files in a folder, each with its file; empty if they can be
    published.
    """
    readers = {
        path.resolve(): _Reader(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
    }
    problems = [
        f"{path.relative_to(folder.resolve())}: {problem}"
        for path, reader in readers.items()
        for problem in reader.problems
    ]
    for path, reader in readers.items():
        for link in reader.links:
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists() or (
                anchor and target in readers and anchor not in readers[target].ids
            ):
                problems.append(
                    f"{path.relative_to(folder.resolve())}: the link {link} leads nowhere"
                )
    return problems


class _Reader(HTMLParser):
    """Reads one page and collects its problems, its relative links and its ids."""

    def __init__(self, text: str):
        super().__init__()
        self.problems: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.level, self.has_title, self.literal = 0, False, []
        self.feed(text)
        if not self.has_title:
            self.problems.append("has no title")

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.has_title |= tag == "title"
        if tag in LITERAL:
            self.literal.append(tag)
        if tag == "html" and not given.get("lang"):
            self.problems.append("names no language")
        if tag == "img" and not (given.get("alt") or "").strip():
            self.problems.append("a picture has no alternative text")
        if tag == "iframe" and not given.get("title"):
            self.problems.append("a frame has no title")
        if heading := re.fullmatch(r"h([1-6])", tag):
            if int(heading[1]) > self.level + 1:
                self.problems.append(f"an {tag} follows an h{self.level}")
            self.level = int(heading[1])
        if (name := given.get("id")) is not None:
            if name in self.ids:
                self.problems.append(f"the id {name} is used twice")
            self.ids.add(name)
        loaded = [given.get(key) or "" for key in ("src", "srcset", "data", "poster")]
        loaded += [given.get("href") or ""] if tag in ("link", "image", "use") else []
        self._refuse_remote(
            [*loaded, *re.findall(r"url\(\s*['\"]?([^)'\"]+)", given.get("style") or "")]
        )
        if tag == "a" and (link := given.get("href")) and not re.match(r"[a-z]+:", link):
            self.links.append(link)
        self.links += [
            source for source in loaded[:1] if source and not re.match(r"[a-z]+:|//", source)
        ]
        if "srcdoc" in given:
            self.problems += _Reader(html.unescape(given["srcdoc"] or "")).problems

    def handle_data(self, data: str) -> None:
        """What is to be read; only a script that somebody wrote into prose is shown on purpose,
        instead of run.
        """
        if "style" in self.literal:
            self._refuse_remote(re.findall(r"(?:@import|url\()\s*['\"]?([^)'\";]+)", data))
        elif not self.literal and re.search(r"\S{400}|</?(?!script)[a-z]+( [^<>]*)?>", data):
            self.problems.append(f"shows data or markup as if it were text: {data.strip()[:40]}")

    def handle_endtag(self, tag: str) -> None:
        if self.literal and tag == self.literal[-1]:
            self.literal.pop()

    def _refuse_remote(self, addresses: list[str]) -> None:
        self.problems += [
            f"loads {address} from the network" for address in addresses if REMOTE.match(address)
        ]

"""What would keep a page of the site from being read: by anyone, and offline."""

import re
from pathlib import Path
from urllib.parse import unquote

from bs4 import BeautifulSoup

__all__ = ["problems"]


def problems(folder: Path) -> list[str]:
    """What would keep the pages in a folder from being read by anyone, and offline."""
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        pages[path.resolve()] = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    faults = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        faults += [f"{name}: {problem}" for problem in _page_problems(page)]
        for link in page("a", href=True) + page(["img", "script", "iframe"], src=True):
            address = unquote(link.get("href") or link["src"])
            if re.match("[a-z]+:|//", address):
                continue
            file, _, anchor = address.partition("#")
            target = (path.parent / file).resolve() if file else path
            missing = anchor and target in pages and not pages[target].find(id=anchor)
            if not target.exists() or missing:
                faults.append(f"{name}: the link {address} leads nowhere")
    return faults


def _page_problems(page: BeautifulSoup) -> list[str]:
    faults = []
    if not page.title:
        faults.append("has no title")
    if not page.html or not page.html.get("lang"):
        faults.append("names no language")
    for picture in page("img"):
        alt = picture.get("alt", "").strip()
        if not alt or alt.startswith("No description has been provided"):  # nbconvert's words
            faults.append("a picture has no alternative text")
    level = 0
    for heading in page(re.compile("^h[1-6]$")):
        if int(heading.name[1]) > level + 1:
            faults.append(f"an {heading.name} follows an h{level}")
        level = int(heading.name[1])
    ids = [element["id"] for element in page(id=True)]
    faults += [f"the id {name} is used twice" for name in sorted(set(ids)) if ids.count(name) > 1]
    loaded = [element.get("src") or element["href"] for element in page(src=True) + page("link")]
    loaded += [element["srcset"] for element in page(srcset=True)]
    styles = [style.get_text() for style in page("style")]
    styles += [element["style"] for element in page(style=True)]
    for style in styles:
        loaded += re.findall(r"(?:@import|url\()\s*['\"]?([^)'\";]+)", style)
    faults += [f"loads {address} from the network" for address in loaded if _is_remote(address)]
    for frame in page("iframe"):
        if not frame.get("title"):
            faults.append("a frame has no title")
        if frame.get("srcdoc"):
            faults += _page_problems(BeautifulSoup(frame["srcdoc"], "html.parser"))
    for text in page.find_all(string=re.compile(r"object at 0x|<IPython\.|<[\w.]+ object>")):
        if text.find_parent(["script", "style"]) is None:
            faults.append(f"shows an object instead of what is in it: {text.strip()[:80]}")
    for text in page.find_all(string=re.compile(r"\S{400}|</?(?!script)[a-z]+( [^<>]*)?>")):
        if text.find_parent(["pre", "code", "script", "style"]) is None:
            faults.append(f"shows data or markup as if it were text: {text.strip()[:40]}")
    return faults


def _is_remote(address: str) -> bool:
    return bool(re.match(r"\s*(https?:)?//", address, re.IGNORECASE))

"""Formulas as MathML, which browsers draw and read aloud by themselves: the LaTeX that lessons use.

A command that is not known here is refused by name; it needs a line in one of the tables.
"""

import re
from collections.abc import Iterator
from html import escape

from bs4 import BeautifulSoup

__all__ = ["draw_formulas", "mathml"]

FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
WORDS = "text|mathrm|operatorname|mathbb|mathcal|begin|end"  # whose braces hold plain text
TOKEN = re.compile(rf"\\(?:{WORDS})\{{[^{{}}]*\}}|\\[A-Za-z]+|\\.|\d+(?:[.,]\d+)*|\S", re.DOTALL)

GREEK = """Delta alpha beta gamma delta epsilon varepsilon eta theta lambda mu pi sigma tau phi ell partial
infty dots top"""
RELATIONS = "propto cdot times odot pm in leftarrow rightarrow Rightarrow approx le ge ne sim"
LETTERS = dict(zip(GREEK.split(), "Δαβγδϵεηθλμπστφℓ∂∞…⊤", strict=True))
SIGNS = dict(zip(RELATIONS.split(), "∝⋅×⊙±∈←→⇒≈≤≥≠∼", strict=True))
FENCES = {"lvert": "|", "rvert": "|", "lVert": "‖", "rVert": "‖", "{": "{", "}": "}"}
FUNCTIONS = ("log", "exp", "sin", "cos", "tanh", "min", "max", "arg")
LIMITS = ("min", "max", "arg")  # what stands below them when a formula has its own line
WIDTHS = {",": 0.17, ":": 0.22, ";": 0.28, " ": 0.33, "!": -0.17, "quad": 1, "qquad": 2}
ACCENTS = {"bar": "¯", "overline": "¯", "hat": "^", "tilde": "~"}
SIZES = {"big": 1.2, "Big": 1.8, "bigg": 2.4}
SPECIAL = {
    "mathbb": {"R": "ℝ", "E": "𝔼", "1": "𝟙", "N": "ℕ"},
    "mathcal": {"L": "ℒ", "N": "𝒩"},
}
MATRICES = {"matrix": ("", ""), "pmatrix": ("(", ")"), "bmatrix": ("[", "]")}

REMEDY = "the site cannot draw it: write it otherwise, or add it to tools/site_math.py"


def mathml(latex: str, display: bool = False) -> str:
    """A formula as an element; `ValueError` names what is not known or not closed."""
    parser = _Parser(latex, display)
    try:
        content = parser.row()
    except IndexError:
        raise ValueError(f"the formula {latex!r} ends too early; close its braces") from None
    if parser.tokens:
        raise ValueError(f"the formula {latex!r} has {parser.tokens[0]!r} too many; remove it")
    kind = ' display="block"' if display else ""
    return f'<math{kind} alttext="{escape(latex.strip())}">{content}</math>'


def draw_formulas(content: BeautifulSoup) -> None:
    """Put the element in the place of each `$…$` and `$$…$$` of a page, code aside."""
    for text in content.find_all(string=re.compile(r"\$")):
        if text.find_parent(["pre", "code", "iframe", "math"]) is not None:
            continue
        pieces, at = [], 0
        for found in FORMULA.finditer(text):
            pieces.append(escape(text[at : found.start()], quote=False))
            pieces.append(mathml(found[1] or found[2], display=bool(found[1])))
            at = found.end()
        if pieces:
            pieces.append(escape(text[at:], quote=False))
            text.replace_with(BeautifulSoup("".join(pieces), "html.parser"))


class _Parser:
    """Reads the tokens from the front; each method takes what is its own."""

    def __init__(self, latex: str, display: bool):
        self.latex, self.display = latex, display
        self.tokens = TOKEN.findall(latex)

    def row(self, *ends: str) -> str:
        """Items up to one of the `ends`, which is left, or to the end of the formula."""
        items = []
        while self.tokens and self.tokens[0] not in (*ends, "}", r"\right"):
            items.append(self.scripted())
        return f"<mrow>{''.join(items)}</mrow>"

    def scripted(self) -> str:
        """An item with what hangs below and above it."""
        token = self.tokens[0]
        base, scripts = self.item(), {}
        while self.tokens and self.tokens[0] in ("_", "^", "'"):
            place = self.tokens.pop(0)
            scripts[place.replace("'", "^")] = "<mo>′</mo>" if place == "'" else self.argument()
        below, above = scripts.get("_"), scripts.get("^")
        limits = token in (r"\sum", r"\underbrace", *(f"\\{name}" for name in LIMITS))
        if limits and (self.display or token == r"\underbrace"):
            names = ("munder", "mover", "munderover")
        else:
            names = ("msub", "msup", "msubsup")
        if below and above:
            return f"<{names[2]}>{base}{below}{above}</{names[2]}>"
        if below or above:
            name = names[0] if below else names[1]
            return f"<{name}>{base}{below or above}</{name}>"
        return base

    def item(self) -> str:
        """One letter, number, sign, group or command with its arguments."""
        token = self.tokens.pop(0)
        if token == "{":
            content = self.row()
            self.close("}")
            return content
        if token.startswith("\\"):
            return self.command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        return f"<mo{_unstretched(token)}>{escape(token.replace('-', '−').replace('*', '∗'))}</mo>"

    def command(self, name: str) -> str:
        if name in LETTERS:
            return f"<mi>{LETTERS[name]}</mi>"
        if name in SIGNS:
            return f"<mo>{SIGNS[name]}</mo>"
        if name in FENCES:
            return f'<mo stretchy="false">{FENCES[name]}</mo>'
        if name in WIDTHS:
            return f'<mspace width="{WIDTHS[name]}em"></mspace>'
        if name in FUNCTIONS:
            return self.function(name)
        if name == "sum":
            return "<mo>∑</mo>"
        if name in ("frac", "tfrac"):
            fraction = f"<mfrac>{self.argument()}{self.argument()}</mfrac>"
            small = '<mstyle displaystyle="false">'
            return f"{small}{fraction}</mstyle>" if name == "tfrac" else fraction
        if name == "sqrt":
            return f"<msqrt>{self.argument()}</msqrt>"
        if name in ACCENTS:
            return f'<mover accent="true">{self.argument()}<mo>{ACCENTS[name]}</mo></mover>'
        if name == "underbrace":
            return f"<munder>{self.argument()}<mo>⏟</mo></munder>"
        if "{" in name:
            return self.named(*name.rstrip("}").split("{"))
        if name.rstrip("lr") in SIZES:
            size = SIZES[name.rstrip("lr")]
            fence = self.fence()
            return f'<mo stretchy="true" minsize="{size}em" maxsize="{size}em">{fence}</mo>'
        if name == "left":
            before, inside = self.fence(), self.row()
            self.close(r"\right")
            return f"<mrow><mo>{before}</mo>{inside}<mo>{self.fence()}</mo></mrow>"
        raise ValueError(f"the formula {self.latex!r} has \\{name}; {REMEDY}")

    def named(self, name: str, text: str) -> str:
        """A command whose braces hold plain text."""
        if name == "begin":
            return self.matrix(text)
        if name == "operatorname":
            return self.function(text)
        if name in SPECIAL and text in SPECIAL[name]:
            return f"<mi>{SPECIAL[name][text]}</mi>"
        if name in ("text", "mathrm"):
            return f"<mtext>{escape(text).replace(' ', chr(160))}</mtext>"
        raise ValueError(f"the formula {self.latex!r} has \\{name}{{{text}}}; {REMEDY}")

    def function(self, name: str) -> str:
        """A name with space around it, less before its brackets."""
        follows = self.tokens[0] if self.tokens else ""
        after = "0" if re.match(r"[(_^]|\\left|\\[bB]ig", follows) else "0.17em"
        return f'<mo lspace="0.17em" rspace="{after}">{escape(name)}</mo>'

    def argument(self) -> str:
        """What a command or a script takes: a group, or one item, of a number one digit."""
        if len(self.tokens[0]) > 1 and self.tokens[0].isdigit():
            self.tokens[:1] = [self.tokens[0][0], self.tokens[0][1:]]
        return self.item()

    def fence(self) -> str:
        token = self.tokens.pop(0)
        return FENCES.get(token[1:], token) if token.startswith("\\") else token.replace(".", "")

    def matrix(self, kind: str) -> str:
        if kind not in MATRICES:
            raise ValueError(
                f"the formula {self.latex!r} begins {kind!r}; the site draws {', '.join(MATRICES)}"
            )
        rows, end = [], rf"\end{{{kind}}}"
        while True:
            cells = [self.row("&", r"\\", end)]
            while self.tokens[0] == "&":
                self.tokens.pop(0)
                cells.append(self.row("&", r"\\", end))
            rows.append("".join(f"<mtd>{cell}</mtd>" for cell in cells))
            if self.tokens.pop(0) == end:
                break
        before, after = MATRICES[kind]
        table = "".join(f"<mtr>{row}</mtr>" for row in rows)
        return f"<mrow><mo>{before}</mo><mtable>{table}</mtable><mo>{after}</mo></mrow>"

    def close(self, token: str) -> None:
        if self.tokens.pop(0) != token:
            raise ValueError(f"the formula {self.latex!r} has no {token!r} where it is due; add it")


def _unstretched(token: str) -> str:
    return ' stretchy="false"' if token in "()[]|" else ""


def formulas(text: str) -> Iterator[tuple[str, bool]]:
    """Each formula of a text in Markdown, and whether it has a line of its own."""
    for found in FORMULA.finditer(re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)):
        yield found[1] or found[2], bool(found[1])

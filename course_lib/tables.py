"""Tables: rows of text as aligned lines, as HTML in a notebook, as Markdown in a README."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Table", "aligned", "html_row"]

Rows = Sequence[Sequence[Any]]


def aligned(rows: Rows, left: int = 1) -> str:
    """Rows as lines of text: the first `left` columns begin, the others end, below each other."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Table(NamedTuple):
    """A caption, which may be empty, and rows, the first of which is the header.

    A notebook shows it as a table, `print` as aligned text with the caption below.
    """

    caption: str
    rows: Rows

    def __str__(self) -> str:
        return f"{aligned(self.rows)}\n{self.caption}".rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self.rows
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (
            f"<table>{caption}<thead>{html_row(head, 'th')}</thead>"
            f"<tbody>{''.join(html_row(row) for row in body)}</tbody></table>"
        )

    def markdown(self) -> str:
        """The rows as a table in Markdown; the caption is left out."""
        lines = [f"| {' | '.join(map(str, row))} |" for row in self.rows]
        lines.insert(1, "|---" * len(self.rows[0]) + "|")
        return "\n".join(lines)


def html_row(row: Sequence[Any], tag: str = "td") -> str:
    """A row of an HTML table; a cell without words heads nothing, so it is no `th`."""
    cells = []
    for text in map(str, row):
        kind = tag if text else "td"
        cells.append(f"<{kind}>{html.escape(text)}</{kind}>")
    return f"<tr>{''.join(cells)}</tr>"

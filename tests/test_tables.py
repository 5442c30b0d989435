"""Tables: the same rows as aligned text, as HTML without a hole, as Markdown."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from course_lib.tables import Table, aligned

cell = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=9)
rows = st.integers(1, 4).flatmap(
    lambda columns: st.lists(st.tuples(*[cell] * columns), min_size=1, max_size=5)
)


def test_text_begins_left_and_numbers_end_right():
    table = Table("What it is.", [("score", "a"), ("AP", "0.1"), ("longer", 12.5)])
    lines = ["score      a", "AP       0.1", "longer  12.5", "What it is."]
    assert str(table).splitlines() == repr(table).splitlines() == lines
    assert aligned([("a", "b", 1), ("aa", "bbb", 10)], left=2) == "a   b     1\naa  bbb  10"


@given(rows)
def test_every_cell_stands_in_its_column(rows):
    lines = aligned(rows).splitlines()
    assert [line.split() for line in lines] == [list(row) for row in rows]
    ends = {len(line) for line in lines}
    assert len(ends) == 1 or len(rows[0]) == 1


class Cells(HTMLParser):
    """The text of each cell, and the tags met."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.tags = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


@given(rows)
def test_html_holds_every_cell_and_nothing_else(rows):
    page = Cells(Table("", rows)._repr_html_())
    assert page.cells == [text for row in rows for text in row]
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td"}


def test_a_caption_is_escaped():
    assert "<caption>&lt;b&gt;</caption>" in Table("<b>", [("a",)])._repr_html_()


def test_markdown_is_a_header_a_rule_and_rows():
    table = Table("left out", [("a", "b"), ("c", 1)])
    assert table.markdown() == "| a | b |\n|---|---|\n| c | 1 |"

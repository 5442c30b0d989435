"""The report's page: everything escaped, pictures inside it, and what is missing said."""

import re
from html.parser import HTMLParser

import pytest

from course_lib.pictures import SECTIONS, Picture, Report, blank_axes
from course_lib.tables import Table

EVIL = '<script>alert("x")</script> & "quoted" \'single\' [[title]]'


def picture(says="A blank picture."):
    return Picture(blank_axes(1, 1, 2, 1)[0], says)


def whole(**changes):
    parts = {name: [f"Words about {name}."] for name in SECTIONS}
    return Report("A title", "A writer", parts | changes)


class Reader(HTMLParser):
    """Text, tags with their attributes, and whether each opened tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_page_holds_its_parts_in_order_and_is_no_draft():
    page = Reader(whole().page())
    heads = [page.text.index(f"{number} · {name}") for number, name in enumerate(SECTIONS, start=1)]
    assert heads == sorted(heads)
    assert "Draft" not in page.text
    assert page.open == []
    assert dict(page.tags)["html"] == {"lang": "en"}


@pytest.mark.parametrize(
    "report",
    [
        Report(
            EVIL,
            EVIL,
            {name: [EVIL, Table(EVIL, [(EVIL, "b"), (EVIL, EVIL)])] for name in SECTIONS},
        ),
        Report("t", "a", {name: ["words", picture(EVIL)] for name in SECTIONS}),
    ],
)
def test_what_people_write_stays_text(report):
    page = Reader(report.page())
    assert {tag for tag, _ in page.tags} <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "p",
        "section",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "img",
        "figcaption",
    }
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert EVIL in page.text
    assert page.open == []


def test_a_page_needs_no_network_and_describes_its_pictures():
    page = whole(**{"Root cause": ["words", picture("What is seen.")]}).page()
    pictures = [attributes for tag, attributes in Reader(page).tags if tag == "img"]
    assert [one["alt"] for one in pictures] == ["What is seen."] * 2  # light and dark
    assert pictures[0]["src"].startswith("data:image/webp;base64,")
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    assert "default-src 'none'" in page


def test_blank_lines_make_paragraphs():
    page = Reader(whole(**{"Root cause": ["\none\n\ntwo\nstill two\n  \n\nthree\n"]}).page())
    # of this part, of the others, the author
    assert len([tag for tag, _ in page.tags if tag == "p"]) == 3 + 4 + 1


def test_parts_without_words_are_named_and_asked_for():
    table = Table("numbers", [("a", "b"), ("1", "2")])
    report = whole(**{"Root cause": ["  \n", table], "Limits and ethics": []})
    assert report.missing == ["Root cause", "Limits and ethics"]
    text = Reader(report.page()).text
    assert "Draft. Not written yet: Root cause, Limits and ethics." in text
    assert SECTIONS["Root cause"] in text
    assert SECTIONS["Losses compared"] not in text
    assert "numbers" in text
    assert Report("t", "", {}).missing == list(SECTIONS)
    assert "without a name" in Reader(Report("t", "", {}).page()).text


def test_a_report_refuses_what_it_cannot_print():
    with pytest.raises(ValueError, match="has no title; give it one"):
        Report("  ", "me", {})
    with pytest.raises(
        ValueError, match="no part of the report is called 'Ethics'; they are Root cause, Losses"
    ):
        Report("t", "me", {"Ethics": ["words"]})


def test_a_page_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    path = whole().save(tmp_path / "new" / "report.html")
    before = path.read_text(encoding="utf-8")
    assert before == whole().page()
    monkeypatch.setattr(Report, "page", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        whole().save(path)
    assert path.read_text(encoding="utf-8") == before
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_table_is_text_too():
    said = str(Table("What it is.", [("score", "a"), ("AP", "0.1"), ("longer", "12.5")]))
    assert said.splitlines() == ["score      a", "AP       0.1", "longer  12.5", "What it is."]

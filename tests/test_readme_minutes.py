"""What the README tells teachers about time is what the lessons say."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def minutes():
    """The core minutes of each lesson, from its first cell."""
    return {
        path.name[:2]: int(
            re.search(r"About (\d+) minutes", nbformat.read(path, 4).cells[0].source)[1]
        )
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    }


def row(name):
    table = README.split("**Minutes**")[1]
    return re.search(rf"^\| {name} \| (.*) \|$", table, re.MULTILINE)[1].split(" | ")


def test_the_minutes_are_those_of_the_lessons():
    table = dict(zip(row("lesson"), map(int, row("minutes")), strict=True))
    assert table == minutes()


def test_sections_that_are_called_optional_are_those_of_the_lessons():
    for name, said in zip(row("lesson"), row("optional sections"), strict=True):
        (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
        first = nbformat.read(path, 4).cells[0].source
        sections = re.search(r"sections? ([\d, and]+) (?:is|are) \*optional\*", first)
        if sections:
            assert re.findall(r"\d+", said) == re.findall(r"\d+", sections[1]), name
        else:
            assert said == ("yes" if "*optional*" in first else "–"), name


def test_a_week_takes_every_lesson_but_the_elective_and_each_day_its_sum():
    week = re.search(r"\*\*One week\*\*.*?\. Lesson 13", README, re.DOTALL)[0]
    days = re.findall(r"([\d, \nand]+?) \((\d+)\)", week)
    taken = [re.findall(r"\b\d\d\b", lessons) for lessons, _ in days]
    for lessons, (_, total) in zip(taken, days, strict=True):
        assert sum(minutes()[lesson] for lesson in lessons) == int(total), lessons
    assert sorted(lesson for day in taken for lesson in day) == sorted(set(minutes()) - {"13"})

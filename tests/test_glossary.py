"""One glossary: the README and the lessons give every word the meaning that `glossary` prints; and
how lessons end.
"""

import re
from pathlib import Path

import nbformat
import pytest

from course_lib.lessons import glossary
from course_lib.lessons.glossary import GLOSSARY

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MEANINGS = {word: meaning for words in GLOSSARY.values() for word, meaning in words.items()}


def paragraph(words):
    """Words with their meanings, as the README and the lessons write them."""
    return " ".join(
        f"*{word}*: {meaning}" + ("" if meaning.endswith("?") else ".")
        for word, meaning in words.items()
    )


def explained(text):
    """The words that a paragraph explains: `*Token*: one item of a list.`"""
    return {
        word: meaning.removesuffix(".")
        for word, meaning in re.findall(r"\*([^*]+)\*: (.+?[.?])(?= \*[^*]+\*: |$)", text)
    }


def readme_words(readme):
    """The README's section Words, after its paragraph on axes."""
    section = readme.split("\n## Words\n")[1].split("\n## ")[0]
    return " ".join(section.strip().split("\n\n", 1)[1].split())


def as_readme():
    return " ".join(f"**{lesson}** {paragraph(words)}" for lesson, words in GLOSSARY.items())


def ending_problems(cells, number, folder):
    """What is wrong with a lesson's recap: its questions, its words, its reading list, its links."""
    recap = cells[-1].source
    problems = []
    if recap.count("<details><summary>") != 3 or recap.count("</details>") != 3:
        problems.append("not three questions whose answers unfold")
    lines = {
        name: next((line for line in recap.splitlines() if line.startswith(f"**{name}.**")), "")
        for name in ("Words", "Reading")
    }
    problems += [f"no paragraph **{name}.**" for name, line in lines.items() if not line]
    said = explained(lines["Words"].removeprefix("**Words.** "))
    for word, meaning in said.items():
        if MEANINGS.get(word) != meaning:
            problems.append(
                f"{word!r} is {meaning!r} here and {MEANINGS.get(word)!r} in the glossary"
            )
    problems += [
        f"the word {word!r} of this lesson is missing"
        for word in GLOSSARY.get(number, {})
        if word not in said
    ]
    if lines["Words"] and lines["Words"] != "**Words.** " + paragraph(said):
        problems.append("words that are not written `*Word*: meaning.`")
    lessons = sorted(path.stem[:2] for path in folder.glob("[01][0-9]_*.ipynb"))
    place = lessons.index(number)
    for neighbour, sign in ((place + 1, "**Next:**"), (place - 1, "**Back:**")):
        if not 0 <= neighbour < len(lessons):
            continue
        to = lessons[neighbour]
        linked = (
            re.search(rf"\(({to}_\w+\.ipynb)\)", recap.split(sign)[-1]) if sign in recap else None
        )
        if not linked:
            problems.append(f"no link to lesson {to} after {sign}")
        elif not (folder / linked[1]).exists():
            problems.append(f"{linked[1]} is not there")
    return problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_lesson_ends_with_questions_words_reading_and_links(path):
    problems = ending_problems(nbformat.read(path, as_version=4).cells, path.name[:2], path.parent)
    assert not problems, "\n".join(problems)


def test_the_readme_explains_the_same_words():
    assert readme_words((ROOT / "README.md").read_text(encoding="utf-8")) == as_readme(), (
        "the README's section Words must read as `as_readme()` here does"
    )


def test_a_word_has_one_meaning_in_one_sentence():
    words = [word for meanings in GLOSSARY.values() for word in meanings]
    assert len({word.lower() for word in words}) == len(words)
    assert all(
        meaning == meaning.strip() and not meaning.endswith(".") and ". " not in meaning
        for meaning in MEANINGS.values()
    )
    assert list(GLOSSARY) == sorted(GLOSSARY)
    needed = ("query key value token head logit prior margin floor ceiling chance leak", "mean map")
    assert {*needed[0].split(), needed[1]} <= {word.lower() for word in words}


def test_it_prints_some_words_or_all(capsys):
    glossary("FLOOR", "mean map")
    assert (
        capsys.readouterr().out == "Floor (lesson 00): what a constant scores\n"
        "Mean map (lesson 01): one map for all images, a baseline\n"
    )
    glossary()
    assert len(capsys.readouterr().out.splitlines()) == len(MEANINGS)
    with pytest.raises(ValueError, match="no 'flor'; did you mean 'floor'"):
        glossary("flor")
    with pytest.raises(ValueError, match="prints all"):
        glossary("xyzzy")


FAULTS = [
    (r"\*Cue\*: the direction", "*Cue*: a direction", "'Cue' is 'a direction"),
    (r"\*Cue\*: [^.]+\. ", "", "'Cue' of this lesson is missing"),
    (r"\*Cue\*:", "*Clue*:", "'Clue' is"),
    (r"\*Cue\*:", "Cue:", "'Cue' of this lesson is missing"),
    (r"\*\*Words\.\*\* ", "**Words.** Here they are. ", "not written"),
    (r"\*\*Reading\.\*\*", "Reading.", "no paragraph"),
    (r"(?s)<details>.*?</details>", "", "not three questions"),
    (r"\(01_static_features\.ipynb\)", "", "no link to lesson 01"),
    (r"01_static_features", "01_static", "01_static.ipynb is not there"),
]


@pytest.mark.parametrize(("old", "new", "words"), FAULTS)
def test_a_planted_fault_is_found(old, new, words):
    cells = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    cells[-1].source, count = re.subn(old, new, cells[-1].source, count=1)
    assert count
    assert words in "\n".join(ending_problems(cells, "00", NOTEBOOKS[0].parent))

"""Words that people use for attributes, besides CelebA's own names: what the search field knows."""

from collections.abc import Sequence

__all__ = ["find_terms", "near_words", "spaced"]

# word: the attribute that is meant; a minus where the word means that it is absent
_NEAR = {
    "5 o'clock shadow": "5_o_Clock_Shadow",
    "stubble": "5_o_Clock_Shadow",
    "hairless": "Bald",
    "fringe": "Bangs",
    "brunette": "Brown_Hair",
    "blonde": "Blond_Hair",
    "plump": "Chubby",
    "spectacles": "Eyeglasses",
    "specs": "Eyeglasses",
    "glasses": "Eyeglasses",
    "grey": "Gray_Hair",
    "man": "Male",
    "woman": "-Male",
    "female": "-Male",
    "moustache": "Mustache",
    "beard": "-No_Beard",
    "bearded": "-No_Beard",
    "beardless": "No_Beard",
    "shaven": "No_Beard",
    "blush": "Rosy_Cheeks",
    "whiskers": "Sideburns",
    "smile": "Smiling",
    "curly": "Wavy_Hair",
    "cap": "Wearing_Hat",
    "makeup": "Wearing_Lipstick",
    "tie": "Wearing_Necktie",
    "old": "-Young",
}


def spaced(name: str) -> str:
    """An attribute's name as it is read: "No Beard"."""
    return name.replace("_", " ")


def near_words(names: Sequence[str]) -> dict[str, str]:
    """The near words of those attributes that there are."""
    return {word: name for word, name in _NEAR.items() if name.lstrip("-") in names}


def find_terms(words: str, names: Sequence[str]) -> list[tuple[list[int], bool]]:
    """What to look for: of each word the attributes that it may mean, by index, and whether they are
    to be present.

    A word is a near word, or part of a name; a minus before it asks for absence. Raises
    `ValueError` for a word that means nothing here.
    """
    near, terms = near_words(names), []
    for word in words.lower().split():
        wanted, word = not word.startswith("-"), word.lstrip("-")
        name = near.get(word)
        if name is not None:
            indices, wanted = [names.index(name.lstrip("-"))], wanted != name.startswith("-")
        else:
            indices = [index for index, name in enumerate(names) if word in name.lower()]
        if not indices:
            raise ValueError(
                f"no attribute has {word!r} in its name; the names are"
                f" {', '.join(map(spaced, names))}"
            )
        terms.append((indices, wanted))
    return terms

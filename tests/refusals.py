"""How the tables of refusals are read: words of the message → the call, or calls, that are refused.

The wording is no contract; that a message names the value and a remedy is. So a table's words are two
or three of them, in their order, with ` … ` for whatever stands between.
"""

import re

import pytest


def each(table):
    """A test for each call of a table, as `words` and `call`."""
    rows = [
        pytest.param(words, call, id=words)
        for words, calls in table.items()
        for call in (calls if isinstance(calls, list) else [calls])
    ]
    return pytest.mark.parametrize(("words", "call"), rows)


def refused(words, call, *inputs, error=ValueError):
    """Check that the call raises `error` with one sentence that holds the words."""
    with pytest.raises(error) as raised:
        call(*inputs)
    message = str(raised.value)
    assert "\n" not in message
    assert re.search(".*".join(map(re.escape, words.split(" … "))), message), message

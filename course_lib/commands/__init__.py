"""What the command line runs: each command is a function whose arguments are its options and whose
docstring is its help.
"""

__all__: list[str] = []

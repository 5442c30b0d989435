"""What the command line runs: each command is a function of its settings, which `settings.py`
explains.
"""

__all__: list[str] = []

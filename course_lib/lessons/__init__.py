"""Exercises that are checked while you work: `check`, `hint`, `reveal`, `progress`.

The exercises of lesson NN are declared in `lesson_NN.py`, each beside its checks.
"""

from .exercises import check, hint, progress, reveal
from .glossary import glossary

__all__ = ["check", "glossary", "hint", "progress", "reveal"]

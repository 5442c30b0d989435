"""Exercises that are checked while you work: ``check``, ``hint``, ``reveal``, ``progress``.

The exercises of lesson NN are declared in ``lesson_NN.py``, each beside its checks.
"""

from .exercises import check, hint, progress, reveal

__all__ = ["check", "hint", "progress", "reveal"]

"""How each shipped weight and stored result is made; `python -m assets.recipes` lists them.

Scripts, not library: they import `course_lib`, and nothing there imports them.
"""

"""Command line: ``portnet``, or ``python -m portnet``; each command is a file.

The commands that need only NumPy are here without click as well; `train`, `predict` and `export`
need the extra ``cli``.
"""

__all__: list[str] = []

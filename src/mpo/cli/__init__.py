"""The command line: `mpo COMMAND`. Each command is a module of this package.

Exit codes: 0 done, 1 something is wrong (one line on stderr), 2 the command line is wrong,
130 interrupted.
"""

from .group import main

__all__ = ["main"]

"""`python -m mpo`: the same as `mpo`."""

from .cli import main

main()

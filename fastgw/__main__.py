"""`python -m fastgw`: the same as the command `fastgw`."""

from fastgw.cli import main

main()

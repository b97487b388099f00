"""`python -m facemark_sdk.cli` is the `facemark` command."""

from facemark_sdk.cli import main

main()

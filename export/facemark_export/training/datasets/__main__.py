"""`python -m facemark_export.training.datasets` is the `facemark-convert` command."""

from facemark_export.training.datasets.cli import main

main()

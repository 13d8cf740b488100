"""`python -m include.cli`: the same as `mlops`."""

from include.cli.main import main

main()

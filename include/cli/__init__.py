"""The `mlops` command; include/cli/main.py runs it, and names the modules that hold its commands."""

"""Requests that came at the same time, scored together and written to the log together."""

"""One file per type of source."""

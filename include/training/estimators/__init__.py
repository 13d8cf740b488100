"""One file per algorithm: its search space and how it is built."""

"""The processes of the service: the command that starts it, its supervisor, a worker, and how each ends."""

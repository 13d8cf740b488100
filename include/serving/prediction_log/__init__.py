"""The prediction log: durable on disk before the answer, then shipped to PostgreSQL."""

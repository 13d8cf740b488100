"""The embedded services of one machine: processes, ports, credentials."""

"""Scenarios that need the service and the simulator in one process; the CLI starts it as a subprocess."""

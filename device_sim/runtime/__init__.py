"""Simulated devices at work: one device's state machine, the fleet, its scheduler and its events."""

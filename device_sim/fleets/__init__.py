"""Fleets of a scenario: who their devices are, what is wrong with them, and what happens to them when."""

"""The processors of the simulated MT3620 and what they say to each other."""

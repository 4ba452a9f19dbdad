"""The simulated MT3620 without its software: flash, slots, root of trust, measured boot."""

"""The simulated MT3620: root of trust, flash, boot, cores, update client, sensors, fleets, faults."""

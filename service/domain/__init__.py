"""Device, attestation policy, rollout: plain Python, no I/O, no framework."""

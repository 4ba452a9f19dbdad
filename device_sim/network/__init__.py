"""A device's way out: HTTPS with its certificates, attestation, and the MQTT link."""

"""The MQTT 3.1.1 device gateway: mutual TLS in, committed telemetry out, commands back."""

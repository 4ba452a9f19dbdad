"""HTTPS: the operator API and the device API."""

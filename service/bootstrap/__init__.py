"""The composition root: the only place that wires adapters; `service.bootstrap.service` runs what it made."""

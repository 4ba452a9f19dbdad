"""Alembic migrations of the telemetry stores; run by `service.adapters.telemetry.schema.migrate`."""

"""Alembic's scripts; `service.adapters.database.migration` runs them."""

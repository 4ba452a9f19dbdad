"""Stores of what devices publish: SQLite (embedded) and PostgreSQL, with their own migrations."""

"""Attacks on what a database keeps run on SQLite and on PostgreSQL."""

from tests.databases import database, postgresql

__all__ = ["database", "postgresql"]

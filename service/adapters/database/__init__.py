"""The control database: SQLite or PostgreSQL through SQLAlchemy Core, migrated by Alembic."""

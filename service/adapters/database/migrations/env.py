"""What Alembic runs around a migration: it uses the connection and the transaction that `migrate` opened."""

from alembic import context

from service.adapters.database.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()

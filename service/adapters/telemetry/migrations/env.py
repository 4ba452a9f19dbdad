"""Alembic's entry: migrates over the connection that `schema.migrate` passes in."""

from alembic import context

from service.adapters.telemetry.schema import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()

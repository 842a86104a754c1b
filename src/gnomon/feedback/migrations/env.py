"""Run by alembic: migrates the connection that :mod:`gnomon.feedback.database` gives."""

from alembic import context

from gnomon.feedback.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()

"""What Alembic runs to migrate. Connection and transaction are the caller's, so a step that fails leaves nothing."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

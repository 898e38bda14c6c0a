"""The steps that bring a database from any older Sightline to this one's tables; Alembic runs them."""

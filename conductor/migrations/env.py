"""Alembic's entry: runs the migrations on the connection schema.py hands over."""

from __future__ import annotations

from alembic import context

from conductor.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter a table in place; Alembic then copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

"""The tables as this version has them; `migrations/` brings older ones here. Portable SQL, no value of any row."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

REVISION = "0001"  # the newest step in migrations/versions

metadata = MetaData()

# Times are whole seconds since 1970, as OpenAI sends them; `serial` is the order of creation.
files = Table(
    "files",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("metadata", JSON),
    Column("errors", JSON),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("output_expires_s", BigInteger, nullable=False),  # how long its output files are kept
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("total", Integer, nullable=False, default=0),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("input_tokens", BigInteger, nullable=False, default=0),
    Column("cached_tokens", BigInteger, nullable=False, default=0),
    Column("output_tokens", BigInteger, nullable=False, default=0),
    Index("batches_by_status", "status", "serial"),
)

# A line is where it stands in the input file, a lease while somebody answers it, and then its result.
lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # in the input file, from 1
    Column("custom_id", Text),
    Column("offset", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),  # leases that were not given back
    Column("fence", Integer, nullable=False, default=0),  # counts the leases; only the newest may answer
    Column("owner", Text),
    Column("lease_until", Float),
    Column("result", Text),
    Column("ok", Boolean),
    # Without it, finding the next line of a batch reads all that were answered before.
    Index(
        "unanswered_lines",
        "batch_id",
        "number",
        sqlite_where=text("result IS NULL"),
        postgresql_where=text("result IS NULL"),
    ),
)

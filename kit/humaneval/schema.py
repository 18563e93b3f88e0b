"""The store's tables, and an engine that treats SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kit.errors import Fault
from kit.humaneval.errors import StoreError

SCHEMA = 1
WAIT_S = 30  # how long a writer waits for another one

metadata = MetaData()

meta = Table("kit_meta", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

studies = Table(
    "kit_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("protocol", Text, nullable=False),
    Column("at", Float, nullable=False),
)

votes = Table(
    "kit_votes",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("study", ForeignKey("kit_studies.id"), nullable=False),
    Column("rater", String(200), nullable=False),
    Column("item", String(200), nullable=False),
    Column("shown", Text, nullable=False),
    Column("outputs", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("ms", Integer, nullable=False),
    Column("client", String(200), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("undoes", String(36)),
    Column("at", Float, nullable=False),
    Index("kit_votes_by_rater", "study", "rater"),
    Index("kit_votes_by_item", "study", "item"),
    Index(  # a vote is taken back once
        "kit_votes_undone",
        "undoes",
        unique=True,
        sqlite_where=text("undoes IS NOT NULL"),
        postgresql_where=text("undoes IS NOT NULL"),
    ),
)

handouts = Table(
    "kit_handouts",
    metadata,
    Column("study", ForeignKey("kit_studies.id"), nullable=False),
    Column("rater", String(200), nullable=False),
    Column("task", Text, nullable=False),
    Column("item", String(200), nullable=False),
    Column("shown", Text, nullable=False),
    Column("holder", String(200), nullable=False),
    Column("at", Float, nullable=False),
    Column("expires", Float, nullable=False),
    PrimaryKeyConstraint("study", "rater", "task"),
    Index("kit_handouts_by_item", "study", "item"),
)

asked = Table(  # what visitors of a demo asked and voted on; an older kit passes it over
    "kit_asked",
    metadata,
    Column("study", ForeignKey("kit_studies.id"), nullable=False),
    Column("item", String(200), nullable=False),
    Column("content", Text, nullable=False),
    PrimaryKeyConstraint("study", "item"),
)


def engine_of(url: str) -> Engine:
    """Return an engine for a URL, or for the path of an SQLite file.

    Raises:
        StoreError: not a URL of SQLite or PostgreSQL, or its driver is not installed.
    """
    shown = url if "://" in url else f"sqlite:///{url}"
    for short in ("postgres://", "postgresql://"):
        if shown.startswith(short):
            shown = f"postgresql+psycopg://{shown.removeprefix(short)}"
    try:
        parsed = make_url(shown)
        if parsed.get_backend_name() == "sqlite":
            # SQLite waits for locks itself; autocommit, because the driver would begin transactions by its own rules.
            engine = create_engine(parsed, connect_args={"timeout": WAIT_S, "isolation_level": None})
            event.listen(engine, "connect", _sqlite_settings)
            event.listen(engine, "begin", _sqlite_begin)
            return engine
        if parsed.get_backend_name() == "postgresql":
            return create_engine(parsed, pool_pre_ping=True, pool_size=20, max_overflow=20, pool_timeout=WAIT_S)
    except ModuleNotFoundError as error:
        fix = "pip install 'multimodal-kit[postgres]'"
        raise StoreError.of(hidden(shown), f"its driver is not installed: {error.name}", fix) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise StoreError.of(hidden(url), f"is no database URL: {error}", "write sqlite:///votes.db") from error
    allowed = "Allowed: sqlite:///FILE, postgresql+psycopg://USER@HOST/NAME."
    raise StoreError.of(hidden(url), f"kit keeps no votes in {parsed.get_backend_name()}", allowed=allowed)


def prepare(engine: Engine) -> None:
    """Make the tables where they are missing, and look at the schema's number.

    Raises:
        StoreError: a newer kit made the store, or it is not kit's.
    """
    where = hidden(str(engine.url))
    with engine.connect().execution_options(kit_writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            # CREATE TABLE IF NOT EXISTS races against itself there; this lock ends with the transaction.
            connection.execute(text("SELECT pg_advisory_xact_lock(7412589634)"))
        metadata.create_all(connection)
        query = select(meta.c.value).where(meta.c.name == "schema")
        found = connection.execute(query).scalar()
        if found is None:
            connection.execute(insert(meta).values(name="schema", value=str(SCHEMA)))
        elif not found.isdecimal():
            raise StoreError.of(where, f"its schema number is {found!r}", "restore a backup")
        elif int(found) > SCHEMA:
            what = f"schema {found} is newer than this kit reads ({SCHEMA})"
            raise StoreError.of(where, what, "pip install -U multimodal-kit")


def clock(connection: Connection) -> float:
    """Return the database's time in seconds since 1970: one clock for all who share the store."""
    sqlite = connection.dialect.name == "sqlite"
    query = (
        "SELECT (julianday('now') - 2440587.5) * 86400.0" if sqlite else "SELECT extract(epoch FROM clock_timestamp())"
    )
    return float(connection.execute(text(query)).scalar_one())


def insert_new(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless one is there with the same unique columns; tell whether it was inserted."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as insert_or_not
    else:
        from sqlalchemy.dialects.postgresql import insert as insert_or_not  # type: ignore[assignment]
    # What is returned tells for certain; the count of rows is -1 with some drivers.
    query = insert_or_not(table).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(query, row).first() is not None


def _sqlite_settings(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # a vote that was acknowledged survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")


def _sqlite_begin(connection: Connection) -> None:
    # A reader that becomes a writer fails at once when another writes; who will write says so and waits its turn.
    writes = connection.get_execution_options().get("kit_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def hidden(url: str) -> str:
    """Return a URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn what SQLAlchemy raises when the database fails into a StoreError that says what to do."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        first = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if first == "file is not a database":  # SQLite's words; trying again would not help
            raise StoreError.of(hidden(url), "is no SQLite database", "name another file; it need not exist") from error
        fix = "try again with the same id: what had been stored is not stored twice"
        raise StoreError(Fault(hidden(url), f"the database did not answer: {first}", fix)) from error

"""Which databases are taken, and what is said of others."""

import sqlite3

import pytest
from sqlalchemy import text

from kit.humaneval import schema
from kit.humaneval.errors import StoreError
from kit.humaneval.store import Store


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("votes.db", "pysqlite"),
        ("sqlite:///votes.db", "pysqlite"),
        ("postgres://me@host/votes", "psycopg"),
        ("postgresql://me@host/votes", "psycopg"),
        ("postgresql+psycopg://me@host/votes", "psycopg"),
    ],
)
def test_urls(url, driver):
    assert schema.engine_of(url).driver == driver


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:secret@host/votes", "(?s)me:.*@host.*kit keeps no votes in mysql.*Allowed: sqlite"),
        ("://", "is no database URL"),
        ("nosuch+driver://me:secret@host/votes", "kit keeps no votes in nosuch"),
        ("postgresql+nosuch://me:secret@host/votes", "is no database URL"),
        ("sqlite:////nowhere/at/all/votes.db", "the database did not answer: unable to open"),
    ],
)
def test_urls_that_are_refused(url, said):
    with pytest.raises(StoreError, match=said) as caught:
        Store(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "votes.db").write_text("left,right\n" * 100)
    with pytest.raises(StoreError, match="is no SQLite database"):
        Store(str(tmp_path / "votes.db"))


def test_sqlite_keeps_what_it_acknowledged(tmp_path):
    with Store(str(tmp_path / "votes.db")) as store, store.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


def test_a_database_that_stays_locked_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "WAIT_S", 0.1)
    with Store(str(tmp_path / "votes.db")) as store:
        other = sqlite3.connect(tmp_path / "votes.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            store.adopt("x", {})
        other.execute("ROLLBACK")
        store.adopt("x", {})


def test_a_damaged_schema_number(tmp_path):
    with Store(str(tmp_path / "votes.db")) as store, store.engine.begin() as connection:
        connection.execute(text("UPDATE kit_meta SET value = 'x'"))
    with pytest.raises(StoreError, match="its schema number is 'x'"):
        Store(str(tmp_path / "votes.db"))


def test_the_clock_is_the_databases(url):
    import time

    with Store(url) as store, store.engine.connect() as connection:
        before = schema.clock(connection)
        assert abs(before - time.time()) < 5
        time.sleep(0.05)
        assert 0.03 < schema.clock(connection) - before < 5

"""A killed writer, a newer schema, a server that stops: what was acknowledged is there, and the rest is said."""

import os
import signal
import subprocess
import sys

import pytest
from small_studies import cast, make_study

from kit.humaneval.errors import StoreError
from kit.humaneval.store import Store


def votes(store, **options):
    return list(store.votes("captions", **options))


WRITER = """
import json, sys, uuid
sys.path.insert(0, sys.argv[2])
from small_studies import cast, make_study
from kit.humaneval.store import Store
store, study = Store(sys.argv[1]), make_study(n=500)
store.register(study)
while task := store.hand_out(study, "ana", holder="w"):
    vote = cast(study, task)
    store.record(study, vote)
    print(vote.uuid, flush=True)
"""


def test_kill_9_loses_no_acknowledged_vote(url, root):
    command = [sys.executable, "-c", WRITER, url, str(root / "tests" / "humaneval")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = [writer.stdout.readline().strip() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += writer.stdout.read().split()
    with Store(url) as store:
        there = [vote.uuid for vote in votes(store, rater="ana")]
        assert set(acknowledged) <= set(there)
        assert len(there) == len(set(there)) <= len(acknowledged) + 1
        study = make_study(n=500)
        task = store.hand_out(study, "ana", holder="w")
        assert store.record(study, cast(study, task))


def test_a_newer_store_is_refused(url):
    from sqlalchemy import text

    with Store(url) as store, store.engine.begin() as connection:
        connection.execute(text("UPDATE kit_meta SET value = '2' WHERE name = 'schema'"))
    with pytest.raises(StoreError, match=r"schema 2 is newer than this kit reads \(1\)\n  Fix: pip install -U"):
        Store(url)


def test_a_database_that_goes_away_and_comes_back(postgres):
    url, study = postgres.database(), make_study()
    with Store(url) as store:
        store.register(study)
        vote = cast(study, store.hand_out(study, "ana", holder="w"))
        postgres.stop()
        try:
            with pytest.raises(StoreError, match="the database did not answer") as caught:
                store.record(study, vote)
            assert "try again with the same id" in str(caught.value)
        finally:
            postgres.start()
        assert store.record(study, vote) is True
        assert store.record(study, vote) is False

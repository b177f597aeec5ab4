"""What the servers that we start do with a statement that failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trioworker.sqlite_in_server import RELEASE_FAILED_STATEMENTS

pytestmark = pytest.mark.process

# One connection's statement failed, for what it says or since another connection has written after its first look. It
# waits for the database, in a thread as in the server, when the cursor of the failed statement is destroyed in the
# thread of the event loop; which then lets the other one commit. Whoever waits at the wrong place, the waiting write
# is refused in the end.
STANDSTILL = """
import sqlite3, sys, threading

def connection():
    made = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA busy_timeout = 2000")
    return made

one = connection()
one.execute("PRAGMA journal_mode = WAL")
one.execute("CREATE TABLE written (word)")
other = connection()

one.execute("BEGIN DEFERRED")
one.execute("SELECT * FROM written").fetchall()
other.execute("INSERT INTO written VALUES ('first')")
refused = one.cursor()
try:
    refused.{refused_call}
except (sqlite3.OperationalError, OverflowError) as error:
    print(error)
one.execute("ROLLBACK")

other.execute("BEGIN IMMEDIATE")
other.execute("INSERT INTO written VALUES ('second')")
waits = threading.Event()

def write():
    one.set_trace_callback(lambda statement: waits.set())
    try:
        one.execute("INSERT INTO written VALUES ('third')")
    except sqlite3.OperationalError as error:
        print("third:", error)

writer = threading.Thread(target=write)
writer.start()
waits.wait()
del refused
other.execute("COMMIT")
writer.join()
print([word for word, in one.execute("SELECT word FROM written")])
one.close()
other.close()
"""


@pytest.mark.parametrize(
    ("refused_call", "reason"),
    [
        ("execute(\"INSERT INTO written VALUES ('refused')\")", "database is locked"),
        ("executemany('INSERT INTO written VALUES (?)', [('refused',)])", "database is locked"),
        (
            "execute('INSERT INTO written VALUES (?)', [2**64])",
            "Python int too large to convert to SQLite INTEGER",
        ),
    ],
    ids=["execute", "executemany", "a value that does not fit"],
)
def test_the_loop_waits_for_no_connection_that_waits_for_the_database(
    refused_call: str, reason: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            RELEASE_FAILED_STATEMENTS + STANDSTILL.format(refused_call=refused_call),
            str(tmp_path / "database"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.splitlines() == [reason, "['first', 'second', 'third']"]
    assert not ended.stderr

"""What a Prefect server on SQLite needs from us under CPython 3.11, wherever we start one.

There a cursor whose statement failed keeps the statement, and lets go of it only when it is destroyed, which
takes the lock of its connection. SQLAlchemy 2.0 leaves such a cursor to the garbage collector after each
"database is locked". When the collector comes by in the server's event loop while that connection waits for
the database in its thread, the loop waits for the thread, the thread for whoever has the database, and that one
for the loop: the server stands still until SQLite's timeout, a minute. CPython 3.12 lets go at once.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RELEASE_FAILED_STATEMENTS"]

RELEASE_FAILED_STATEMENTS: Final = """
import functools, sqlite3, sys

if sys.version_info < (3, 12):

    def releasing(method):
        @functools.wraps(method)
        def release_if_failed(cursor, *arguments):
            try:
                return method(cursor, *arguments)
            except Exception:  # of whatever fails: too large a number is not even an error of SQLite's
                cursor.close()  # here, in the connection's own thread
                raise

        return release_if_failed

    class ReleasingCursor(sqlite3.Cursor):
        execute = releasing(sqlite3.Cursor.execute)
        executemany = releasing(sqlite3.Cursor.executemany)
        # Neither is a script's statement kept, nor the cursor that the connection's own `execute` makes.

    class ReleasingConnection(sqlite3.Connection):
        def cursor(self, factory=ReleasingCursor):
            return super().cursor(factory)

    sqlite3.connect = functools.partial(sqlite3.connect, factory=ReleasingConnection)
"""
"""Python source that the server's process runs before it imports Prefect."""

"""What others have left, and cannot be looked at, keeps no worker from its work."""

from __future__ import annotations

import shutil
from pathlib import Path

from trioworker.ledger.location import open_ledger
from trioworker.notices import Notice


async def test_lock_that_cannot_be_had_is_said_once(tmp_path: Path) -> None:
    notices: list[Notice] = []
    (tmp_path / "2.lock").mkdir()
    async with open_ledger(tmp_path, notices.append) as ledger:
        for _ in range(3):
            await ledger.adopt_orphaned()
    (notice,) = notices
    assert "Is a directory" in notice.message


async def test_directory_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    notices: list[Notice] = []
    async with open_ledger(tmp_path / "ledgers", notices.append) as ledger:
        shutil.rmtree(tmp_path / "ledgers")
        await ledger.adopt_orphaned()
    assert notices == []

"""The ledger in memory, on a storage that does as the test says."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from functools import partial
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from ledger_entries import entry, names

from trioworker.ledger.entry import Entry, Stage
from trioworker.ledger.ledger import Ledger, LedgerError
from trioworker.notices import Notice


class Storage:
    """Keeps entries as a file would.

    Attributes:
        kept: what is in it.
        writes: the names of what each write has kept and dropped, in order.
        trouble: why nothing can be written; empty if it can.
        gate: writes wait here, whatever is cancelled meanwhile, as they do for a thread.
        checkpoints: how often a write can be cancelled before it does anything.
        orphaned: what others have left.
        unread: why that cannot be read; empty if it can.
        let_go: how often that was let go.
    """

    def __init__(self, *entries: Entry) -> None:
        self.kept = {one.attempt: one for one in entries}
        self.writes: list[tuple[list[str], list[str]]] = []
        self.trouble = ""
        self.gate = trio.Event()
        self.gate.set()
        self.checkpoints = 0
        self.orphaned: list[Entry] = []
        self.unread = ""
        self.let_go = 0
        self._writing = False

    async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
        assert not self._writing, "two writes at the same time"
        self._writing = True
        try:
            for _ in range(self.checkpoints):
                await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=True):
                await self.gate.wait()
            if self.trouble:
                raise LedgerError(self.trouble)
            self.writes.append((names(kept), names(self.kept[attempt] for attempt in dropped)))
            self.kept.update({one.attempt: one for one in kept})
            for attempt in dropped:
                del self.kept[attempt]
        finally:
            self._writing = False

    async def take_orphaned(self, here: Collection[UUID]) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        if self.unread:
            raise LedgerError(self.unread)
        return [one for one in self.orphaned if one.attempt not in here]

    async def let_orphaned_go(self) -> None:
        await trio.lowlevel.checkpoint()
        self.let_go += 1
        self.orphaned.clear()


@pytest.fixture
def notices() -> list[Notice]:
    return []


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def ledger(storage: Storage, notices: list[Notice]) -> Ledger:
    return Ledger(storage, notify=notices.append, place="here")


def agree(ledger: Ledger, storage: Storage) -> bool:
    """Whether the storage has what the ledger has."""
    return {one.attempt: one for one in ledger.entries} == storage.kept


# What is kept


async def test_entry_is_in_the_storage_when_keeping_returns(ledger: Ledger, storage: Storage) -> None:
    one = entry()
    await ledger.keep(one)
    assert storage.kept == {one.attempt: one}
    assert ledger.entries == (one,)
    await ledger.drop(one.attempt)
    assert storage.kept == {}
    assert not ledger.entries


async def test_entry_takes_the_place_of_that_of_the_same_attempt(ledger: Ledger, storage: Storage) -> None:
    first, second = entry("first"), entry("second")
    await ledger.keep(first, second)
    launched = attrs.evolve(first, stage=Stage.LAUNCHED)
    await ledger.keep(launched)
    assert ledger.entries == (launched, second)
    assert agree(ledger, storage)


async def test_entries_are_in_the_order_in_which_they_came(ledger: Ledger, storage: Storage) -> None:
    many = [entry(f"{number:03}") for number in range(100)]
    await ledger.keep(*many)
    assert ledger.entries == tuple(many)
    assert [list(names) for names, _ in storage.writes] == [names(many)]


async def test_unknown_attempt_is_dropped_without_a_word(ledger: Ledger, storage: Storage) -> None:
    await ledger.drop(entry().attempt)
    assert storage.writes == []


async def test_attempt_that_is_dropped_twice_is_dropped(ledger: Ledger, storage: Storage) -> None:
    one = entry()
    await ledger.keep(one)
    await ledger.drop(one.attempt, one.attempt)
    await ledger.drop(one.attempt)
    assert storage.writes == [(["red-fox"], []), ([], ["red-fox"])]


async def test_nothing_to_keep_is_a_checkpoint_and_no_write(ledger: Ledger, storage: Storage) -> None:
    with trio.testing.assert_checkpoints():
        await ledger.keep()
    with trio.testing.assert_checkpoints():
        await ledger.drop()
    assert storage.writes == []


async def test_what_the_storage_has_is_inherited_and_what_is_kept_now_is_not(notices: list[Notice]) -> None:
    old, new = entry("old"), entry("new")
    ledger = Ledger(Storage(old), [old], notify=notices.append)
    await ledger.keep(new)
    assert ledger.is_inherited(old.attempt)
    assert not ledger.is_inherited(new.attempt)
    await ledger.drop(old.attempt)
    assert not ledger.is_inherited(old.attempt)


async def test_ledger_in_memory_keeps_but_does_not_last(notices: list[Notice]) -> None:
    ledger, one = Ledger(notify=notices.append), entry()
    await ledger.keep(one)
    assert ledger.entries == (one,)
    assert not ledger.lasts
    await ledger.adopt_orphaned()
    await ledger.drop(one.attempt)
    assert names(ledger.entries) == []
    assert notices == []


@pytest.mark.parametrize("trouble", ["none at all", "disk full"])
async def test_what_has_come_and_gone_is_remembered_nowhere(
    storage: Storage, notices: list[Notice], trouble: str
) -> None:
    """A worker without a ledger, or with a full disk, may run for years."""
    storage.trouble = trouble
    ledger = Ledger(None if trouble == "none at all" else storage, notify=notices.append)
    for _ in range(100):
        one = entry()
        await ledger.keep(one)
        await ledger.drop(one.attempt)
    assert not ledger._unwritten
    assert not ledger._stored


# Changes at the same moment


async def test_many_changes_at_once_are_one_write(ledger: Ledger, storage: Storage) -> None:
    old = entry("old")
    await ledger.keep(old)
    storage.writes.clear()
    storage.gate = trio.Event()
    many = [entry(f"{number:02}") for number in range(50)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep, entry("first"))
        await trio.testing.wait_all_tasks_blocked()
        for one in many:
            nursery.start_soon(ledger.keep, one)
        nursery.start_soon(ledger.drop, old.attempt)
        await trio.testing.wait_all_tasks_blocked()
        storage.gate.set()
    assert [dropped for _, dropped in storage.writes] == [[], ["old"]]
    assert storage.writes[0][0] == ["first"]
    assert sorted(storage.writes[1][0]) == names(many)
    assert agree(ledger, storage)


async def test_keeping_does_not_return_before_its_own_write(ledger: Ledger, storage: Storage) -> None:
    storage.gate = trio.Event()
    returned: list[str] = []

    async def keep(name: str) -> None:
        await ledger.keep(entry(name))
        assert name in names(storage.kept.values())
        returned.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(keep, "second")
        await trio.testing.wait_all_tasks_blocked()
        assert returned == []
        storage.gate.set()
    assert sorted(returned) == ["first", "second"]


async def test_entry_that_is_dropped_while_it_is_written_is_not_left(
    ledger: Ledger, storage: Storage
) -> None:
    storage.gate = trio.Event()
    one = entry()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep, one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ledger.drop, one.attempt)
        await trio.testing.wait_all_tasks_blocked()
        storage.gate.set()
    assert storage.kept == {}


async def test_entry_that_changes_while_it_is_written_is_written_again(
    ledger: Ledger, storage: Storage
) -> None:
    storage.gate = trio.Event()
    one = entry()
    launched = attrs.evolve(one, stage=Stage.LAUNCHED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep, one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ledger.keep, launched)
        await trio.testing.wait_all_tasks_blocked()
        storage.gate.set()
    assert storage.kept == {one.attempt: launched}


async def test_entry_that_comes_and_goes_before_it_could_be_written_never_is(
    ledger: Ledger, storage: Storage
) -> None:
    storage.gate = trio.Event()
    brief = entry("brief")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep, entry("first"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ledger.keep, brief)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ledger.drop, brief.attempt)
        await trio.testing.wait_all_tasks_blocked()
        storage.gate.set()
    assert storage.writes == [(["first"], [])]
    assert agree(ledger, storage)


# Cancellation


@pytest.mark.parametrize("checkpoints", range(4))
async def test_cancelled_keeping_takes_nobody_elses_change_along(
    ledger: Ledger, storage: Storage, checkpoints: int
) -> None:
    """Whoever is to write for all may be cancelled at any of the awaits of a write, or while waiting for its turn."""
    storage.checkpoints = checkpoints
    for patience in range(checkpoints + 3):
        storage.gate = trio.Event()
        written: list[str] = []

        async def keep(one: Entry, scope: trio.CancelScope) -> None:
            with scope:
                await ledger.keep(one)
                assert storage.kept[one.attempt] == one
                written.append(one.flow_run_name)  # noqa: B023 - within the round

        first, doomed, other = (trio.CancelScope() for _ in range(3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, entry("first"), first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(keep, entry("doomed"), doomed)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(keep, entry("other"), other)
            await trio.testing.wait_all_tasks_blocked()
            storage.gate.set()
            for _ in range(patience):
                await trio.lowlevel.checkpoint()
            doomed.cancel()
        assert {"first", "other"} <= set(written)
        # The one who has given up has changed the ledger all the same.
        assert agree(ledger, storage)


async def test_change_is_written_though_its_maker_is_cancelled(ledger: Ledger, storage: Storage) -> None:
    """Or nobody would know of what it was about."""
    storage.checkpoints = 1
    one = entry("one")
    await ledger.keep(one)
    for change in (partial(ledger.keep, entry("two")), partial(ledger.drop, one.attempt)):
        with trio.CancelScope() as scope:
            scope.cancel()
            await change()
        assert agree(ledger, storage)
    assert names(ledger.entries) == ["two"]


async def test_storage_that_does_not_answer_holds_nobody_up_for_long(
    autojump_clock: trio.testing.MockClock, ledger: Ledger, storage: Storage, notices: list[Notice]
) -> None:
    storage.gate = trio.Event()
    lasts: list[bool] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.keep, entry("one"))
        await trio.testing.wait_all_tasks_blocked()
        await ledger.keep(entry("two"))
        assert trio.current_time() == pytest.approx(10)
        lasts.append(ledger.lasts)
        storage.gate.set()
    assert await ledger.write_rest()
    assert agree(ledger, storage)
    assert [*lasts, ledger.lasts] == [False, True]
    assert ["10 s" in notice.message for notice in notices] == [True, False]


async def test_rest_is_written_if_nobody_changes_anything_any_more(ledger: Ledger, storage: Storage) -> None:
    storage.trouble = "full"
    await ledger.keep(entry())
    storage.trouble = ""
    assert await ledger.write_rest()
    assert agree(ledger, storage)
    storage.writes.clear()
    assert await ledger.write_rest()
    assert storage.writes == []


# Trouble


async def test_trouble_is_said_once_and_so_is_its_end(
    ledger: Ledger, storage: Storage, notices: list[Notice]
) -> None:
    assert ledger.lasts
    storage.trouble = "the disk is full"
    for number in range(3):
        await ledger.keep(entry(str(number)))
        assert not ledger.lasts
    (notice,) = notices
    assert notice.warning
    assert notice.message.startswith("The ledger cannot be kept in here: the disk is full. Flow runs go on")
    storage.trouble = ""
    await ledger.keep(entry("3"))
    assert ledger.lasts
    await ledger.keep(entry("4"))
    assert notices[1:] == [Notice("The ledger is kept again, in here.")]
    storage.trouble = "the disk is full"
    await ledger.keep(entry("5"))
    assert len(notices) == 3


async def test_everything_is_written_when_it_is_possible_again(ledger: Ledger, storage: Storage) -> None:
    old, changed = entry("old"), entry("changed")
    await ledger.keep(old, changed)
    storage.trouble = "the disk is full"
    brief = entry("brief")
    await ledger.keep(brief)
    await ledger.keep(entry("new"))
    await ledger.keep(attrs.evolve(changed, stage=Stage.ENDED))
    await ledger.drop(old.attempt)
    await ledger.drop(brief.attempt)
    assert names(storage.kept.values()) == ["old", "changed"]
    storage.trouble = ""
    storage.writes.clear()
    await ledger.keep(entry("last"))
    assert storage.writes == [(["changed", "new", "last"], ["old"])]
    assert agree(ledger, storage)


async def test_what_could_not_be_written_is_tried_again_without_a_change(
    ledger: Ledger, storage: Storage, notices: list[Notice]
) -> None:
    """A run may go on for hours in which nothing changes, and the disk may have room again after a minute."""
    storage.trouble = "the disk is full"
    await ledger.keep(entry())
    await ledger.adopt_orphaned()
    assert names(storage.kept.values()) == []
    storage.trouble = ""
    await ledger.adopt_orphaned()
    assert ledger.lasts
    assert agree(ledger, storage)
    assert len(notices) == 2


async def test_storage_that_is_in_trouble_is_not_asked_for_what_it_never_had(
    ledger: Ledger, storage: Storage
) -> None:
    storage.trouble = "the disk is full"
    one = entry()
    await ledger.keep(one)
    storage.trouble = ""
    await ledger.drop(one.attempt)
    assert storage.writes == []


async def test_errors_of_ours_are_not_taken_for_trouble_and_lose_nothing(notices: list[Notice]) -> None:
    class Broken(Storage):
        async def write(self, kept: Sequence[Entry], dropped: Sequence[UUID]) -> None:
            if self.trouble:
                raise ZeroDivisionError
            await super().write(kept, dropped)

    storage = Broken()
    storage.trouble = "a bug"
    ledger = Ledger(storage, notify=notices.append)
    with pytest.raises(ZeroDivisionError):
        await ledger.keep(entry())
    storage.trouble = ""
    await ledger.keep(entry())
    assert agree(ledger, storage)


# What others have left


async def test_orphaned_entries_are_written_here_before_they_are_let_go(
    ledger: Ledger, storage: Storage
) -> None:
    left = [entry("one"), entry("two")]
    storage.orphaned = [*left]
    storage.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.adopt_orphaned)
        await trio.testing.wait_all_tasks_blocked()
        assert storage.let_go == 0
        storage.gate.set()
    assert storage.let_go == 1
    assert agree(ledger, storage)
    assert ledger.entries == tuple(left)
    assert all(ledger.is_inherited(one.attempt) for one in left)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_orphaned_entries_that_could_not_be_written_here_are_not_let_go(
    ledger: Ledger, storage: Storage, how: str
) -> None:
    storage.orphaned = [entry()]
    if how == "failed":
        storage.trouble = "the disk is full"
        await ledger.adopt_orphaned()
    else:
        storage.checkpoints = 1
        for checkpoints in itertools.count():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ledger.adopt_orphaned)
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert storage.let_go == 0
            if ledger.entries:
                break
    assert storage.let_go == 0
    assert len(storage.orphaned) == len(ledger.entries) == 1
    storage.trouble = ""
    await ledger.adopt_orphaned()
    assert storage.let_go == 1
    assert agree(ledger, storage)
    assert len(storage.kept) == 1


async def test_what_is_known_here_is_not_replaced_by_what_others_have_left(
    ledger: Ledger, storage: Storage
) -> None:
    one = entry()
    launched = attrs.evolve(one, stage=Stage.LAUNCHED)
    await ledger.keep(launched)
    storage.orphaned = [one]
    await ledger.adopt_orphaned()
    assert ledger.entries == (launched,)
    assert not ledger.is_inherited(one.attempt)


async def test_orphans_that_cannot_be_read_do_not_stop_the_worker(
    ledger: Ledger, storage: Storage, notices: list[Notice]
) -> None:
    storage.unread = "no thread can be started just now"
    await ledger.adopt_orphaned()
    await ledger.adopt_orphaned()
    assert len(notices) == 1
    assert storage.let_go == 0
    await ledger.keep(entry())
    assert ledger.lasts

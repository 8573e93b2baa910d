"""A run whose disk is full, or fails, says so, keeps its last checkpoint, and goes on from it later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk import Hand
from matrix import Tries
from test_faults import Place, command
from test_resume import OPTIONS, corpus, outcome, train
from victims import KILLED, Point, Victims, said

import charlm
from charlm.storage import durable
from charlm.storage.checkpoint import load_checkpoint
from charlm.training.events import Event, Remark

__all__ = ["corpus"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Victims() as victims:
        yield Place(tmp_path_factory.mktemp("full"), victims, {})


@pytest.mark.fault(7)
def test_the_command_on_a_full_disk(place: Place, tries: Tries, many: Callable[[int, int], int]) -> None:
    """Full at twenty sizes: before the first checkpoint there is no run, later the run keeps what it has."""
    name, kind = "run", "lstm-char-fp32"
    killed = place.victims.run(place.folder, command(name, kind), kill_at=Point("Trainer._advance", 13, 1))
    assert killed == KILLED
    last = place.at(name).last
    before = last.read_bytes()
    sizes = many(10, 20)
    for number in range(sizes):
        limit = len(before) * number // sizes + number % 2
        ended = place.victims.run(place.folder, command("new", kind), largest_file=limit), said(place.folder)
        assert ended[0] == 74
        assert not place.at("new").folder.exists()
        ended = place.victims.run(place.folder, command(name, kind), largest_file=limit), said(place.folder)
        assert ended[0] == 74
        line = ended[1].splitlines()[-1]
        assert line.startswith("charlm: cannot write")
        assert "Traceback" not in ended[1]
        assert last.read_bytes() == before
        assert not list(last.parent.glob(".*.tmp"))
        tries.survived(2)
    place.finish(name, kind)
    place.check(name, kind)


@pytest.mark.fault(8)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_run_whose_disk_cannot_flush_keeps_its_last_checkpoint(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, code: int, tries: Tries
) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS, checkpoint_every="10"))
    hand = Hand()
    monkeypatch.setattr(durable, "os", hand)
    train(corpus, "counted", **OPTIONS, checkpoint_every="10")
    flushes = hand.calls.count("fsync")
    for number in range(1, flushes + 1, 5):
        hand.calls.clear()
        hand.before = failing("fsync", number, code, hand)
        name = f"run-{number}"
        with pytest.raises(charlm.StorageError, match=os.strerror(code)) as caught:
            train(corpus, name, **OPTIONS, checkpoint_every="10")
        assert caught.value.exit_code == 74
        hand.before = lambda _: None
        assert not list((corpus.parent / name).glob(".*.tmp"))
        assert outcome(train(corpus, name, resume=True, **OPTIONS, checkpoint_every="10")) == whole
        tries.survived()
    assert tries.count > 5


def failing(name: str, number: int, code: int, hand: Hand) -> Callable[[str], None]:
    def before(called: str) -> None:
        if called == name and hand.calls.count(name) == number:
            raise OSError(code, os.strerror(code))

    return before


@pytest.mark.fault(10)
def test_a_folder_that_cannot_be_flushed_is_told_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand, real, folders = Hand(), os.fsync, []

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            folders.append(descriptor)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    hand.fsync = fsync  # type: ignore[attr-defined]
    monkeypatch.setattr(durable, "os", hand)
    events: list[Event] = []
    trained = train(corpus, "run", **OPTIONS, checkpoint_every="10", on_event=events.append)
    assert len(folders) > 8
    assert [event.text for event in events if isinstance(event, Remark) and "flush" in event.text] == [
        f"{trained.run.folder} cannot be flushed: a power failure may cost the newest checkpoint there"
    ]
    assert load_checkpoint(trained.run.last).result

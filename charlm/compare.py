"""Several kinds of models trained on one corpus, each as a run of its own, and what came of them.

Each model is trained by a process of its own, `charlm train`, so that one does not change another's memory or threads,
and so that a comparison which was interrupted goes on with the run that it was at. The runs lie side by side in one
folder. Whatever is measured afterwards is measured on them, with the same validation text.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from charlm import api
from charlm.config import CELLS, MODELS, Config, DataConfig, EvalConfig, ModelConfig, section
from charlm.errors import CharlmError, ConfigError, DataError, StoppedError
from charlm.evaluation.comparison import Comparison, ComparisonOptions, Row, compare, rank
from charlm.language_model import LanguageModel
from charlm.models.architecture import architecture_of
from charlm.models.sizing import of_size
from charlm.options import UNTOUCHED, Value, flag
from charlm.report.standings import Standing
from charlm.storage.checkpoint import Outline, read_outline
from charlm.storage.durable import write_durably
from charlm.storage.runs import Run
from charlm.text.tokenizer import train_tokenizer
from charlm.training.defaults import choose_vocabulary
from charlm.training.session import new_corpus

NGRAM: Final = "ngram"  # the best n-gram model, which is not trained by steps
_PEAKS: Final = "memory.json"
_STOPPED: Final = range(128, 160)  # exit codes of a process that a signal ended
_POLL: Final = 0.1  # seconds
_WIDTH: Final = 64  # of embeddings where numbers of parameters are made equal
_WARM: Final = 20  # characters before sampling is timed
_TIMED: Final = 1.0  # seconds of sampling that are enough to time it
_MOST: Final = 20_000  # characters


class Member(NamedTuple):
    """A model to compare: what it is called, and the options that make it."""

    name: str
    options: Mapping[str, Value]


def names() -> list[str]:
    """What can be compared: every cell, every architecture that is not made of cells, and n-gram models."""
    return [*CELLS, *(name for name in MODELS if name != "recurrent"), NGRAM]


def members(listed: str) -> list[Member]:
    """The models of a list such as "lstm,gru,ngram". Raises ConfigError.

    >>> members("gru,window")
    [Member(name='gru', options={'cell': 'gru'}), Member(name='window', options={'model': 'window'})]
    """
    wanted = [name.strip() for name in listed.split(",") if name.strip()]
    for number, name in enumerate(wanted):
        if name not in names():
            raise ConfigError(
                f"--models: there is no model {name!r}", kept=UNTOUCHED, hint=f"known: {','.join(names())}"
            )
        if name in wanted[:number]:
            raise ConfigError(f"--models has {name} twice", kept=UNTOUCHED)
    if not any(name != NGRAM for name in wanted):
        raise ConfigError("--models needs at least one network", kept=UNTOUCHED, hint="such as lstm,gru,ngram")
    return [Member(name, {} if name == NGRAM else {"cell" if name in CELLS else "model": name}) for name in wanted]


def of_equal_size(
    chosen: Sequence[Member], parameters: int, vocabulary: int, given: Mapping[str, Value]
) -> list[Member]:
    """The models with as many hidden units as bring each closest to this number of parameters."""
    return [member if member.name == NGRAM else _sized(member, parameters, vocabulary, given) for member in chosen]


def _sized(member: Member, parameters: int, vocabulary: int, given: Mapping[str, Value]) -> Member:
    usual = architecture_of(ModelConfig(model=str(member.options.get("model", "recurrent")))).defaults
    options: dict[str, Value] = {"embedding": _WIDTH, **usual, **given, **member.options}
    fixed = Config.of(options).model
    hidden = of_size(fixed, parameters, vocabulary).hidden
    return Member(member.name, {"embedding": options["embedding"], **member.options, "hidden": hidden})


def vocabulary_of(corpus: Sequence[str], given: Mapping[str, Value]) -> int:
    """How many tokens the models of this corpus will know."""
    text = new_corpus(corpus, section(DataConfig, given)).train
    return train_tokenizer(section(DataConfig, choose_vocabulary(given, text)), text).size


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared: models, each trained on a corpus with the same options, in one folder."""

    folder: Path
    corpus: Sequence[str]
    members: Sequence[Member]
    options: Mapping[str, Value]

    @property
    def networks(self) -> list[Member]:
        return [member for member in self.members if member.name != NGRAM]

    def run(self, member: Member) -> Run:
        return Run(self.folder / member.name)

    def command(self, member: Member) -> list[str]:
        """The command that trains a member, or goes on where it was."""
        values = {**self.options, **member.options}
        options = [word for name, value in values.items() for word in _words(name, value)]
        goes_on = ["--resume"] * self.run(member).saved
        return ["train", *self.corpus, "--checkpoints", str(self.folder), "--name", member.name, *options, *goes_on]

    def peaks(self) -> dict[str, int]:
        """The most memory that training each member took so far, in bytes, where the system says so."""
        try:
            found: dict[str, int] = json.loads((self.folder / _PEAKS).read_text())
        except (OSError, ValueError):
            return {}
        return {name: peak for name, peak in found.items() if isinstance(peak, int)}

    def note_peak(self, member: Member, peak: int) -> None:
        peaks = self.peaks()
        peaks[member.name] = max(peak, peaks.get(member.name, 0))
        write_durably(self.folder / _PEAKS, json.dumps(peaks, sort_keys=True).encode())


def _words(name: str, value: Value) -> list[str]:
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    return [f"{flag(name)}={value}"]


class MemberError(CharlmError):
    """A member could not be trained, for a reason that its process has told; the exit code is that one's."""

    def __init__(self, name: str, code: int, contest: Contest) -> None:
        others = any(contest.run(member).saved for member in contest.networks)
        super().__init__(
            f"{name} could not be trained, so nothing was compared",
            kept=f"the runs in {contest.folder} are kept" if others else "nothing was trained",
            hint="the same command goes on from there, without it if --models leaves it out" if others else "",
        )
        self.exit_code = code


def train_member(contest: Contest, member: Member, stop: Callable[[], str | None], *, quiet: bool) -> None:
    """Train a member in a process of its own, which shows its progress on standard error.

    A member that has finished is left as it is; other options than it was trained with are refused. Raises StoppedError
    after a signal, with what was learned saved, and CharlmError where the member could not be trained.
    """
    words = [sys.executable, "-m", "charlm", *contest.command(member), "--json", *["--quiet"] * quiet]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    code, peak = _wait(child, stop)
    if peak is not None and contest.run(member).saved:
        contest.note_peak(member, peak)
    if code in _STOPPED or (code and stop()):
        raise StoppedError(
            f"interrupted while {member.name} was trained",
            kept=f"all runs are kept in {contest.folder}",
            hint="the same command goes on from there",
            exit_code=code,
        )
    if code:
        raise MemberError(member.name, code, contest)


def _wait(child: subprocess.Popen[bytes], stop: Callable[[], str | None]) -> tuple[int, int | None]:
    """The exit code of a process, and the most memory that it took, or None; one that asks to stop ends it, too."""
    told, peak = False, None
    while child.returncode is None:
        time.sleep(_POLL)
        if stop() and not told:
            child.terminate()
            told = True
        if not hasattr(os, "wait4"):  # Windows
            child.poll()
            continue
        ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        if ended:
            child.returncode = os.waitstatus_to_exitcode(status)
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    code = child.returncode
    return (128 - code if code < 0 else code), peak


def standings(contest: Contest) -> tuple[list[Standing], Comparison]:
    """How the members did, from the fewest bits per character to the most, and the comparison behind it."""
    models = [api.open_model(str(contest.run(member).folder), EvalConfig()) for member in contest.networks]
    counted = len(contest.networks) < len(contest.members)
    comparison = compare(models, corpus=contest.corpus, options=ComparisonOptions(baselines=counted))
    peaks, rows = contest.peaks(), {row.checkpoint: row for row in comparison.networks}
    found = []
    for member, model in zip(contest.networks, models, strict=True):
        last = read_outline(contest.run(member).last)
        speed, peak = sampling_speed(model), peaks.get(member.name)
        found.append(_standing(member.name, rows[str(model.path)], last, speed, peak))
    if counted and (best := rank(row for row in comparison.rows if row.kind == "counts")):
        found.append(Standing(name=best[0].model, row=best[0]))
    return sorted(found, key=lambda one: one.row.bits_per_character), comparison


def _standing(name: str, row: Row, last: Outline, sampling: float, peak: int | None) -> Standing:
    if last.result is None:
        raise DataError(f"{name} has not finished", kept="nothing was changed", hint="the same command goes on with it")
    return Standing(
        name=name,
        row=row,
        model=last.config.model,
        parameters=last.parameters,
        steps=last.result.steps,
        seconds=last.result.seconds,
        training_speed=last.result.characters_per_second,
        sampling_speed=sampling,
        memory=peak,
    )


def sampling_speed(model: LanguageModel) -> float:
    """Characters a second that `charlm sample` writes, one text at a time."""
    model.sample(length=_WARM, seed=0)
    length, written, began = 200, 0, time.perf_counter()
    while (took := time.perf_counter() - began) < _TIMED and written < _MOST:
        written += len(model.sample(length=length, seed=written)) or 1
        length = min(2 * length, _MOST)
    return written / took if took else 0.0

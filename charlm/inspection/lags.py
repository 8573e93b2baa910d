"""Which lags a recurrent network learns to bridge: small networks on synthetic sequences (`charlm.inspection.tasks`).

Hochreiter and Schmidhuber (1997, "Long short-term memory", section 5) showed with tasks like these that an LSTM learns
what is more than 1,000 steps away, and that networks without a constant error carousel do not: their gradients vanish
(Hochreiter 1991; Bengio, Simard and Frasconi 1994). Here a network of one layer reads sequences, each from the zero
state, and is trained on its answer behind the last character, by backpropagation through the whole sequence.

With a curriculum, the network begins with sequences of lag `_FIRST`. As soon as it answers `LEARNED` of the last
`_WINDOW` sequences correctly, the lag grows by half, up to the one that is measured, and from there to the next one.
Every other step has sequences of any shorter lag, so that what was learned is not lost while a longer one is tried
(Zaremba and Sutskever 2014, "Learning to execute"; docs/log.md has what happens otherwise).
Each measured lag has a budget of its own. A network that has not learned one within its budget is not trained on longer
ones: it is only asked. Without a curriculum each lag has a new network, which sees no other.

The share of right answers is counted on 1,000 sequences that no network has learned from, the same for all. Training
sequences are drawn anew at every step, by seed and step; under a budget of steps everything is repeatable.

Legend: T characters of a sequence, B sequences of a batch, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional as F

from charlm.config import LagConfig, ModelConfig, OptimConfig, numbers_of
from charlm.evaluation.pairs import wilson
from charlm.inspection.reading import last_logits
from charlm.inspection.tasks import TASKS, Ids
from charlm.models.network import Network, initialise, named_weights, trained_weights
from charlm.options import seconds
from charlm.runtime.threads import torch_threads
from charlm.training.optim import WeightUpdate, clip

FRESH: Final = 1000  # sequences on which a network is asked
LEARNED: Final = 0.99  # share of right answers while training from which a lag counts as learned
BRIDGED: Final = 0.95  # the same of new sequences, from which it counts as bridged
_WINDOW: Final = 320  # sequences, the last ones, of which that is the share
_FIRST: Final = 5
_GROWTH: Final = 1.5
_AT_ONCE: Final = 250  # sequences that are read side by side
_TRAINING, _FRESH, _SHORTER = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Trial:
    """What a network makes of a lag.

    right      of `FRESH` new sequences, how many it answers correctly
    learned    whether it reached `LEARNED` on its training sequences of this lag within the budget
    trained    whether it was trained on this lag at all
    sequences  from which the network has learned so far, those of shorter lags among them
    steps      weight updates so far
    seconds    of training on this lag
    """

    cell: str
    seed: int
    lag: int
    right: int
    learned: bool
    trained: bool
    sequences: int
    steps: int
    seconds: float

    @property
    def share(self) -> float:
        """The share of right answers."""
        return self.right / FRESH

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of it."""
        return wilson(self.right, FRESH)

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        return {
            "cell": self.cell,
            "seed": self.seed,
            "lag": self.lag,
            "right": self.right,
            "share": self.share,
            "interval": list(self.interval),
            "learned": self.learned,
            "trained": self.trained,
            "sequences": self.sequences,
            "steps": self.steps,
            "seconds": self.seconds,
        }


def trials(config: LagConfig) -> Iterator[Trial]:
    """One trial for each cell, seed and lag, in this order, for options that have been checked (`check_lags`)."""
    lags = numbers_of("lags", config.lags, 1, 10_000)
    for cell in config.cells.split(","):
        for seed in range(config.seeds):
            network, learned = Learner(config, cell, seed), True
            for lag in lags:
                if not config.curriculum:
                    network = Learner(config, cell, seed)
                trained = learned or not config.curriculum
                learned = trained and network.learn(lag)
                yield Trial(
                    cell=cell,
                    seed=seed,
                    lag=lag,
                    right=network.right(lag),
                    learned=learned,
                    trained=trained,
                    sequences=network.steps * config.batch,
                    steps=network.steps,
                    seconds=network.seconds if trained else 0.0,
                )


class Learner:
    """A network of one layer that learns a task."""

    def __init__(self, config: LagConfig, cell: str, seed: int) -> None:
        self._config, self._seed = config, seed
        self._task = TASKS[config.task]
        model = ModelConfig(cell=cell, layers=1, hidden=config.hidden, embedding=0, forget_bias=config.forget_bias)
        self.network = Network(model, len(self._task.vocabulary))
        initialise(self.network, seed)
        if config.recurrent_init == "uniform":
            self._draw_uniform()
        self._weights = trained_weights(self.network)
        optim = OptimConfig(optimizer=config.optimizer, lr=config.lr, weight_decay=0.0)
        self._update = WeightUpdate(optim, self._weights, config.hidden)
        self._lag = _FIRST
        self.steps = 0
        self.seconds = 0.0  # of the last `learn`

    def _draw_uniform(self) -> None:
        generator, bound = torch.Generator().manual_seed(self._seed), 1 / math.sqrt(self._config.hidden)
        with torch.no_grad():
            for name, weight in named_weights(self.network).items():
                if name.endswith("weight_hh"):
                    weight.uniform_(-bound, bound, generator=generator)

    def learn(self, lag: int) -> bool:
        """Learn until this lag is bridged, or the budget is used up or the gradient is not finite; whether it is.

        With a curriculum the lag grows from where it was.
        """
        budget = math.inf if self._config.steps else seconds(self._config.time)
        last_step = self.steps + self._config.steps if self._config.steps else math.inf
        now = min(self._lag, lag) if self._config.curriculum else lag
        window: deque[int] = deque(maxlen=-(-_WINDOW // self._config.batch))
        began, learned = time.perf_counter(), False
        with torch_threads(1):  # a layer this small is not faster with more
            while not learned and self.steps < last_step and time.perf_counter() - began < budget:
                at = self._drawn(now)
                right = self._step(at)
                if right is None:
                    break
                if at < now:
                    continue
                window.append(right)
                if len(window) == window.maxlen and sum(window) >= LEARNED * len(window) * self._config.batch:
                    learned, now = now == lag, min(lag, math.ceil(_GROWTH * now))
                    window.clear()
        self._lag, self.seconds = now, time.perf_counter() - began
        return learned

    def _drawn(self, lag: int) -> int:
        """The lag of the next step: with a curriculum every other one is any that is shorter."""
        if not self._config.curriculum or self.steps % 2 == 0:
            return lag
        return int(np.random.default_rng((_SHORTER, self._seed, self.steps)).integers(min(_FIRST, lag), lag + 1))

    def _step(self, lag: int) -> int | None:
        """One weight update; returns how many answers were right before it, None where the gradient is not finite."""
        generator = np.random.default_rng((_TRAINING, self._seed, self.steps))
        ids_TB, answers_B = _tensors(*self._task.draw(generator, lag, self._config.batch))
        logits_TBV, _ = self.network(ids_TB, self.network.init_state(len(answers_B)))
        self.network.zero_grad(set_to_none=True)
        F.cross_entropy(logits_TBV[-1], answers_B).backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(float(clip(self._weights.values(), self._config.clip, "norm"))):
            return None
        self._update.step(1.0, self.steps)
        self.steps += 1
        return int((logits_TBV[-1].argmax(1) == answers_B).sum())

    def right(self, lag: int) -> int:
        """How many of `FRESH` new sequences with this lag are answered correctly."""
        generator, right = np.random.default_rng((_FRESH, lag)), 0
        with torch_threads(1):
            for _ in range(FRESH // _AT_ONCE):
                ids_TB, answers_B = _tensors(*self._task.draw(generator, lag, _AT_ONCE))
                answered = last_logits(self.network.eval(), ids_TB, len(self._task.vocabulary)).argmax(1)
                right += int((answered == answers_B).sum())
        self.network.train()
        return right


def _tensors(ids_TB: Ids, answers_B: Ids) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(ids_TB), torch.from_numpy(answers_B)


def longest_bridged(found: Sequence[Trial]) -> dict[str, int]:
    """For each cell the longest lag up to which all of its networks give `BRIDGED` right answers at each; 0: none."""
    longest = dict.fromkeys((one.cell for one in found), 0)
    for cell in longest:
        for lag in sorted({one.lag for one in found}):
            if not all(one.share >= BRIDGED for one in found if (one.cell, one.lag) == (cell, lag)):
                break
            longest[cell] = lag
    return longest

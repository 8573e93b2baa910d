"""What training needs of the machine's memory, added up before anything is written.

A system kills a process that takes more than its limit, without a word. The sum below is a little less than what was
measured (docs/log.md), so that nothing is refused that would have fitted:

    weights, gradients, optimizer, average   their numbers, as float32
    states         what the lanes carry, as float32
    activations    of one chunk: for each token and layer, as many numbers as its architecture says;
                   logits and their gradient
    saving         a checkpoint is built in memory: once more weights, optimizer and average

Activations are freed before a checkpoint is saved, so only the larger of the two counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import prod

from charlm.config import Config
from charlm.errors import ConfigError
from charlm.models.architecture import (
    Shapes,
    architecture_of,
    places,
    state_shapes,
    trained_shapes,
    weight_shapes,
)
from charlm.models.optimizers import optimizer_shapes
from charlm.runtime import limits, processes
from charlm.runtime.limits import Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of each part."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    average: int = 0
    states: int = 0
    activations: int = 0
    saving: int

    @property
    def parts(self) -> dict[str, int]:
        """What is there at the same time, by name."""
        less = "saving" if self.activations > self.saving else "activations"
        return {name: amount for name, amount in asdict(self).items() if amount and name != less}

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        return ", ".join(f"{name} {amount / 1e9:,.2f}" for name, amount in self.parts.items())


def footprint(config: Config, vocabulary: int, *, on_gpu: bool = False) -> Footprint:
    """The bytes of the machine's memory that this run takes beside its text; of a GPU's memory nothing is said."""
    shapes = weight_shapes(config.model, vocabulary)
    weights, optimizer = _bytes(shapes), _bytes(optimizer_shapes(config, shapes))
    gradients = _bytes(trained_shapes(config.model, shapes))
    average = gradients if config.optim.average else 0
    saving = weights + optimizer + average
    if on_gpu:
        return Footprint(weights=weights, saving=saving)
    return Footprint(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        average=average,
        states=_bytes(state_shapes(config.model, vocabulary, config.train.batch)),
        activations=_activations(config, vocabulary),
        saving=saving,
    )


def _bytes(shapes: Shapes) -> int:
    return 4 * sum(prod(shape) for shape in shapes.values())


def _activations(config: Config, vocabulary: int) -> int:
    """Bytes of one chunk's activations; half of them where they may be of 16 bits."""
    kind, train = architecture_of(config.model), config.train
    of_layers = sum(kind.activations(place) for place in places(config.model, vocabulary))
    size = 4 if train.precision == "fp32" else 2
    return size * train.batch * train.bptt * (of_layers + 2 * vocabulary)


def refuse_too_large(config: Config, vocabulary: int, *, on_gpu: bool = False) -> None:
    """Raise ConfigError with the sum where a run cannot fit into the memory that this process may use.

    Many processes share the lanes of a chunk, and those of one machine its memory.
    """
    here = processes.place()
    own = replace(config, train=replace(config.train, batch=-(-config.train.batch // here.size)))
    needed, there, used = footprint(own, vocabulary, on_gpu=on_gpu), limits.memory(), limits.memory_in_use()
    if there is not None and (needed.total + used) * here.local_size > there.amount:
        refusal = _refusal(config, needed, used, there, here.local_size)
        raise ConfigError(refusal, kept="nothing was written", hint=_advice(needed))


def _refusal(config: Config, needed: Footprint, used: int, there: Limit, local: int) -> str:
    options = f"--layers {config.model.layers} of --hidden {config.model.hidden}"
    chunk = f"--batch {config.train.batch} and --bptt {config.train.bptt}"
    each = f" in each of {local} processes" * (local > 1)
    return (
        f"{options} with {chunk} need about {(needed.total + used) / 1e9:,.2f} GB to train{each} ({needed}, "
        f"this process so far {used / 1e9:,.2f}); {there.source} is {there.amount / 1e9:,.2f} GB"
    )


def _advice(needed: Footprint) -> str:
    """The options that make the larger part smaller."""
    if needed.states > needed.total // 2:
        return "use a smaller --batch or --context"
    chunk = needed.activations > needed.total // 2
    return "use a smaller --batch or --bptt" if chunk else "use a smaller --hidden or fewer --layers"

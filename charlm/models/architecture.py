"""What a network has between its embedding and its output layer: the interface of architectures; without torch.

A network is an embedding, layers that are alike, and an output layer. An architecture says what its layers are: their
weights, what each lane carries from one token to the next, one step in NumPy, and the module that trains them. Whatever
reads a text carries the states of its lanes along, so that a network sees the same past in training, scoring and
sampling, where it reads chunks of any length.

A new architecture is an object like those in the modules beside this one, and a line in `charlm.config.MODELS`.

Legend: B lanes (rows of the batch), E input width of a layer, H hidden units, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from charlm.config import MODELS, ModelConfig
from charlm.options import Value, resolve

Part = TypeVar("Part")
Floats = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]
Parts = tuple[Floats, ...]  # the states of a layer, [B, width] each
# inputs [B, E] and states -> outputs [B, H] and states
LayerStep = Callable[[Floats, Parts], tuple[Floats, Parts]]


class Place(NamedTuple):
    """A layer in its network: its number from 0, and the width E of its inputs."""

    config: ModelConfig
    number: int
    width: int

    @property
    def is_last(self) -> bool:
        return self.number == self.config.layers - 1


class Architecture(ABC):
    """Layers of one kind.

    options   options of `ModelConfig` that only some architectures have, by name
    defaults  values of options that are left out, where they are not the usual ones
    prefix    what the names of weights begin with
    slowness  how long learning a token takes, as a multiple of the time of an LSTM with as many weights (docs/log.md)
    layer     the torch module of a layer, as "module:class", constructed with its place
    """

    options: tuple[str, ...] = ()
    defaults: Mapping[str, Value] = {}
    prefix: str = "layers"
    slowness: float = 1.0
    layer: str

    def sure(self, config: ModelConfig) -> Sequence[str]:  # noqa: ARG002
        """Precisions in which training is faster than in fp32 at every size, where a processor has the instructions."""
        return ()

    def by_size(self, config: ModelConfig) -> Mapping[str, Value]:  # noqa: ARG002
        """Values of options that are left out, where they follow from the size of the network."""
        return {}

    def dropout_helps(self, config: ModelConfig) -> bool:  # noqa: ARG002
        """Whether the validation loss is lower with dropout where a text is read often (docs/log.md)."""
        return False

    def check(self, config: ModelConfig) -> None:  # noqa: B027
        """Raise ConfigError where options do not go together."""

    def is_frozen(self, name: str) -> bool:  # noqa: ARG002
        """Whether the weight of this name, of the whole network's, stays as it was drawn."""
        return False

    def remarks(self, config: ModelConfig) -> Sequence[str]:  # noqa: ARG002
        """What a user should know before training a network of this configuration."""
        return ()

    @abstractmethod
    def shapes(self, place: Place) -> Shapes:
        """Name and shape of each weight of a layer."""

    @abstractmethod
    def states(self, place: Place) -> Mapping[str, int]:
        """Name and width of each state that a lane carries, which is zero before a text; of all layers alike."""

    @abstractmethod
    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:
        """One step of a layer in NumPy, float32, with these weights."""

    def module(self, place: Place) -> Any:
        """The torch module that trains a layer; imports torch.

        Its parameters have the names and shapes of `shapes`. Called with inputs [T, B, E] and a tuple of states
        [B, width] it returns outputs [T, B, H] and the states after them. Its method `initialise(generator)`, where
        there is one, sets its initial weights.
        """
        return resolve(self.layer)(place)

    def receptive_field(self, config: ModelConfig) -> int | None:  # noqa: ARG002
        """How many tokens, the present one among them, a prediction can depend on; None where there is no limit."""
        return None

    def activations(self, place: Place) -> int:
        """About how many numbers training keeps of a layer for each token."""
        return 8 * place.config.hidden


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that a network's configuration names."""
    found: Architecture = MODELS[config.model]
    return found


def entrance_shapes(place: Place) -> Shapes:
    """The matrix that maps inputs of another width than H to it, for layers that add their inputs to their outputs.

    One-hot inputs always have it: their width is that of a vocabulary, which may be H by chance.
    """
    hidden, one_hot = place.config.hidden, not place.number and not place.config.embedding
    return {"weight_ih": (hidden, place.width)} if one_hot or place.width != hidden else {}


def entrance(weights: Mapping[str, Floats]) -> Callable[[Floats], Floats]:
    """That product in NumPy, for a layer with these weights; inputs that have the width H stay as they are."""
    matrix = weights.get("weight_ih")
    return (lambda x: x) if matrix is None else (lambda x: x @ matrix.T)


def places(config: ModelConfig, vocabulary: int) -> list[Place]:
    """The layers of a network; with one-hot inputs the first reads the vocabulary itself."""
    width = config.embedding or vocabulary
    return [Place(config, number, config.hidden if number else width) for number in range(config.layers)]


def weight_shapes(config: ModelConfig, vocabulary: int) -> Shapes:
    """Name and shape of every weight of a network (docs/checkpoint.md)."""
    shapes: Shapes = {"embedding.weight": (vocabulary + 1, config.embedding)} if config.embedding else {}
    kind = architecture_of(config)
    for place in places(config, vocabulary):
        shapes |= {f"{kind.prefix}.{place.number}.{name}": shape for name, shape in kind.shapes(place).items()}
    return shapes | {"head.weight": (vocabulary, config.hidden), "head.bias": (vocabulary,)}


def trained_shapes(config: ModelConfig, shapes: Shapes) -> Shapes:
    """Those of a network's weights that training changes."""
    kind = architecture_of(config)
    return {name: shape for name, shape in shapes.items() if not kind.is_frozen(name)}


def state_shapes(config: ModelConfig, vocabulary: int, lanes: int) -> Shapes:
    """Name and shape of every carried state, for this number of lanes: state.<layer>.<name>, in order."""
    return {
        f"state.{place.number}.{name}": (lanes, width)
        for place in places(config, vocabulary)
        for name, width in architecture_of(config).states(place).items()
    }


def state_names(config: ModelConfig) -> list[str]:
    """Names of the carried states in order, which do not depend on the vocabulary."""
    return list(state_shapes(config, 1, 1))


def adds_inputs(config: ModelConfig, number: int) -> bool:
    """Whether what a layer reads is added to what it puts out: with `skip`, of each but the first."""
    return config.skip and number > 0


def by_layer(parts: Sequence[Part], config: ModelConfig) -> list[tuple[Part, ...]]:
    """The states of all layers in order, layer by layer."""
    each = len(parts) // config.layers
    return [tuple(parts[first : first + each]) for first in range(0, len(parts), each)]


def layer_weights(config: ModelConfig, number: int, weights: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """The weights of one layer, by their names in it."""
    prefix = f"{architecture_of(config).prefix}.{number}."
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}

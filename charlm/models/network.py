"""The network: embedding, layers, head. docs/mathematics.md has its equations.

Legend: T tokens of a chunk, B lanes, E input width, H hidden units, V vocabulary. Sequences are time-major, [T, B, ..].

Dropout acts on non-recurrent connections only (Zaremba, Sutskever, Vinyals 2014, "Recurrent neural network
regularization"): on the embedding's output, between layers and before the head; h(t-1) -> h(t) is never masked.
The network knows ids, not text. Id V is the start input, V + 1 an unseen character, which reads the mean embedding.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.config import ModelConfig
from charlm.models.architecture import adds_inputs, architecture_of, by_layer, places, state_names, state_shapes
from charlm.models.cells import cell_of
from charlm.runtime.random import Purpose, integer
from charlm.runtime.threads import torch_threads

Parts = tuple[Tensor, ...]  # the states of a layer, [B, width] each; of an LSTM h and c
State = tuple[Parts, ...]  # of each layer
Run = Callable[[nn.Module, Tensor, Parts], tuple[Tensor, Parts]]  # a layer's outputs and states from inputs and states


class Rows(NamedTuple):
    """Which of the inputs of a larger chunk a network reads: `places` [N] among `total` of them.

    It draws the dropout masks of all of them, and takes its own: so several networks that share a chunk drop what one
    that reads all of it drops.
    """

    total: int
    places: Tensor


class Dropout(nn.Module):
    """Inverted dropout: each value becomes 0 with probability p (in steps of 2**-16), and x / (1 - p) otherwise.

    Masks come from the network's own generator, four from each 64-bit number, which on a processor is four times as
    fast as torch's Bernoulli samples.
    """

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """Values [.., E] of inputs that are `rows` of a larger chunk, or all there are."""
        if not self.training or self.p == 0:
            return x
        count = x.numel() if rows is None else rows.total * x.shape[-1]
        words = torch.empty(-(-count // 4), dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None, generator=self.generator).view(torch.int16)[:count]
        if rows is not None:
            bits = bits.view(rows.total, -1)[rows.places]
        kept = bits.view(x.shape) <= round((1 - self.p) * 65536) - 32769  # int16; all of it for the smallest p
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class Embedding(nn.Module):
    """Ids to vectors [.., E]: V rows and one for the start input; an unseen character reads the mean of the V rows."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary + 1, width))

    def forward(self, ids: Tensor) -> Tensor:
        if self.training:  # no character of the training text is unseen
            return F.embedding(ids, self.weight)
        mean = self.weight[:-1].mean(dim=0, keepdim=True)
        return F.embedding(ids, torch.cat([self.weight, mean]))


class OneHot(nn.Module):
    """Ids to one-hot vectors [.., V]; the start input is the zero vector, an unseen character 1/V everywhere."""

    table: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        rows = [torch.eye(vocabulary), torch.zeros(1, vocabulary), torch.full((1, vocabulary), 1 / vocabulary)]
        self.register_buffer("table", torch.cat(rows), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.table)


class Network(nn.Module):
    """Embedding, layers and head: ids and a state to logits over the next token and the next state.

    With `skip` the output of each layer but the first is added to its input, which dropout has not touched (residual
    connections: He et al. 2016, "Deep residual learning for image recognition").
    """

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.noise = torch.Generator()
        width = config.embedding or vocabulary
        self.embedding = Embedding(vocabulary, width) if config.embedding else OneHot(vocabulary)
        # One module for each layer: dropout between them is ours, and cuDNN's persistent kernels take one layer a call.
        kind = architecture_of(config)
        self.layers = nn.ModuleList(kind.module(place) for place in places(config, vocabulary))
        self.head = nn.Linear(config.hidden, vocabulary)
        self._build_dropout()
        self.requires_grad_()

    def requires_grad_(self, requires_grad: bool = True) -> Network:
        """Whether gradients are computed, as of any module; never those of weights that are frozen."""
        for name, weight in named_weights(self).items():
            weight.requires_grad_(requires_grad and not architecture_of(self.config).is_frozen(name))
        return self

    def _build_dropout(self) -> None:
        config = self.config
        inner = [config.dropout_between] * (config.layers - 1)
        places = [config.dropout_input, *inner, config.dropout_output]
        self.dropout = nn.ModuleList(Dropout(p, self.noise) for p in places)

    def set_dropout(self, config: ModelConfig) -> None:
        """Drop as this configuration says, which is the network's own but for that."""
        self.config = config
        self._build_dropout()

    def to_device(self, device: torch.device) -> Network:
        """Move weights, buffers and the generator of dropout masks to this device; returns the network."""
        self.to(device)
        self.noise = torch.Generator(device)
        self._build_dropout()
        return self

    def copy(self) -> Network:
        """Another network with the same weights, settings and generator, on the same device."""
        other = copy.deepcopy(self)
        for layer in other.layers:  # a copied layer's weights lie apart, and cuDNN wants them in one piece of memory
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()
        return other

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def reseed(self, seed: int, step: int) -> None:
        """Seed the dropout masks of a step from (seed, step) alone, so that nothing between steps can change them."""
        self.noise.manual_seed(integer(seed, Purpose.DROPOUT, step))

    def init_state(self, lanes: int) -> State:
        """The zero state, on the device and of the type of the weights."""
        zeros = [
            self.head.weight.new_zeros(shape) for shape in state_shapes(self.config, self.vocabulary, lanes).values()
        ]
        return tuple(by_layer(zeros, self.config))

    def forward(self, ids_TB: Tensor, state: State, of: Rows | None = None) -> tuple[Tensor, State]:
        """Logits [T, B, V] after each of the T ids of each lane, and the state after the last.

        Where the ids are those `of` a larger chunk, its dropout masks are drawn.
        """
        return self._through(self.embedding(ids_TB), state, of, run_layer)

    def forward_embedded(self, x_TBE: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` of what the embedding makes of ids, or of anything else of its width E."""
        return self._through(x_TBE, state, None, run_layer)

    def forward_packed(
        self, ids_N: Tensor, rows: list[int], state: State, of: Rows | None = None
    ) -> tuple[Tensor, State]:
        """Logits [N, V] after each id, and the state after each row, for B rows of different lengths.

        The rows lie from the longest to the shortest. The N ids lie time by time, and `rows` says how many rows have
        one at each time, as in PyTorch's PackedSequence. `state` has B lanes; `of` is as in `forward`.
        """

        def run(layer: nn.Module, x_NE: Tensor, before: Parts) -> tuple[Tensor, Parts]:
            read: Callable[..., Any] = getattr(layer, "read_packed", None) or partial(_read_packed, layer)
            return read(x_NE, rows, before)  # type: ignore[no-any-return]

        return self._through(self.embedding(ids_N), state, of, run)

    def _through(
        self,
        x: Tensor,
        state: State,
        of: Rows | None,
        run: Callable[[nn.Module, Tensor, Parts], tuple[Tensor, Parts]],
    ) -> tuple[Tensor, State]:
        """What the embedding has put out through the layers, each read by `run`, and the head."""
        following = []
        for number, (layer, before) in enumerate(zip(self.layers, state, strict=True)):
            y, after = run(layer, self.dropout[number](x, of), before)
            x = x + y if adds_inputs(self.config, number) else y
            following.append(after)
        return self.head(self.dropout[-1](x, of)), tuple(following)


def _read_packed(layer: nn.Module, x_NE: Tensor, rows: list[int], state: Parts) -> tuple[Tensor, Parts]:
    """Rows of different lengths by a layer that has no `read_packed`: all until one ends, then those that are left.

    row 1   a b|c|d e      three calls: ab fg ij, then c h, then de
    row 2   f g|h|
    row 3   i j|
    """
    outputs, ended, at = [], list[Parts](), 0
    for count, times in ((count, len(list(group))) for count, group in groupby(rows)):
        ended.append(tuple(part[count:] for part in state))
        x_TBE = x_NE[at : at + times * count].view(times, count, -1)
        y_TBH, state = run_layer(layer, x_TBE, tuple(part[:count] for part in state))
        outputs.append(y_TBH.flatten(0, 1))
        at += times * count
    return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))


def run_layer(layer: nn.Module, x_TBE: Tensor, state: Parts) -> tuple[Tensor, Parts]:
    """Outputs [T, B, H] and states of a layer; PyTorch's want a leading axis on states, and a tuple for LSTM only."""
    if not isinstance(layer, nn.RNNBase):
        return layer(x_TBE, state)  # type: ignore[no-any-return]
    packed = tuple(part.unsqueeze(0) for part in state)
    y_TBH, after = layer(x_TBE, packed if len(packed) > 1 else packed[0])
    parts = after if isinstance(after, tuple) else (after,)
    return y_TBH, tuple(part.squeeze(0) for part in parts)


def initialise(network: Network, seed: int) -> None:
    """Set the initial weights of a network, which depend on the seed alone.

    Recurrent matrices are orthogonal and input matrices Xavier (Glorot and Bengio 2010), gate by gate; the head is
    Xavier, the embedding N(0, 0.1^2). Biases are 0, except that those of the forget gates add up to `forget_bias` over
    PyTorch's two bias vectors (Jozefowicz et al. 2015).
    """
    generator = torch.Generator().manual_seed(integer(seed, Purpose.WEIGHTS, 0))
    with torch.no_grad(), torch_threads(1):  # the last bits of LAPACK's orthogonal matrices depend on the number
        if network.config.embedding:
            nn.init.normal_(network.embedding.weight, 0.0, 0.1, generator=generator)  # type: ignore[arg-type]
        for layer in network.layers:
            own: Callable[[torch.Generator], None] = getattr(layer, "initialise", None) or partial(
                _initialise_cells, layer, network.config
            )
            own(generator)
        nn.init.xavier_uniform_(network.head.weight, generator=generator)
        network.head.bias.zero_()


def _initialise_cells(layer: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """The weights of a recurrent layer, gate by gate."""
    gates = cell_of(config).gates
    for name, weight in layer.named_parameters():
        if name.startswith("weight"):
            fill = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
            for block in torch.split(weight, config.hidden):
                fill(block, generator=generator)
        else:
            weight.zero_()
        if name.startswith("bias_ih") and "f" in gates:
            torch.split(weight, config.hidden)[gates.index("f")].fill_(config.forget_bias)


def named_weights(network: Network) -> dict[str, nn.Parameter]:
    """Parameters by their documented names: embedding.weight, rnn.<layer>.weight_ih, ..., head.bias."""
    prefix = architecture_of(network.config).prefix
    return {
        re.sub("^layers", prefix, name).removesuffix("_l0"): parameter for name, parameter in network.named_parameters()
    }


def trained_weights(network: Network) -> dict[str, nn.Parameter]:
    """Those of them that training changes."""
    kind = architecture_of(network.config)
    return {name: weight for name, weight in named_weights(network).items() if not kind.is_frozen(name)}


def export_weights(network: Network) -> dict[str, NDArray[np.float32]]:
    """Copies of the weights as float32 arrays, by name."""
    return {name: weight.detach().cpu().numpy().copy() for name, weight in named_weights(network).items()}


def import_weights(network: Network, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """The inverse of `export_weights`; the caller has checked names and shapes."""
    with torch.no_grad():
        for name, weight in named_weights(network).items():
            weight.copy_(torch.from_numpy(weights[name].copy()))  # loaded arrays are read-only


def detach_state(state: State) -> State:
    """The same values without their history: where backpropagation through time is truncated."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def zero_lanes(state: State, lanes_B: NDArray[np.bool_]) -> State:
    """The same state, but zero in the lanes where `lanes_B` is true."""
    drop_B1 = torch.from_numpy(lanes_B).unsqueeze(1).to(state[0][0].device)
    return tuple(tuple(part.masked_fill(drop_B1, 0.0) for part in layer) for layer in state)


def select_lanes(state: State, lanes: Tensor | slice) -> State:
    """These lanes of a state, by their numbers and in this order."""
    return tuple(tuple(part[lanes] for part in layer) for layer in state)


def place_lanes(state: State, lanes: Tensor, count: int) -> State:
    """The inverse of `select_lanes`: a state of so many lanes, those that were not selected zero."""
    return tuple(
        tuple(part.new_zeros(count, part.shape[1]).index_copy(0, lanes, part) for part in layer) for layer in state
    )


def copy_state(state: State) -> State:
    """A copy of a state."""
    return tuple(tuple(part.clone() for part in layer) for layer in state)


def overwrite_state(state: State, values: State) -> None:
    """Write values into the tensors of a state, in place."""
    for layer, new in zip(state, values, strict=True):
        for part, value in zip(layer, new, strict=True):
            part.copy_(value)


def export_state(state: State, config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """Arrays [B, width] by name: state.<layer>.h, state.<layer>.c."""
    parts = (part for layer in state for part in layer)
    return {name: part.detach().float().cpu().numpy() for name, part in zip(state_names(config), parts, strict=True)}


def import_state(arrays: Mapping[str, NDArray[np.float32]], config: ModelConfig, device: torch.device) -> State:
    """The inverse of `export_state`."""
    parts = [torch.from_numpy(arrays[name].copy()).to(device) for name in state_names(config)]
    return tuple(by_layer(parts, config))

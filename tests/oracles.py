"""The textbook's equations, written out one character, one layer and one gate at a time, and other shared helpers.

The equations use neither torch.nn nor the code under test. Legend: T chunk, B lanes, H hidden units, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import charlm
from charlm.config import DataConfig, ModelConfig
from charlm.evaluation.baselines import MODELS, code_lengths, highest_order, ngram_nats
from charlm.evaluation.score import Score
from charlm.generation import build
from charlm.generation.decoder import Decoder, NumpyDecoder
from charlm.generation.sampling import Floats
from charlm.models.network import Network, named_weights
from charlm.models.ngram import Counts, NGram
from charlm.text.tokenizer import Tokenizer, tokenize, train_tokenizer

Weights = Mapping[str, Tensor]
Parts = tuple[Tensor, ...]  # the state of one layer: h [B, H], and for LSTM c [B, H]
Step = Callable[[str, Tensor, Parts, Weights, int], Parts]


def validation_loss(trained: charlm.Trained) -> float:
    """The closing validation loss of a run that held text out and went to its end."""
    assert trained.result.val_loss is not None
    return trained.result.val_loss


def _bf16_lstm_works() -> bool:
    """Whether PyTorch's fused LSTM has bf16 on this processor; oneDNN lacks it where there is no AVX-512."""
    layer = torch.nn.LSTM(4, 4)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.zeros(2, 1, 4))[0].sum().backward()
    except RuntimeError:
        return False
    return True


needs_bf16_lstm = pytest.mark.skipif(not _bf16_lstm_works(), reason="this processor has no LSTM in bf16")


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def pytorch_step(cell: str, x: Tensor, state: Parts, w: Weights, layer: int) -> Parts:
    """One step of one layer: two bias vectors, gates in the order i f g o, or r z n; r acts on the product with h."""
    h = state[0]
    hidden = h.shape[1]

    def of_input(gate: int) -> Tensor:
        rows = slice(gate * hidden, (gate + 1) * hidden)
        return x @ w[f"rnn.{layer}.weight_ih"][rows].T + w[f"rnn.{layer}.bias_ih"][rows]

    def of_state(gate: int) -> Tensor:
        rows = slice(gate * hidden, (gate + 1) * hidden)
        return h @ w[f"rnn.{layer}.weight_hh"][rows].T + w[f"rnn.{layer}.bias_hh"][rows]

    if cell == "rnn":
        return (torch.tanh(of_input(0) + of_state(0)),)
    if cell == "gru":
        r = sigmoid(of_input(0) + of_state(0))
        z = sigmoid(of_input(1) + of_state(1))
        n = torch.tanh(of_input(2) + r * of_state(2))
        return ((1 - z) * n + z * h,)
    i, f = sigmoid(of_input(0) + of_state(0)), sigmoid(of_input(1) + of_state(1))
    g, o = torch.tanh(of_input(2) + of_state(2)), sigmoid(of_input(3) + of_state(3))
    c = f * state[1] + i * g
    return o * torch.tanh(c), c


def lecture_step(cell: str, x: Tensor, state: Parts, w: Weights, layer: int) -> Parts:
    """One step of one layer as lectures write it: one bias b; in the GRU, r acts on h itself and z is the candidate's
    share. Matrices are stacked in PyTorch's order; b is what the two bias vectors add up to."""
    count = {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    W, U = w[f"rnn.{layer}.weight_ih"].chunk(count), w[f"rnn.{layer}.weight_hh"].chunk(count)
    b = (w[f"rnn.{layer}.bias_ih"] + w[f"rnn.{layer}.bias_hh"]).chunk(count)
    h = state[0]
    if cell == "rnn":
        return (torch.tanh(x @ W[0].T + h @ U[0].T + b[0]),)
    if cell == "gru":
        r = sigmoid(x @ W[0].T + h @ U[0].T + b[0])
        z = sigmoid(x @ W[1].T + h @ U[1].T + b[1])
        n = torch.tanh(x @ W[2].T + (r * h) @ U[2].T + b[2])
        return (z * n + (1 - z) * h,)
    i, f, g, o = (x @ W[k].T + h @ U[k].T + b[k] for k in range(4))
    c = sigmoid(f) * state[1] + sigmoid(i) * torch.tanh(g)
    return sigmoid(o) * torch.tanh(c), c


def input_vector(w: Weights, token: int) -> Tensor:
    """What one id feeds to the first layer: V is the start input, V + 1 an unseen character."""
    vocabulary = len(w["head.bias"])
    if "embedding.weight" in w:
        rows = [w["embedding.weight"][k] for k in range(vocabulary + 1)]
        return torch.stack(rows[:-1]).sum(0) / vocabulary if token > vocabulary else rows[token]
    units = [[float(k == token) for k in range(vocabulary)], [0.0] * vocabulary, [1 / vocabulary] * vocabulary]
    return w["head.bias"].new_tensor(units[max(0, token - vocabulary + 1)])


def stack(
    cell: str, w: Weights, ids_TB: Tensor, state: tuple[Parts, ...], step: Step = pytorch_step
) -> tuple[Tensor, tuple[Parts, ...]]:
    """Logits [T, B, V] and the last state of the whole model without dropout, looping over time and layers."""
    logits = []
    for row in ids_TB.tolist():
        x = torch.stack([input_vector(w, token) for token in row])
        following = []
        for layer, before in enumerate(state):
            following.append(step(cell, x, before, w, layer))
            x = following[-1][0]
        state = tuple(following)
        logits.append(x @ w["head.weight"].T + w["head.bias"])
    return torch.stack(logits), state


def random_network(config: ModelConfig, vocabulary: int, *, seed: int, scale: float = 0.5) -> Network:
    """A network in evaluation mode none of whose weights, biases included, is zero or equal to another."""
    network = Network(config, vocabulary).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in named_weights(network).values():
            weight.normal_(0, scale, generator=generator)
    return network


def assert_textbook(
    network: Network, textbook: Callable[[dict[str, Tensor], list[int]], Tensor], *, length: int, looser: float = 1.0
) -> None:
    """Logits [T, V] of one text and their gradients in all weights are those of a loop over the equations, in float64.

    Tolerances are as many times `looser`.
    """
    network, vocabulary = network.double().requires_grad_().train(), network.vocabulary
    ids = torch.randint(0, vocabulary, (length,), generator=torch.Generator().manual_seed(4))
    weights = named_weights(network)
    with torch.enable_grad():
        ours = network(ids[:, None], network.init_state(1))[0][:, 0]
        theirs = textbook(dict(weights), ids.tolist())
        probe = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5)).double()
        found = torch.autograd.grad((ours * probe).sum(), list(weights.values()))
        expected = torch.autograd.grad((theirs * probe).sum(), list(weights.values()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * looser)
    for name, one, other in zip(weights, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9 * looser, atol=1e-12 * looser, msg=name)


def networks_by_tokenizer(learned: str, *, seed: int) -> dict[str, tuple[Network, Tokenizer]]:
    """Of each kind of tokenizer one that has learned this text, and a network with random weights."""
    config, kinds = ModelConfig(hidden=12, layers=1, embedding=6), ("char", "byte", "sentencepiece")
    tokenizers = [train_tokenizer(DataConfig(tokenizer=kind, vocab_size=320), learned) for kind in kinds]
    return {t.kind: (random_network(config, t.size, seed=seed), t) for t in tokenizers}


def random_state(network: Network, lanes: int, *, seed: int) -> tuple[Parts, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        tuple(torch.empty_like(part).uniform_(-0.9, 0.9, generator=generator) for part in layer)
        for layer in network.init_state(lanes)
    )


def synthetic_text(length: int, *, seed: int) -> str:
    """Sentences of made-up words, the first of them likeliest; some characters take several bytes, two come once."""
    draw = random.Random(seed)  # noqa: S311
    words = ["".join(draw.choices("aeiostnrlmdé", k=draw.randint(1, 8))) for _ in range(120)] + ["“straße”", "Qx"]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    text = "§¶"
    while len(text) < length:
        sentence = " ".join(draw.choices(words, weights, k=draw.randint(3, 9)))
        text += sentence.capitalize() + draw.choice([". ", ".\n", "? "])
    return text[:length]


def scripted_decoder(script: Sequence[int], vocabulary: int) -> Decoder:
    """A decoder that is sure of the next token: the script's first after the start, then each one's successor."""
    successor = dict(zip(script, [*script[1:], script[0]], strict=True))
    assert len(successor) == len(script), "a script names each token once"
    zeros = np.zeros((vocabulary, vocabulary), dtype=np.float32)
    head, bias = zeros.copy(), zeros[0].copy()
    bias[script[0]] = 100
    for token, following in successor.items():
        head[following, token] = 300  # h = tanh(10) in the token's unit
    return _one_hot_rnn(10 * np.eye(vocabulary, dtype=np.float32), head, bias)


def memoryless_decoder(probabilities: Sequence[float]) -> Decoder:
    """A decoder that gives each token the same probability at every step."""
    zeros = np.zeros((len(probabilities), len(probabilities)), dtype=np.float32)
    return _one_hot_rnn(zeros, zeros, np.log(np.array(probabilities, dtype=np.float32)))


def _one_hot_rnn(inputs: Floats, head: Floats, bias: Floats) -> Decoder:
    config = ModelConfig(cell="rnn", layers=1, hidden=len(bias), embedding=0)
    layer = {"weight_ih": inputs, "weight_hh": 0 * inputs, "bias_ih": 0 * bias, "bias_hh": 0 * bias}
    weights = {f"rnn.0.{name}": array for name, array in layer.items()}
    return NumpyDecoder(config, {**weights, "head.weight": head, "head.bias": bias})


# baselines of `charlm eval`, without intervals


class Baseline(NamedTuple):
    """One row: its model, such as "kneser-ney 6" or "xz", its kind and its score."""

    model: str
    kind: str
    score: Score


def score_ngrams(
    train: str, text: str, tokenizer: Tokenizer, models: Mapping[type[NGram], Sequence[int]] = MODELS
) -> list[Baseline]:
    """N-gram models on a text, after a training text."""
    tokens = tokenize(tokenizer, text)
    counts = Counts(tokenizer.encode(train).ids, tokenizer.size, highest_order(models))
    return [
        Baseline(name, "counts", Score.of(float(nats.sum()), tokens))
        for name, nats in ngram_nats(counts, tokenizer, tokens.ids, models)
    ]


def baselines(train: str, text: str, tokenizer: Tokenizer) -> list[Baseline]:
    """N-gram models and compressors on a text, after a training text."""
    codes = code_lengths(train, text, tokenize(tokenizer, text))
    return score_ngrams(train, text, tokenizer) + [Baseline(name, "code length", score) for name, score in codes]


@contextmanager
def fresh_kernel() -> Iterator[None]:
    """In here the compiled decoder is looked for anew, as in a process that has just begun."""
    build._found.cache_clear()
    try:
        yield
    finally:
        build._found.cache_clear()

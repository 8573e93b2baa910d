"""Dynamic evaluation against its equations written out, and causality: nothing is learned before it is scored."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import random_network, stack, synthetic_text
from torch import Tensor

import charlm
from charlm.config import DataConfig, ModelConfig
from charlm.evaluation.dynamic import DEFAULT, Adaptation, dynamic_nats, gradient_squares
from charlm.evaluation.score import exact_nats
from charlm.models.network import Network, import_weights, named_weights
from charlm.text.tokenizer import SCALARS, ByteTokenizer, CharTokenizer, Ids, Tokenizer, train_tokenizer

CELLS = ("lstm", "gru", "rnn")
LETTERS = CharTokenizer("abcde", once=2, total=30)
TEXT = "abcabcdae☃bcadecab"  # with a character that the tokenizer does not know
QUICK = Adaptation(segment=4, lr=0.01, decay=0.1, epsilon=1e-2)


def small(cell: str = "lstm", *, vocabulary: int = LETTERS.size, embedding: int = 3, seed: int = 1) -> Network:
    config = ModelConfig(cell=cell, layers=2, hidden=4, embedding=embedding)
    return random_network(config, vocabulary, seed=seed)


def ids_of(text: str) -> Ids:
    return LETTERS.encode(text).ids


def squares_like(network: Network) -> list[Tensor]:
    """Some mean squares, a few of them zero."""
    generator = torch.Generator().manual_seed(5)
    return [
        torch.rand(w.shape, generator=generator).sub_(0.1).clamp_(min=0).mul_(1e-2).to(w) for w in network.parameters()
    ]


def written_out(
    network: Network, ids: Ids, adaptation: Adaptation, squares: Sequence[Tensor] | None
) -> NDArray[np.float64]:
    """Krause et al.'s equations with the textbook's network: in float64, weight by weight."""
    w = {name: weight.detach().double().requires_grad_() for name, weight in named_weights(network).items()}
    trained = {name: weight.detach().numpy().copy() for name, weight in w.items()}
    given = dict(zip(w, [square.double().numpy() for square in squares], strict=True)) if squares else None
    seen: list[dict[str, NDArray[np.float64]]] = []
    state = tuple(tuple(part.double() for part in layer) for layer in network.init_state(1))
    before, nats = [LETTERS.start, *ids.tolist()], []
    for at in range(0, len(ids), adaptation.segment):
        targets = ids[at : at + adaptation.segment].tolist()
        logits, after = stack(network.config.cell, w, torch.tensor(before[at : at + len(targets)])[:, None], state)
        state = tuple(tuple(part.detach() for part in layer) for layer in after)
        costs = []
        for row, target in zip(logits[:, 0], targets, strict=True):
            if target == LETTERS.unseen:
                costs.append(0 * row.sum() - math.log(LETTERS.escape / (SCALARS - LETTERS.size)))
            else:
                p = torch.exp(row) / torch.exp(row).sum()
                costs.append(-torch.log((1 - LETTERS.escape) * p[target]))
        nats += [float(cost.detach()) for cost in costs]
        found = torch.autograd.grad(torch.stack(costs).sum() / len(targets), list(w.values()))
        seen.append({name: gradient.numpy() for name, gradient in zip(w, found, strict=True)})
        mean_square = given or {name: np.mean([g[name] ** 2 for g in seen], axis=0) for name in w}
        rms = {name: np.sqrt(square) for name, square in mean_square.items()}
        usual = np.concatenate([values.ravel() for values in rms.values()]).mean()
        for name, weight in w.items():
            old = weight.detach().numpy().copy()
            pull = np.minimum(adaptation.decay * rms[name] / usual, 1)
            step = adaptation.lr * seen[-1][name] / (rms[name] + adaptation.epsilon)
            weight.data = torch.from_numpy(old - step + pull * (trained[name] - old))
    return np.array(nats)


# the equations


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 3])
@pytest.mark.parametrize("gathered", [False, True])
def test_nats_are_those_of_the_equations(cell: str, embedding: int, gathered: bool) -> None:
    network = small(cell, embedding=embedding).double()
    squares = squares_like(network) if gathered else None
    far_back = Adaptation(segment=3, lr=0.02, decay=0.7, epsilon=1e-2)
    for adaptation in (QUICK, far_back, Adaptation(segment=1, lr=0.01, decay=0, epsilon=1e-2)):
        nats = dynamic_nats(network, LETTERS, ids_of(TEXT), adaptation=adaptation, squares=squares)
        assert nats.dtype == np.float32
        np.testing.assert_allclose(nats, written_out(network, ids_of(TEXT), adaptation, squares), rtol=0, atol=1e-5)


def test_squares_are_means_over_segments() -> None:
    network, ids = small(), ids_of(TEXT)
    found = gradient_squares(network, LETTERS, ids, segment=7)
    sums, state = [torch.zeros_like(weight) for weight in network.parameters()], network.init_state(1)
    stream = torch.tensor([LETTERS.start, *ids.tolist()])[:, None]
    for begin, end in ((0, 7), (7, 14), (14, 18)):
        logits, after = network(stream[begin:end], state)
        state = tuple(tuple(part.detach() for part in layer) for layer in after)
        targets = stream[begin + 1 : end + 1, 0]
        known = targets < LETTERS.size
        chosen = torch.log_softmax(logits[known, 0], 1)[torch.arange(int(known.sum())), targets[known]]
        gradients = torch.autograd.grad(-chosen.sum() / (end - begin), list(network.parameters()))
        sums = [total + gradient**2 / 3 for total, gradient in zip(sums, gradients, strict=True)]
    for ours, expected in zip(found, sums, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-9)


def test_squares_of_a_long_text_come_from_all_over_it() -> None:
    """A text whose second half alone has d and e; a stretch of each is read."""
    network = small()
    text = ids_of("abc" * 2000 + "de" * 3000)
    read = gradient_squares(network, LETTERS, text, sample=2048)
    halves = [gradient_squares(network, LETTERS, text[part], sample=1024) for part in (slice(6000), slice(6000, None))]
    for both, first, second in zip(read, *halves, strict=True):
        torch.testing.assert_close(both, (first + second) / 2, rtol=0.1, atol=1e-4)


# the same model as before


@pytest.fixture(scope="module", params=["char", "byte", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(DataConfig(tokenizer=request.param, vocab_size=320), synthetic_text(4000, seed=2))


def test_without_a_rate_the_score_is_the_static_one(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("☃" + synthetic_text(300, seed=3)).ids
    for cell in CELLS:
        network = small(cell, vocabulary=tokenizer.size)
        for squares in (None, squares_like(network)):
            nats = dynamic_nats(network, tokenizer, ids, adaptation=Adaptation(lr=0), squares=squares)
            np.testing.assert_allclose(nats, exact_nats(network, tokenizer, ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_the_first_segment_is_read_with_the_trained_weights(cell: str) -> None:
    network, ids = small(cell), ids_of(TEXT)
    static = exact_nats(network, LETTERS, ids)
    nats = dynamic_nats(network, LETTERS, ids, adaptation=QUICK)
    np.testing.assert_allclose(nats[:4], static[:4], rtol=0, atol=1e-6)
    assert not np.allclose(nats[4:], static[4:], rtol=0, atol=1e-3)


def test_the_network_stays_as_it_is() -> None:
    network = small()
    before, squares = copy.deepcopy(network.state_dict()), squares_like(network)
    kept = copy.deepcopy(squares)
    with torch.no_grad():  # which the caller's business is
        first = dynamic_nats(network, LETTERS, ids_of(TEXT), adaptation=QUICK, squares=squares)
        gradient_squares(network, LETTERS, ids_of(TEXT))
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert all(map(torch.equal, squares, kept))
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module.training for module in network.modules())
    again = dynamic_nats(network, LETTERS, ids_of(TEXT), adaptation=QUICK, squares=squares)
    assert (first == again).all()


def test_dropout_plays_no_part() -> None:
    config = ModelConfig(layers=2, hidden=4, embedding=3, dropout_input=0.5, dropout_between=0.5, dropout_output=0.5)
    network = small()
    masked = Network(config, LETTERS.size).train()
    masked.load_state_dict(network.state_dict())
    nats = [dynamic_nats(each, LETTERS, ids_of(TEXT), adaptation=QUICK) for each in (network, masked)]
    assert (nats[0] == nats[1]).all()
    assert masked.training


# honest


@pytest.mark.parametrize("gathered", [False, True])
def test_a_later_character_changes_nothing_before_it(gathered: bool) -> None:
    network = small()
    squares = squares_like(network) if gathered else None
    ids = ids_of(TEXT)
    nats = dynamic_nats(network, LETTERS, ids, adaptation=QUICK, squares=squares)
    for place in range(len(ids)):
        other = ids.copy()
        other[place] = (ids[place] + 1) % LETTERS.size
        changed = dynamic_nats(network, LETTERS, other, adaptation=QUICK, squares=squares)
        assert (changed[:place] == nats[:place]).all()
        assert changed[place] != nats[place]


def test_probabilities_sum_to_one_after_learning() -> None:
    network, past = small(), ids_of(TEXT)
    ends = [np.append(past, k).astype(np.int32) for k in (*range(LETTERS.size), LETTERS.unseen)]
    p = [math.exp(-float(dynamic_nats(network, LETTERS, ids, adaptation=QUICK)[-1])) for ids in ends]
    assert math.fsum(p[:-1]) == pytest.approx(1 - LETTERS.escape, abs=1e-6)
    assert math.fsum(p[:-1]) + (SCALARS - LETTERS.size) * p[-1] == pytest.approx(1, abs=1e-6)


# what it is for


@pytest.mark.parametrize("cell", CELLS)
def test_repeated_text_is_learned(cell: str) -> None:
    network, ids = small(cell), ids_of("abcde" * 60)
    static = exact_nats(network, LETTERS, ids)
    quick = Adaptation(segment=10, lr=0.01, decay=0)
    for squares in (None, gradient_squares(network, LETTERS, ids[:100], segment=10)):
        nats = dynamic_nats(network, LETTERS, ids, adaptation=quick, squares=squares)
        assert nats[-100:].mean() < 0.8 * static[-100:].mean()


def test_a_trained_model_gains_on_words_that_it_has_not_met(small_model: charlm.LanguageModel) -> None:
    """With default values, whether gradients were gathered beforehand or not."""
    network, tokenizer = Network(small_model.config.model, small_model.tokenizer.size), small_model.tokenizer
    import_weights(network.eval(), small_model.checkpoint.weights)
    ids = tokenizer.encode(synthetic_text(1500, seed=21)).ids
    static = exact_nats(network, tokenizer, ids).mean()
    squares = gradient_squares(network, tokenizer, tokenizer.encode(synthetic_text(60_000, seed=7)).ids, sample=2048)
    for given in (None, squares):
        assert dynamic_nats(network, tokenizer, ids, squares=given).mean() < 0.97 * static


# edges


def test_texts_of_no_and_of_a_few_tokens() -> None:
    network = small()
    assert dynamic_nats(network, LETTERS, ids_of("")).shape == (0,)
    nats = dynamic_nats(network, LETTERS, ids_of("ab"))
    np.testing.assert_allclose(nats, exact_nats(network, LETTERS, ids_of("ab")), rtol=0, atol=1e-6)
    assert DEFAULT.segment > 2


def test_weights_without_any_gradient_and_strange_bytes() -> None:
    """No squares at all from an empty training text; a segment of unseen characters, from which nothing follows."""
    network = small()
    empty = gradient_squares(network, LETTERS, ids_of(""))
    assert all(not square.any() for square in empty)
    ids = ids_of("☃" * 8 + TEXT)
    for squares in (None, empty):
        nats = dynamic_nats(network, LETTERS, ids, adaptation=Adaptation(segment=4), squares=squares)
        assert np.isfinite(nats).all()
        np.testing.assert_allclose(nats[:8], LETTERS.unseen_nats, rtol=1e-6)
    wide = small(vocabulary=256)
    assert np.isfinite(dynamic_nats(wide, ByteTokenizer(), ByteTokenizer().encode("\0\U0010ffff").ids)).all()

"""The temperature that a run suggests, for models whose right temperature is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import memoryless_decoder

from charlm.evaluation.temperature import FEWEST, TRIED, suitable_temperature
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer

LETTERS = "abcdefghijklmnop"
P: NDArray[np.float64] = 1 / np.arange(1, len(LETTERS) + 1) ** 1.5
P /= P.sum()


def drawn(characters: int, seed: int, probabilities: NDArray[np.float64] = P) -> str:
    """Letters independently of each other."""
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), characters, p=probabilities))


@pytest.mark.parametrize("right", [0.6, 0.8, 1.0])
def test_a_model_of_which_the_right_temperature_is_known_gets_it(right: float) -> None:
    """Where p^T in place of p was learned, sampling at T gives p."""
    text, flat = drawn(50_000, 1), P**right
    tokenizer = CharTokenizer.train(text)
    found = suitable_temperature(
        memoryless_decoder((flat / flat.sum()).tolist()), tokenizer, tokenizer.encode(text).ids, drawn(20_000, 2)
    )
    assert found is not None
    assert found.temperature == pytest.approx(right, abs=0.1)
    assert 0.25 < found.held_out < 0.75
    assert found.known == pytest.approx(found.held_out, abs=0.1)


def test_the_shares_are_those_of_sets_of_pieces() -> None:
    """The held-out text's share, by hand."""
    text, other = drawn(5000, 1), drawn(3000, 2)
    tokenizer = CharTokenizer.train(LETTERS)
    found = suitable_temperature(memoryless_decoder(P.tolist()), tokenizer, tokenizer.encode(text).ids, other)
    assert found is not None
    size = found.tokens
    known = {text[at : at + size] for at in range(len(text) - size + 1)}
    pieces = [other[at : at + size] for at in range(len(other) - size + 1)]
    assert found.held_out == sum(piece in known for piece in pieces) / len(pieces)


def test_records_are_written_whole() -> None:
    """The line end is a letter like the others, and the model's own."""
    letters = f"\n{LETTERS[1:]}"
    lines = {seed: drawn(30_000, seed).replace("a", "\n") for seed in (1, 2)}
    tokenizer = CharTokenizer.train(letters)
    found = suitable_temperature(
        memoryless_decoder(P.tolist()), tokenizer, tokenizer.encode(lines[1]).ids, lines[2], records="line"
    )
    assert found is not None
    assert found.temperature >= 0.9


def test_a_short_text_says_nothing_and_an_unlike_one_the_lowest_or_highest() -> None:
    tokenizer = ByteTokenizer()
    decoder, ids = memoryless_decoder([1 / 256] * 256), tokenizer.encode("abc" * 2000).ids
    assert suitable_temperature(decoder, tokenizer, ids, "a" * (FEWEST - 1)) is None
    found = suitable_temperature(decoder, tokenizer, ids, "xyz" * FEWEST)
    assert found is not None
    assert found.held_out == 0
    assert found.temperature in TRIED

"""Philox4x32-10 against its authors' known answers and an independent implementation; and charlm's numbers."""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.runtime.random import Purpose, Words, integer, philox, uniform, uniforms, words

WORD = st.integers(0, 2**32 - 1)
CHI_SQUARED_15: Final = 37.697  # the 0.999 quantile for 15 degrees of freedom


def unhex(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    a, b, c, d = unhex(counter)
    low, high = unhex(key)
    assert philox((a, b, c, d), (low, high)) == unhex(answer)


def product(a: int, b: int) -> tuple[int, int]:
    """High and low word of a * b, by 16-bit limbs, as a language without 64-bit integers has to do it."""
    low = (a & 0xFFFF) * (b & 0xFFFF)
    middle = (a >> 16) * (b & 0xFFFF) + (low >> 16)
    other = (a & 0xFFFF) * (b >> 16) + (middle & 0xFFFF)
    return (a >> 16) * (b >> 16) + (middle >> 16) + (other >> 16), (other & 0xFFFF) << 16 | low & 0xFFFF


def reference(counter: Words, key: tuple[int, int]) -> Words:
    """Figure 2 of Salmon et al. 2011, with the keys of all ten rounds written down first."""
    keys = [((key[0] + r * 0x9E3779B9) % 2**32, (key[1] + r * 0xBB67AE85) % 2**32) for r in range(10)]
    for k0, k1 in keys:
        high0, low0 = product(0xD2511F53, counter[0])
        high1, low1 = product(0xCD9E8D57, counter[2])
        counter = (high1 ^ counter[1] ^ k0, low1, high0 ^ counter[3] ^ k1, low0)
    return counter


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_philox_equals_an_implementation_with_16_bit_limbs(counter: Words, key: tuple[int, int]) -> None:
    assert philox(counter, key) == reference(counter, key)


@given(st.integers(0, 2**64 - 1), st.sampled_from(Purpose), st.integers(0, 2**64 - 1), WORD)
def test_seed_position_stream_and_purpose_are_placed_as_documented(
    seed: int, purpose: Purpose, position: int, stream: int
) -> None:
    counter = (position % 2**32, position // 2**32, stream, int(purpose))
    w0, w1, w2, w3 = reference(counter, (seed % 2**32, seed // 2**32))
    assert words(seed, purpose, position, stream) == (w0, w1, w2, w3)
    assert uniform(seed, purpose, position, stream) * 2**53 == (w0 // 32) * 2**26 + w1 // 64
    assert integer(seed, purpose, position, stream) == (w0 * 2**32 + w1) // 2


@given(st.integers(0, 2**63 - 1), st.sampled_from(Purpose), st.sampled_from([0, 5, 2**32 - 2, 2**40]))
def test_many_numbers_at_once_are_the_same_numbers(seed: int, purpose: Purpose, first: int) -> None:
    expected = [[uniform(seed, purpose, first + t, k) for k in range(2)] for t in range(4)]
    assert uniforms(seed, purpose, first, 4, 2).tolist() == expected
    assert uniforms(seed, purpose, first, 4, 1, first_stream=1).tolist() == [row[1:] for row in expected]


def test_purposes_have_the_numbers_that_a_reader_in_another_language_relies_on() -> None:
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "SAMPLE": 0,
        "SHIFT": 1,
        "DROPOUT": 2,
        "WEIGHTS": 3,
        "STATE": 4,
        "SHUFFLE": 5,
    }


def test_every_position_has_its_own_words() -> None:
    seeds, places, streams = (0, 1, 2**32, 2**62), (0, 1, 2**32, 2**40 + 1), (0, 1, 65535)
    drawn = [words(*place) for place in itertools.product(seeds, Purpose, places, streams)]
    assert len({word for four in drawn for word in four}) == 4 * len(drawn)


@pytest.mark.parametrize("axis", ["position", "stream", "seed"])
def test_uniform_numbers_are_even_and_neighbours_unrelated(axis: str) -> None:
    """Along whatever counts up: positions of a sample, samples side by side, seeds tried in turn."""
    count = 20_000
    place = {"seed": 5, "position": 7, "stream": 9}
    u = np.array([uniform(purpose=Purpose.SAMPLE, **{**place, axis: k}) for k in range(count)])
    assert (u >= 0).all()
    assert (u < 1).all()
    assert abs(u.mean() - 1 / 2) < 3.3 * math.sqrt(1 / 12 / count)
    assert abs(u.var() - 1 / 12) < 3.3 * math.sqrt(1 / 180 / count)  # the variance of (u - 1/2)^2 is 1/180
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 3.3 / math.sqrt(count)
    bins = np.bincount((u * 16).astype(int), minlength=16)
    assert ((bins - count / 16) ** 2 / (count / 16)).sum() < CHI_SQUARED_15

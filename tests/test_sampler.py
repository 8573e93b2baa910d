"""Sampling tokens, against probabilities computed by hand, and the generated texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from matrix import Tries
from numpy.typing import NDArray
from oracles import memoryless_decoder, random_network, scripted_decoder

from charlm.cli.main import run
from charlm.config import ModelConfig, SampleConfig, check_sample
from charlm.errors import ConfigError
from charlm.generation.decoder import Decoder, NumpyDecoder
from charlm.generation.generate import Piece, collect, generate, in_order
from charlm.generation.sampling import distribution, next_token
from charlm.models.network import export_weights
from charlm.runtime.random import Purpose, uniform
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer

CHI_SQUARED_9: Final = 27.877  # the 0.999 quantile for 9 degrees of freedom
CHI_SQUARED_11: Final = 31.264
TEN: Final = np.array([0.3, -1.2, 2.0, 0.9, -0.4, 1.1, -2.5, 0.0, 1.6, -0.7], dtype=np.float32)
WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=7)


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(float(x) / temperature) for x in logits]
    return [power / math.fsum(powers) for power in powers]


def logits_of(weights: Sequence[float]) -> NDArray[np.float32]:
    """Logits whose softmax is proportional to these weights, up to rounding to float32."""
    return np.array([math.log(weight) for weight in weights], dtype=np.float32)


def kept(p: NDArray[np.float64]) -> set[int]:
    return {int(token) for token in np.flatnonzero(p)}


# frequencies


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_evenly_spread_numbers_select_each_token_in_proportion(temperature: float) -> None:
    count = 5000
    drawn = [next_token(TEN, (k + 0.5) / count, temperature=temperature) for k in range(count)]
    frequency = np.bincount(drawn, minlength=10) / count
    np.testing.assert_allclose(frequency, softmax(TEN, temperature), rtol=0, atol=1 / count)
    assert drawn == sorted(drawn)  # laid out in the order of ids


@pytest.mark.fault(27)
@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.5, 1e6, 1e9])
def test_frequencies_of_samples_pass_a_chi_squared_test(temperature: float) -> None:
    count = 10_000
    drawn = [next_token(TEN, uniform(3, Purpose.SAMPLE, k), temperature=temperature) for k in range(count)]
    expected = count * np.array(softmax(TEN, temperature))
    assert ((np.bincount(drawn, minlength=10) - expected) ** 2 / expected).sum() < CHI_SQUARED_9


@pytest.mark.fault(27)
def test_temperature_zero_is_argmax_and_the_lowest_id_among_equals() -> None:
    for u in (0.0, 0.5, 1 - 2**-53):
        assert next_token(TEN, u, temperature=0) == next_token(TEN, u, temperature=-0.0) == 2
        assert next_token(np.array([1, 3, 3, 2, 3], dtype=np.float32), u, temperature=0) == 1


@pytest.mark.fault(27)
def test_extreme_temperatures_approach_argmax_and_the_uniform_distribution() -> None:
    for u in (0.0, 0.5, 1 - 2**-53):
        assert next_token(TEN * 1000, u, temperature=1e-6) == 2
    for least in (1e-6, 1e-300, 5e-324):
        np.testing.assert_array_equal(distribution(TEN, temperature=least), np.eye(10)[2])
    np.testing.assert_allclose(distribution(TEN, temperature=1e6), 0.1, rtol=1e-5)
    tied = np.array([5, 7, 7], dtype=np.float32)
    np.testing.assert_array_equal(distribution(tied, temperature=1e-6), [0, 0.5, 0.5])


def exactly(logits: Sequence[float], temperature: float) -> list[float]:
    """softmax(logits / temperature), its exponents in fractions, where nothing overflows; -inf is no chance at all."""
    most = Fraction(max(logits))
    exponents = [(Fraction(x) - most) / Fraction(temperature) if x > -math.inf else Fraction(-800) for x in logits]
    powers = [math.exp(max(exponent, Fraction(-800))) for exponent in exponents]
    return [power / math.fsum(powers) for power in powers]


@pytest.mark.fault(27)
def test_no_logits_and_no_temperature_in_range_give_anything_but_probabilities(
    tries: Tries, many: Callable[[int, int], int]
) -> None:
    """Of ±1e30, equal ones, a single finite one; and a sampled token always has a probability above 0."""
    extremes = st.sampled_from([-math.inf, -3.4e38, -1e30, -1.0, 0.0, 1e-45, 1.0, 88.0, 1e30, 3.4e38])
    values = st.lists(extremes, min_size=1, max_size=6).filter(lambda xs: max(xs) > -math.inf)
    temperatures = st.sampled_from([5e-324, 1e-300, 1e-6, 0.5, 1.0, 1e6, 1e9])
    top_ps = st.sampled_from([5e-324, 1e-9, 0.5, 1 - 2**-53, 1.0])

    @settings(max_examples=many(300, 5000))
    @given(values, temperatures, st.sampled_from([0, 1, 3, 10**9]), top_ps, st.sampled_from([0, 5e-324, 0.5, 1.0]))
    @example([0.0] * 6, 1e9, 0, 1 - 2**-53, 1.0)
    @example([-math.inf, 3.0, -math.inf], 1e9, 10**9, 1.0, 5e-324)
    @example([-1e30, 1e30], 5e-324, 0, 1.0, 0)
    def check(xs: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> None:
        logits = np.array(xs, dtype=np.float32)
        p = distribution(logits, temperature=temperature)
        np.testing.assert_allclose(p, exactly(logits.tolist(), temperature), rtol=1e-9, atol=1e-300)
        left = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        assert left.sum() == pytest.approx(1, abs=1e-12)
        assert kept(left) <= kept(p)
        assert left.max() >= p[int(np.argmax(left))] == p.max()
        for u in (0.0, 0.5, 1 - 2**-53):
            assert left[next_token(logits, u, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)] > 0
            assert next_token(logits, u, temperature=0, top_k=top_k, top_p=top_p, min_p=min_p) == int(np.argmax(logits))
        tries.survived()

    check()


OUT_OF_RANGE: Final = [
    *(
        ("temperature", value)
        for value in (math.inf, -math.inf, math.nan, -1e-300, -1e-6, -1.0, 1e9 + 1, 1e10, 10**400)
    ),
    *(("top_p", value) for value in (0, -0.0, -0.5, 1 + 2**-52, math.inf, math.nan)),
    *(("min_p", value) for value in (-1e-9, 1 + 2**-52, math.inf, math.nan)),
    *(("top_k", value) for value in (-1, 10**9 + 1, 2**63, 1.5, math.nan)),
]
RANGES: Final = {
    "temperature": "a number from 0 to 1e+09",
    "top_p": "a number above 0, at most 1",
    "min_p": "a number from 0 to 1",
    "top_k": "an integer from 0 to 1e+09",
}


@pytest.mark.fault(27)
@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_beyond_its_range_an_option_is_refused_with_it(
    name: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        check_sample({name: value})
    flag = f"--{name.replace('_', '-')}"
    assert str(raised.value) == f"{flag} must be {RANGES[name]}, not {value!r}; nothing was read or written"
    assert run(["sample", "nobody", flag, str(value)]) == 2
    assert f"charlm: {flag} must be {RANGES[name]}, not " in capsys.readouterr().err


@pytest.mark.fault(27)
@pytest.mark.parametrize("value", [0, 0.0, -0.0, 5e-324, 1e-6, 1, 1e6, 1e9, 10**9])
def test_within_its_range_every_temperature_is_taken_as_it_is(value: float) -> None:
    assert check_sample({"temperature": value}).temperature == value


@given(WEIGHTS, st.floats(0.05, 20), st.integers(0, 8), st.floats(0.01, 1), st.floats(0, 1))
def test_distribution_sums_to_one_and_keeps_the_proportions_of_what_it_keeps(
    weights: list[int], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(weights)
    p = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    whole = np.array(softmax(logits, temperature))
    mass = whole[list(kept(p))].sum()
    np.testing.assert_allclose(p[p > 0], whole[p > 0] / mass, rtol=1e-9)


@given(st.lists(st.sampled_from([-1e5, -800.0, -40.0, 0.0, 1.0]), min_size=1, max_size=8), st.floats(0, 1 - 2**-53))
@example([0.0, -1e5, -1e5], 1 - 2**-53)
@example([-1e5, -1e5, 0.0], 0.0)
@example([0.0, -40.0], 1 - 2**-53)
@example([0.0] * 7 + [-800.0], 1 - 2**-53)
def test_no_number_selects_a_token_of_zero_probability(values: list[float], u: float) -> None:
    logits = np.array(values, dtype=np.float32)
    assert distribution(logits)[next_token(logits, u)] > 0
    best = max(range(len(values)), key=lambda k: (values[k], -k))
    assert next_token(logits, u, top_k=1) == best


# cuts


@given(WEIGHTS, st.integers(1, 9))
@example([3, 3, 3, 3], 2)
def test_top_k_keeps_exactly_the_k_most_probable(weights: list[int], k: int) -> None:
    likeliest = sorted(range(len(weights)), key=lambda token: (-weights[token], token))[:k]
    assert kept(distribution(logits_of(weights), top_k=k)) == set(likeliest)


@given(WEIGHTS, st.floats(0.01, 0.999))
@example([1, 1, 1, 1], 0.5)
@example([7, 2, 1], 0.7)
def test_top_p_keeps_the_smallest_set_that_reaches_p(weights: list[int], top_p: float) -> None:
    """Against all subsets: none with fewer tokens reaches p, and none with as many holds more."""
    logits = logits_of(weights)
    p = softmax(logits)
    chosen = kept(distribution(logits, top_p=top_p))
    mass = math.fsum(p[token] for token in chosen)
    assert mass >= top_p - 1e-12
    for size in range(len(chosen) + 1):
        best = max(math.fsum(subset) for subset in itertools.combinations(p, size))
        assert best < top_p + 1e-12 if size < len(chosen) else best == pytest.approx(mass, abs=1e-12)


def test_top_p_that_is_reached_exactly_takes_no_further_token() -> None:
    """Four quarters are exact in binary, so that no rounding decides."""
    assert kept(distribution(np.zeros(4, dtype=np.float32), top_p=0.5)) == {0, 1}
    assert kept(distribution(np.zeros(4, dtype=np.float32), top_p=0.501)) == {0, 1, 2}


@given(WEIGHTS, st.sampled_from([0.01, 0.11, 0.35, 0.77, 1.0]))
def test_min_p_keeps_tokens_with_that_share_of_the_highest_probability(weights: list[int], min_p: float) -> None:
    bound = min_p * max(weights)
    assume(min_p == 1 or all(abs(weight - bound) > 1e-4 for weight in weights))  # else rounding decides
    expected = {token for token, weight in enumerate(weights) if weight >= bound}
    assert kept(distribution(logits_of(weights), min_p=min_p)) == expected


def test_truncations_follow_each_other_on_renormalised_probabilities() -> None:
    """0.5 and 0.3 are left by top_k; of these, 0.5 is 62.5 %: enough for top_p 0.6, though 50 % would not be."""
    logits = logits_of([0.2, 0.5, 0.3])
    np.testing.assert_allclose(distribution(logits, top_k=2), [0, 0.625, 0.375], rtol=1e-6)
    np.testing.assert_array_equal(distribution(logits, top_k=2, top_p=0.6), [0, 1, 0])
    np.testing.assert_allclose(distribution(logits, top_p=0.7, min_p=0.5), [0, 0.625, 0.375], rtol=1e-6)
    np.testing.assert_array_equal(distribution(logits, top_p=0.9, min_p=0.7), [0, 1, 0])


# texts

AB: Final = CharTokenizer.train("ab")
EVEN: Final = memoryless_decoder([0.5, 0.5])


def written(decoder: Decoder, tokenizer: CharTokenizer | ByteTokenizer, **options: object) -> list[str]:
    prime, stop = (str(options.pop(name, "")) for name in ("prime", "stop"))
    config = SampleConfig(**{"seed": 0, **options})  # type: ignore[arg-type]
    return list(collect(generate(decoder, tokenizer, config, prime=prime, stops=(stop,)), config.count))


def alphabet(script: str) -> tuple[Decoder, CharTokenizer]:
    """A model that writes `script` over and over, and its tokenizer."""
    tokenizer = CharTokenizer.train(script)
    return scripted_decoder(tokenizer.encode(script).ids.tolist(), tokenizer.size), tokenizer


@pytest.mark.parametrize("length", [0, 1, 2, 17])
def test_samples_have_exactly_the_length_asked_for(length: int) -> None:
    assert written(*alphabet("xyz"), length=length) == ["xyzxyzxyzxyzxyzxyz"[:length]]
    assert [len(text) for text in written(EVEN, AB, length=length, count=3)] == [length] * 3


def test_length_zero_ends_every_sample_at_once() -> None:
    pieces = list(generate(EVEN, AB, SampleConfig(length=0, count=2), prime="ab"))
    assert pieces == [Piece(0, "", done=True), Piece(1, "", done=True)]


def test_prime_is_read_but_not_returned_nor_searched_for_the_stop_text() -> None:
    decoder, tokenizer = alphabet("abcd")
    assert written(decoder, tokenizer, length=3, prime="ab") == ["cda"]
    assert written(decoder, tokenizer, length=3, prime="d") == ["abc"]
    assert written(decoder, tokenizer, length=6, prime="ab", stop="bc") == ["cda"]
    assert len(written(decoder, tokenizer, length=3, prime="a never seen in training")[0]) == 3


def test_text_is_held_back_while_it_could_become_the_stop_text() -> None:
    decoder, tokenizer = alphabet("abcde")
    pieces = list(generate(decoder, tokenizer, SampleConfig(length=99), prime="c", stops=("abd",)))[:3]
    assert pieces == [Piece(0, "d"), Piece(0, "e"), Piece(0, "abc")]
    pieces = list(generate(decoder, tokenizer, SampleConfig(length=99), prime="c", stops=("abc",)))
    assert pieces == [Piece(0, "d"), Piece(0, "e"), Piece(0, "", done=True, stopped=True)]
    pieces = list(generate(decoder, tokenizer, SampleConfig(length=4), prime="c", stops=("abc",)))
    assert pieces == [Piece(0, "d"), Piece(0, "e"), Piece(0, "ab", done=True)]


@given(st.text("ab", min_size=1, max_size=5), st.integers(0, 200), st.integers(0, 30))
def test_a_sample_with_a_stop_text_is_the_one_without_up_to_its_first_occurrence(
    stop: str, seed: int, length: int
) -> None:
    """Two letters make overlaps and false beginnings of the stop text frequent."""
    whole = written(EVEN, AB, length=length, seed=seed, count=2)
    assert written(EVEN, AB, length=length, seed=seed, count=2, stop=stop) == [text.split(stop)[0] for text in whole]


def test_sample_k_at_a_position_uses_the_documented_number() -> None:
    logits = np.log(np.array([0.2, 0.8], dtype=np.float32))
    texts = written(memoryless_decoder([0.2, 0.8]), AB, length=40, count=3, seed=11)
    for k, text in enumerate(texts):
        tokens = [next_token(logits, uniform(11, Purpose.SAMPLE, t, k)) for t in range(40)]
        assert text == "".join("ab"[token] for token in tokens)


def test_a_sample_does_not_depend_on_its_neighbours_but_on_the_seed() -> None:
    tokenizer = CharTokenizer.train("etaoinshrdlu")
    network = random_network(ModelConfig(cell="gru", layers=2, hidden=16, embedding=8), tokenizer.size, seed=1)
    decoder = NumpyDecoder(network.config, export_weights(network))
    three = written(decoder, tokenizer, length=60, count=3, seed=4)
    assert len(set(three)) == 3
    assert written(decoder, tokenizer, length=60, count=1, seed=4) == three[:1]
    assert written(decoder, tokenizer, length=60, count=2, seed=4) == three[:2]
    assert written(decoder, tokenizer, length=60, count=1, seed=5) != three[:1]
    assert len(set(written(decoder, tokenizer, length=60, count=3, temperature=0))) == 1


def test_samples_that_end_one_after_another_are_those_generated_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the others wait after 8 tokens of each; some have ended by then."""
    options: dict[str, Any] = {"length": 200, "count": 4, "seed": 3, "stop": "bbbbb"}
    parallel = written(EVEN, AB, **options)
    monkeypatch.setattr("charlm.generation.generate._AHEAD", 32)
    assert written(EVEN, AB, **options) == parallel
    assert min(map(len, parallel)) < max(map(len, parallel))


def test_samples_that_have_ended_are_computed_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the samples end at each token, so 512 of them are about 1,024 tokens."""
    computed, sample = [], NumpyDecoder.sample

    def counted(self: NumpyDecoder, logits: Any, state: Any, uniforms_TB: NDArray[np.float64], settings: Any) -> Any:
        computed.append(uniforms_TB.size)
        return sample(self, logits, state, uniforms_TB, settings)

    options: dict[str, Any] = {"length": 500, "seed": 3, "stop": "b"}
    alone = written(EVEN, AB, count=1, **options)
    monkeypatch.setattr(NumpyDecoder, "sample", counted)
    many = written(EVEN, AB, count=512, **options)
    assert many[:1] == alone
    assert sum(map(len, many)) + 512 <= sum(computed) < 4 * 1024


def test_the_first_of_endless_samples_can_be_read_while_little_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.generation.generate._AHEAD", 4096)
    endless, held, shown = generate(EVEN, AB, SampleConfig(length=10**12, count=3, seed=1)), 0, 0

    def counted() -> Iterator[Piece]:
        nonlocal held
        for piece in endless:
            held += len(piece.text) * (piece.sample > 0)
            yield piece

    for piece in itertools.islice(in_order(counted()), 20_000):
        assert piece.sample == 0
        shown += len(piece.text)
    assert shown == 20_000
    assert held <= 4096 + 3 * 64


def test_pieces_in_order_are_the_samples_one_after_another() -> None:
    config = SampleConfig(length=50, count=3, seed=2)
    pieces = list(in_order(generate(EVEN, AB, config, stops=("abab",))))
    assert [piece.sample for piece in pieces] == sorted(piece.sample for piece in pieces)
    assert [piece.sample for piece in pieces if piece.done] == [0, 1, 2]
    assert list(collect(iter(pieces), 3)) == written(EVEN, AB, length=50, count=3, seed=2, stop="abab")


@pytest.mark.fault(27)
def test_a_whole_model_is_greedy_at_the_lowest_temperatures_and_even_at_the_highest() -> None:
    tokenizer = CharTokenizer.train("etaoinshrdlu")
    network = random_network(ModelConfig(cell="lstm", layers=1, hidden=12, embedding=0), tokenizer.size, seed=2)
    decoder = NumpyDecoder(network.config, export_weights(network))
    greedy = written(decoder, tokenizer, length=200, temperature=0)
    for temperature in (-0.0, 5e-324, 1e-6):
        assert written(decoder, tokenizer, length=200, temperature=temperature, seed=9) == greedy
    for temperature in (1e6, 1e9):
        text = "".join(written(decoder, tokenizer, length=300, count=30, temperature=temperature))
        counts = np.array([text.count(character) for character in tokenizer.vocabulary])
        assert ((counts - 750) ** 2 / 750).sum() < CHI_SQUARED_11


def test_bytes_are_shown_and_counted_as_whole_characters() -> None:
    script = "é€😀"
    decoder = scripted_decoder(list(script.encode()), 256)
    assert written(decoder, ByteTokenizer(), length=5) == ["é€😀é€"]
    assert [piece.text for piece in generate(decoder, ByteTokenizer(), SampleConfig(length=3))] == ["é", "€", "😀"]
    assert written(decoder, ByteTokenizer(), length=3, prime="é") == ["€😀é"]
    assert written(decoder, ByteTokenizer(), length=9, stop="😀é") == ["é€"]


def test_bytes_that_are_not_utf8_count_as_one_replacement_character_each() -> None:
    assert written(scripted_decoder([0x80], 256), ByteTokenizer(), length=3) == ["\ufffd" * 3]


def test_a_token_that_completes_two_characters_does_not_exceed_the_length() -> None:
    """A lead byte without its continuation shows only at the next byte, together with it."""
    decoder = scripted_decoder([0xC3, ord("a")], 256)
    texts = [written(decoder, ByteTokenizer(), length=length)[0] for length in (1, 2, 3)]
    assert texts == ["\ufffd", "\ufffda", "\ufffda\ufffd"]

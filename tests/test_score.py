"""Scores against what the definitions give: uniform models, sums step by step, every token scored exactly once."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matrix import Tries
from oracles import synthetic_text
from torch import Tensor

import charlm
from charlm.config import DataConfig
from charlm.evaluation.score import CONTEXT, Score, exact_nats, lane_nats, score, token_nats
from charlm.generation.decoder import NumpyDecoder
from charlm.models.network import Network, State, import_weights, named_weights
from charlm.text.tokenizer import SCALARS, ByteTokenizer, CharTokenizer, Tokenizer, tokenize, train_tokenizer


class Uniform:
    """A model that knows nothing: equal logits, not all zero, for each of V tokens."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def init_state(self, lanes: int) -> State:
        return ((torch.zeros(lanes, 1),),)

    def __call__(self, ids_TB: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.full((*ids_TB.shape, self.vocabulary), 3.0), state


class Counting:
    """Charges 1 + n/1000 nats for the token n + 1 of a lane that reads 0, 1, 2, ..., after n tokens without a gap.

    The state is how many tokens were read and which is to come next; after a gap every charge is at least 5.
    """

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def init_state(self, lanes: int) -> State:
        return ((torch.zeros(lanes), torch.full((lanes,), -1.0)),)

    def __call__(self, ids_TB: Tensor, state: State) -> tuple[Tensor, State]:
        (read, expected) = (part.clone() for part in state[0])
        logits = torch.zeros(*ids_TB.shape, self.vocabulary, dtype=torch.float64)
        for t, ids in enumerate(ids_TB):
            following = torch.where(ids == self.vocabulary, 0, ids + 1)
            gap = (expected >= 0) & (expected != ids)
            read = read + 1
            nats = (1 + (read.double() - 1) / 1000).masked_fill(gap, 20)
            # one logit a against V - 1 zeros: -ln(e^a / (e^a + V - 1)) = nats
            logits[t].scatter_(1, following[:, None], torch.log((self.vocabulary - 1) / torch.expm1(nats))[:, None])
            expected = following.float()
        return logits.float(), ((read, expected),)


@pytest.fixture(scope="module")
def network(small_model: charlm.LanguageModel) -> Network:
    network = Network(small_model.config.model, small_model.tokenizer.size)
    import_weights(network, small_model.checkpoint.weights)
    return network.eval()


@pytest.fixture(scope="module")
def tokenizer(small_model: charlm.LanguageModel) -> Tokenizer:
    return small_model.tokenizer


def with_strangers(length: int) -> str:
    """A text of the kind that the small model knows, with characters that it has never seen."""
    return "Ω" + synthetic_text(length, seed=8) + "\0☃☃ end"


# the definition


def test_uniform_characters_have_perplexity_v_over_one_minus_e() -> None:
    text = "hello, world"
    tokenizer = CharTokenizer.train(text)
    counts = Counter(text)
    e = (sum(count == 1 for count in counts.values()) + 0.5) / (len(text) + 1)
    result = score(Uniform(len(counts)), tokenizer, tokenize(tokenizer, "hold hello world" * 3))
    assert result.perplexity == pytest.approx(len(counts) / (1 - e), rel=1e-6)
    assert result.unknown_characters == 0


def test_uniform_bytes_have_perplexity_256_for_each_byte() -> None:
    tokenizer = ByteTokenizer()
    ascii_score = score(Uniform(256), tokenizer, tokenize(tokenizer, "plain text\0\x7f" * 40))
    assert ascii_score.perplexity == pytest.approx(256, rel=1e-6)
    result = score(Uniform(256), tokenizer, tokenize(tokenizer, "é€😀a"))  # 2 + 3 + 4 + 1 bytes
    assert result.bits_per_byte == pytest.approx(8, rel=1e-6)
    assert result.bits_per_character == pytest.approx(8 * 10 / 4, rel=1e-6)


def test_uniform_pieces_are_scored_by_character() -> None:
    """ln V for each piece, divided by characters and not by pieces."""
    text = synthetic_text(4000, seed=9)
    tokenizer = train_tokenizer(DataConfig(tokenizer="sentencepiece", vocab_size=320), text)
    tokens = tokenize(tokenizer, text)
    assert len(tokens.ids) < tokens.characters == 4000
    expected = len(tokens.ids) * math.log(tokenizer.size) / 4000
    assert score(Uniform(tokenizer.size), tokenizer, tokens).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.fault(38)
def test_score_is_the_sum_over_the_numpy_decoders_steps(
    small_model: charlm.LanguageModel, network: Network, tokenizer: Tokenizer
) -> None:
    text = with_strangers(600)
    decoder = NumpyDecoder(small_model.config.model, small_model.checkpoint.weights)
    logits, state = decoder.step([tokenizer.start], decoder.init_state(1))
    total = 0.0
    for token in tokenizer.encode(text).ids.tolist():
        p = np.exp(logits[0].astype(np.float64))
        if token == tokenizer.unseen:
            total -= math.log(tokenizer.escape / (1_112_064 - tokenizer.size))
        else:
            total -= math.log((1 - tokenizer.escape) * p[token] / p.sum())
        logits, state = decoder.step([token], state)
    exact = score(network, tokenizer, tokenize(tokenizer, text), exact=True)
    assert exact.nats / len(text) == pytest.approx(total / len(text), abs=1e-6)


def test_score_is_the_sum_over_the_networks_own_steps(network: Network, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(synthetic_text(600, seed=10)).ids.tolist()
    state, total = network.init_state(1), 0.0
    with torch.inference_mode():
        for before, token in zip([tokenizer.start, *ids], ids, strict=False):
            logits, state = network(torch.tensor([[before]]), state)
            total += float(-torch.log_softmax(logits[0, 0].double(), 0)[token]) - math.log(1 - tokenizer.escape)
    exact = score(network, tokenizer, tokenize(tokenizer, synthetic_text(600, seed=10)), exact=True)
    assert exact.nats / 600 == pytest.approx(total / 600, abs=1e-6)


def test_exact_loss_does_not_depend_on_the_chunk_length(network: Network, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(with_strangers(1500)).ids
    losses = [
        exact_nats(network, tokenizer, ids, chunk=chunk).mean(dtype=np.float64) for chunk in (1, 7, 64, 256, 10**6)
    ]
    assert max(losses) - min(losses) < 1e-6


def test_lanes_are_within_0_0005_bits_per_character_of_the_exact_pass(
    small_model: charlm.LanguageModel, network: Network, tokenizer: Tokenizer
) -> None:
    text = synthetic_text(60_000, seed=7)[-20_000:]  # 19 lanes
    exact, fast = small_model.score(text, exact=True), small_model.score(text)
    assert fast.nats != exact.nats, "the text is too short for lanes"
    assert fast.bits_per_character == pytest.approx(exact.bits_per_character, abs=0.0005)
    ids = tokenizer.encode(text).ids
    forgetful, drift = token_nats(
        network, tokenizer, ids, context=1, lanes=2000
    )  # the model does have a memory to lose
    assert forgetful.mean() / math.log(2) > exact.bits_per_character + 0.005
    assert drift > 0.005
    assert exact.bits_per_character < 2.2


def test_a_model_that_remembers_for_very_long_is_read_with_a_longer_context(
    network: Network, tokenizer: Tokenizer
) -> None:
    """Cells that never forget: lanes of the usual context would be far off, as their drift shows."""
    stubborn = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in named_weights(stubborn).items():
            if name.endswith("bias_ih"):
                torch.split(weight, stubborn.config.hidden)[1].fill_(12.0)
    ids = tokenizer.encode(synthetic_text(8_000, seed=13)).ids
    exact = exact_nats(stubborn, tokenizer, ids).mean(dtype=np.float64)
    usual, drift = token_nats(stubborn, tokenizer, ids, lanes=64, context=CONTEXT)
    assert drift > 1e-4
    assert abs(usual.mean(dtype=np.float64) - exact) / math.log(2) > 0.0005
    settled = lane_nats(stubborn, tokenizer, ids).mean(dtype=np.float64)
    assert abs(settled - exact) / math.log(2) < 0.0005
    as_it_is = lane_nats(stubborn, tokenizer, ids, drift=drift)
    assert (as_it_is == usual).all()


# lanes


@given(st.integers(1, 400), st.integers(1, 70), st.integers(1, 60), st.integers(1, 50))
def test_each_token_is_scored_once_after_its_context(length: int, lanes: int, context: int, chunk: int) -> None:
    tokenizer = CharTokenizer("".join(chr(0x4E00 + k) for k in range(length + 1)), once=0, total=10**9)
    ids = np.arange(length, dtype=np.int32)
    nats, _ = token_nats(Counting(length + 1), tokenizer, ids, lanes=lanes, context=context, chunk=chunk)
    before = np.rint((nats - 1) * 1000).astype(int)  # tokens that the lane had read before this one's predecessor
    np.testing.assert_allclose(nats, 1 + before / 1000, rtol=0, atol=1e-5)
    place = np.arange(length)
    assert (before >= np.minimum(place, context)).all()
    assert (before <= place).all()
    used = max(1, min(lanes, length // (2 * context)))
    jumps = np.count_nonzero(np.diff(before) != 1)  # from one lane's tokens to the next one's
    assert 0 < jumps < used or jumps == 0 == used - 1


@pytest.mark.parametrize("length", [0, 1, 2, 2 * CONTEXT - 1, 2 * CONTEXT, 4 * CONTEXT - 1, 4 * CONTEXT])
def test_texts_shorter_than_four_contexts_are_read_in_one_pass(
    network: Network, tokenizer: Tokenizer, length: int
) -> None:
    tokens = tokenize(tokenizer, synthetic_text(length, seed=11))
    exact, default = score(network, tokenizer, tokens, exact=True), score(network, tokenizer, tokens)
    assert (exact == default) == (length < 4 * CONTEXT)
    assert default.nats == pytest.approx(exact.nats, rel=0.001)


# every character is charged


@pytest.mark.fault(38)
def test_probabilities_of_all_characters_sum_to_one(network: Network, tokenizer: Tokenizer) -> None:
    """Over the vocabulary by name, and over all other characters, which have equal probabilities."""
    assert isinstance(tokenizer, CharTokenizer)
    for context in ("", "E", "The " + synthetic_text(50, seed=12), "☃"):
        known, other = (
            [
                math.exp(-float(exact_nats(network, tokenizer, tokenizer.encode(context + character).ids)[-1]))
                for character in characters
            ]
            for characters in (tokenizer.vocabulary, "☃Ω\U0010ffff")
        )
        assert len(set(other)) == 1
        assert math.fsum(known) + (SCALARS - len(known)) * other[0] == pytest.approx(1, abs=1e-6)
        assert math.fsum(known) == pytest.approx(1 - tokenizer.escape, abs=1e-6)


@pytest.mark.fault(38)
def test_escape_is_what_good_and_turing_say(small_model: charlm.LanguageModel, tokenizer: Tokenizer) -> None:
    seen = synthetic_text(60_000, seed=7)[:54_000]  # without the tenth that is held out
    once = sum(seen.count(character) == 1 for character in set(seen))
    assert small_model.checkpoint.tokenizer.table["total"] == len(seen)
    assert tokenizer.escape == (once + 0.5) / (len(seen) + 1)
    assert CharTokenizer.train("aabbc").escape == 1.5 / 6


@pytest.mark.fault(38)
def test_each_unseen_character_has_its_share_of_the_escape(network: Network, tokenizer: Tokenizer) -> None:
    text = "a☃ Ω Ωe"
    nats = exact_nats(network, tokenizer, tokenizer.encode(text).ids)
    price = -math.log(tokenizer.escape / (1_112_064 - tokenizer.size))
    unseen = [character in "☃Ω" for character in text]
    np.testing.assert_allclose(nats[unseen], price, rtol=1e-6)
    assert (nats[np.logical_not(unseen)] < price).all()
    result = score(network, tokenizer, tokenize(tokenizer, text))
    assert math.isfinite(result.nats)
    assert result.unknown_characters == 3
    assert result.nats == pytest.approx(float(nats.sum()), rel=1e-6)


@pytest.mark.fault(38)
def test_every_character_of_any_text_is_scored_known_or_not(tries: Tries, many: Callable[[int, int], int]) -> None:
    """By the formula, with a model of equal logits: ln V - ln(1 - e) for a known one, ln((1112064 - V) / e) else."""

    @settings(max_examples=many(100, 2000))
    @given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")))
    @example("aab", "☃" * 40)
    @example("aabb", "ab\0\U0010ffff\ufffe")
    def check(learned: str, text: str) -> None:
        tokenizer, seen = CharTokenizer.train(learned), set(learned)
        e = (sum(learned.count(character) == 1 for character in seen) + 0.5) / (len(learned) + 1)
        known, unknown = math.log(len(seen)) - math.log(1 - e), math.log((1_112_064 - len(seen)) / e)
        result = score(Uniform(len(seen)), tokenizer, tokenize(tokenizer, text))
        assert result.unknown_characters == sum(character not in seen for character in text)
        expected = math.fsum(known if character in seen else unknown for character in text)
        assert result.nats == pytest.approx(expected, rel=1e-5)
        tries.survived()

    check()


def test_an_empty_text_has_a_score_without_figures(network: Network, tokenizer: Tokenizer) -> None:
    result = score(network, tokenizer, tokenize(tokenizer, ""))
    assert (result.nats, result.characters, result.bytes, result.words, result.tokens) == (0, 0, 0, 0, 0)
    figures = [result.loss, result.bits_per_character, result.bits_per_byte, result.perplexity, result.word_perplexity]
    assert all(map(math.isnan, figures))


# figures


def test_figures_follow_from_the_totals_by_hand() -> None:
    """Three characters of six bytes, in two words, for 12 ln 2 nats."""
    result = Score(nats=12 * math.log(2), characters=3, bytes=6, words=2, tokens=6, unknown_characters=0)
    assert result.loss == pytest.approx(4 * math.log(2))
    assert result.bits_per_character == pytest.approx(4)
    assert result.bits_per_byte == pytest.approx(2)
    assert result.perplexity == pytest.approx(16)
    assert result.word_perplexity == pytest.approx(64)


def test_words_are_white_space_separated_runs_and_line_ends(network: Network, tokenizer: Tokenizer) -> None:
    result = score(network, tokenizer, tokenize(tokenizer, " two  words\n\n"))
    assert result.words == 4
    assert result.word_perplexity == pytest.approx(math.exp(result.nats / 4))


def test_figures_that_overflow_are_infinite_and_without_words_not_a_number() -> None:
    result = Score(nats=1e6, characters=10, bytes=10, words=0, tokens=10, unknown_characters=0)
    assert result.perplexity == math.inf
    assert math.isnan(result.word_perplexity)
    assert Score(1e6, 1000, 1000, 1, 1000, 0).word_perplexity == math.inf
    assert Score(700.0, 1000, 1000, 1, 1000, 0).word_perplexity == pytest.approx(math.exp(700))


def test_a_training_text_is_recognised(small_model: charlm.LanguageModel) -> None:
    assert small_model.was_trained_on(synthetic_text(60_000, seed=7))
    assert not small_model.was_trained_on(synthetic_text(60_000, seed=7) + "!")

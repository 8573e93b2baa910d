"""The recipe completes what a user gives, changes none of it, and says why for all that it chose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import CELLS, DROPOUTS, LENGTHS, MODELS, TRAIN_SECTIONS, Config, ModelConfig, check_train, options_of
from charlm.errors import ConfigError
from charlm.models.architecture import architecture_of
from charlm.options import Option, Value, seconds
from charlm.training.defaults import PRESETS, Facts, choose, choose_vocabulary, operations, preset

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
SPECS = options_of(*TRAIN_SECTIONS)
ALWAYS = {
    "optimizer",
    "lr",
    "bptt",
    "batch",
    "shuffle",
    "drop_state",
    "hidden",
    "embedding",
    "dropout_input",
    "dropout_between",
    "dropout_output",
    "weight_decay",
    "average",
}


def values(spec: Option) -> st.SearchStrategy[Value]:
    if spec.type is bool:
        return st.booleans()
    if spec.type is int:
        return st.integers(int(spec.low), int(spec.high))
    if spec.type is float:
        return st.floats(spec.low, spec.high, exclude_min=spec.above)
    if spec.type is bool:
        return st.booleans()
    texts = {
        "duration": ("0.1s", "45s", "3m", "10000h"),
        "every": ("1", "9s"),
        "device": ("cpu", "cuda:1"),
        "encoding": ("utf-8", "cp1252"),
    }
    return st.sampled_from(spec.choices or texts.get(spec.form, ("0.1", "later.txt")))


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Value]:
    """What a user may give: any options, but one length at most, and units that heads can share."""
    found = draw(st.fixed_dictionaries({}, optional={name: values(spec) for name, spec in SPECS.items()}))
    if found.get("model") == "transformer":
        heads = found.pop("heads", 1)
        if "hidden" in found:
            found |= {"hidden": 2 * heads * draw(st.integers(1, 8)), "heads": heads}
    kept = draw(st.sampled_from(LENGTHS))
    return {name: value for name, value in found.items() if name not in LENGTHS or name == kept}


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    characters = draw(st.one_of(st.integers(2, 5000), st.integers(2, 10**10)))
    return Facts(
        characters,
        draw(st.integers(max(1, characters // 10), 4 * characters)),
        draw(st.integers(1, 65536)),
        draw(st.sampled_from(["cpu", "cuda", "mps"])),
        draw(st.floats(1e9, 1e15)),
    )


@PROFILE
@given(choices(), facts())
def test_what_is_given_is_kept_and_the_rest_is_complete(chosen: dict[str, Value], facts: Facts) -> None:
    config, _ = choose(chosen, facts)
    flat = config.flat()
    assert {name: flat[name] for name in chosen} == chosen
    assert Config.checked(flat) == config
    assert sum(bool(flat[name]) for name in LENGTHS) == 1


@PROFILE
@given(choices(), facts())
def test_reasons_are_given_for_exactly_what_was_chosen(chosen: dict[str, Value], facts: Facts) -> None:
    config, reasons = choose(chosen, facts)
    everything = set(choose({name: chosen[name] for name in ("model",) if name in chosen}, facts)[1])
    assert everything - set(LENGTHS) >= ALWAYS
    if any(name in chosen for name in LENGTHS):
        everything = everything - set(LENGTHS) | {"patience"}  # a length that was asked for is kept to
    assert set(reasons) == everything - set(chosen)
    assert all(len(reason) > 8 for reason in reasons.values())
    untouched = SPECS.keys() - chosen.keys() - reasons.keys()
    assert all(config.flat()[name] == Config().flat()[name] for name in untouched)


@PROFILE
@given(choices(), facts())
def test_choices_are_the_same_for_the_same_facts(chosen: dict[str, Value], facts: Facts) -> None:
    before = dict(chosen)
    assert choose(chosen, facts) == choose(dict(reversed(chosen.items())), facts)
    assert chosen == before


@PROFILE
@given(facts())
def test_windows_and_lanes_fit_into_the_text(facts: Facts) -> None:
    train = choose({}, facts)[0].train
    assert 1 <= train.bptt <= facts.tokens
    assert 1 <= train.batch <= max(1, facts.tokens // train.bptt)


@pytest.mark.parametrize("characters", [50_000, 1_000_000, 10**8])
def test_without_a_length_a_text_is_read_for_ten_minutes(characters: int) -> None:
    config, reasons = choose({}, Facts(characters, characters, 80, "cpu", 2e11))
    assert seconds(config.train.time) == 600
    assert config.train.patience > 0
    assert "ten minutes" in reasons["time"]


def test_the_rate_follows_the_optimizer_and_the_network_the_text() -> None:
    def chosen(characters: int, **more: Value) -> Config:
        return choose(more, Facts(characters, characters, 80, "cpu", 2e11))[0]

    rates = {name: chosen(10**6, optimizer=name).optim.lr for name in ("muon", "adamw", "rmsprop")}
    assert len(set(rates.values())) == 3
    sizes = [chosen(characters).model.hidden for characters in (500, 20_000, 10**6)]
    assert sizes == sorted(set(sizes))
    assert [chosen(10**6, hidden=hidden).model.embedding for hidden in (32, 100, 400)] == [32, 64, 64]
    many = choose({"hidden": 400}, Facts(10**6, 10**6, 4000, "cpu", 2e11))[0]
    assert many.model.embedding == 256
    repeated = [chosen(10**6, epochs=epochs).model.dropout_between for epochs in (1, 10, 30, 1000)]
    assert repeated == sorted(set(repeated))
    assert repeated[0] == 0
    decays = [chosen(10**6, epochs=epochs).optim.weight_decay for epochs in (1, 4, 10, 1000)]
    assert decays == sorted(decays)
    assert decays[0] < decays[-1]
    assert [chosen(10**6, steps=steps).optim.average for steps in (10, 900, 1100, 10**6)] == [0, 0, 0.1, 0.1]


@pytest.mark.parametrize("budget", ["15s", "1m", "3m", "30m", "10h"])
@pytest.mark.parametrize(
    "kind",
    [{}, {"cell": "rnn"}, {"cell": "gru"}, {"layers": 3}, {"model": "transformer"}, {"model": "dilated"}],
    ids=str,
)
def test_in_the_same_time_no_kind_of_network_is_larger_or_slower_than_an_lstm(
    kind: dict[str, Value], budget: str
) -> None:
    def chosen(**options: Value) -> ModelConfig:
        return choose({"time": budget, **options}, Facts(10**6, 10**6, 80, "cpu", 4e10))[0].model

    lstm, other = chosen(), chosen(**kind)
    assert other.hidden <= lstm.hidden
    assert operations(other, 80) <= operations(lstm, 80) or other.hidden == 64
    if other.hidden < lstm.hidden:  # and no smaller than it has to be
        larger = chosen(**kind, hidden=2 * other.hidden)
        assert operations(larger, 80) > operations(lstm, 80)
    if kind in ({}, {"cell": "rnn"}, {"cell": "gru"}):
        assert other.hidden == lstm.hidden


@pytest.mark.parametrize("kind", [{}, {"cell": "gru"}, {"model": "transformer"}, {"model": "dilated"}], ids=str)
def test_a_time_budget_is_expected_to_buy_what_a_network_of_this_kind_learns_in_it(kind: dict[str, Value]) -> None:
    facts = Facts(10**6, 10**6, 80, "cpu", 1e11)

    def chosen(**options: Value) -> Config:
        return choose({"hidden": 128, **kind, **options}, facts)[0]

    timed = chosen(time="10m")
    flop = operations(timed.model, 80) * architecture_of(timed.model).slowness * timed.train.batch * timed.train.bptt
    assert timed.optim == chosen(steps=round(600 * facts.speed / flop)).optim


PROZESS = Facts(460_000, 460_000, 80, "cpu", 2e11)
NETWORK = {"cell", "layers", "hidden", "embedding", "forget_bias", "dropout_input", "dropout_between", "dropout_output"}


@pytest.mark.parametrize("name", ["josef-k", "josef-k-2017"])
def test_the_presets_are_the_lectures_network(name: str) -> None:
    josef = preset(name)
    assert check_train(josef.options) == josef.options
    model = choose({**josef.options, "epochs": 1}, PROZESS)[0].model
    assert (model.cell, model.layers, model.hidden, model.embedding, model.forget_bias) == ("lstm", 2, 512, 0, 1.0)
    assert (model.dropout_input, model.dropout_between, model.dropout_output) == (0, 0.5, 0)
    departures = " ".join(josef.departures)
    assert "state is carried" in departures
    assert "fresh dropout mask" in departures


def test_the_preset_leaves_all_but_the_network_to_the_defaults() -> None:
    josef = preset("josef-k").options
    assert josef.keys() == NETWORK
    ours, plain = (choose({**given, "hidden": 512, "steps": 900}, PROZESS)[0] for given in (josef, {}))
    assert (ours.optim, ours.train) == (plain.optim, plain.train)


def test_the_preset_of_2017_is_the_lectures_recipe_too() -> None:
    config, reasons = choose({**preset("josef-k-2017").options, "epochs": 1}, PROZESS)
    optim, train = config.optim, config.train
    assert (optim.optimizer, optim.lr, optim.weight_decay) == ("adamw", 0.001, 0)  # Adam
    assert (optim.decay, optim.warmup, optim.average) == ("none", 0, 0)
    assert (train.batch, train.bptt, train.shuffle, train.drop_state) == (64, 100, 0, 0)
    assert reasons.keys() == {"patience"}


@PROFILE
@given(st.floats(0.01, 1000), st.floats(1, 1.05))
def test_regularisation_grows_smoothly_with_the_passes(passes: float, more: float) -> None:
    """A run that is five per cent longer is regularised nearly alike, and never less."""

    def chosen(epochs: float) -> tuple[float, float]:
        facts = Facts(10**6, 10**6, 80, "cpu", 2e11)
        config = choose({"steps": round(epochs * 1000), "batch": 10, "bptt": 100}, facts)[0]
        return config.model.dropout_between, config.optim.weight_decay

    fewer, further = chosen(1 + passes), chosen((1 + passes) * more)
    assert 0 <= further[0] - fewer[0] <= 0.02
    assert 0 <= further[1] - fewer[1] <= 0.005


KINDS = [*(("cell", name) for name in CELLS), *(("model", name) for name in MODELS if name != "recurrent")]


@pytest.mark.parametrize(("option", "name"), KINDS)
def test_dropout_is_chosen_for_networks_that_it_helps_and_weight_decay_for_all(option: str, name: str) -> None:
    config, reasons = choose({option: name, "epochs": 30}, Facts(140_000, 140_000, 80, "cpu", 2e11))
    helped = name in ("lstm", "gru")
    assert {bool(config.flat()[place]) for place in DROPOUTS} == {helped}
    assert all(("does not help" in reasons[place]) != helped for place in DROPOUTS)
    assert config.optim.weight_decay > 0


@PROFILE
@given(st.integers(10**5, 10**8), st.integers(1, 10**6), st.sampled_from([4, 16, 64]), st.floats(0.001, 0.2))
def test_weights_keep_for_nearly_half_a_pass_what_they_learned(
    tokens: int, steps: int, batch: int, rate: float
) -> None:
    """Decay alone takes them to 1/e in 0.45 passes at the soonest; where that is no matter, passes alone decide."""

    def decay(length: int) -> float:
        options: dict[str, Value] = {"steps": max(1, steps * length // tokens), "batch": batch, "bptt": 64, "lr": rate}
        return choose(options, Facts(length, length, 80, "cpu", 2e11))[0].optim.weight_decay

    chosen, a_pass = decay(tokens), tokens / (batch * 64)
    assert chosen <= 1.06 / (0.45 * rate * a_pass)  # of two digits
    if chosen < 0.94 / (0.45 * rate * a_pass) and steps * 10**5 // tokens > 100:
        assert chosen == pytest.approx(decay(10**5), rel=0.05)


@pytest.mark.parametrize("name", ["", "josef", "Josef-K"])
def test_an_unknown_preset_is_refused_with_those_that_exist(name: str) -> None:
    assert (dict(preset(None).options), preset(None).departures) == ({}, ())
    with pytest.raises(ConfigError, match=rf"--preset must be one of {', '.join(PRESETS)}, not '{name}'"):
        preset(name)


@pytest.mark.parametrize(("length", "pieces"), [(2, 100), (25_000, 100), (25_250, 101), (250_000, 1000), (10**6, 4000)])
def test_sentencepiece_gets_what_it_needs_and_more_for_a_longer_text(length: int, pieces: int) -> None:
    """Bytes, unknown, own characters, and a piece for every 250 characters, within bounds."""
    text = ("ab" * (length // 2))[:length]
    asked: dict[str, Value] = {"tokenizer": "sentencepiece"}
    assert choose_vocabulary(asked, text) == {**asked, "vocab_size": 257 + 2 + pieces}
    assert choose_vocabulary({**asked, "vocab_size": 777}, text) == {**asked, "vocab_size": 777}
    assert choose_vocabulary({"tokenizer": "char"}, text) == {"tokenizer": "char"}
    assert check_train(choose_vocabulary(asked, text))["vocab_size"] == 257 + 2 + pieces

"""Options: each is refused outside its range, with its flag and its range; what is inside comes back unchanged."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import Tries

from charlm.config import (
    EVAL_OPTIONS,
    SAMPLE_OPTIONS,
    TRAIN_OPTIONS,
    TRAIN_SECTIONS,
    Config,
    ModelConfig,
    check_eval,
    check_sample,
    check_shares,
    check_train,
    merge,
    options_of,
    read_toml,
    val_share,
)
from charlm.errors import ConfigError, StorageError
from charlm.options import FORMS, Option, Value, check, every, flag, parse, seconds

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
COMMANDS = {"train": TRAIN_OPTIONS, "sample": SAMPLE_OPTIONS, "eval": EVAL_OPTIONS}
OPTIONS = [(command, name) for command, options in COMMANDS.items() for name in options]
BAD_FORMS = {
    "duration": ("", "0s", "0.0h", "10", "10 m", "-1m", "1d", "1e3s", "m", "10001h", "9" * 5000 + "s", "٣m", "1.s"),
    "every": ("", "0", "0s", "-1", "1.5", "ten", "10d", "9" * 5000, "²", "٣", "1 s"),
    "device": ("", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "CPU", "cpu:0", "cuda:٣"),
    "encoding": ("", " ", "hex", "rot13", "zlib", "cp1525", "utf-8 ", "ä", "utf-8\0", "..", "../x", "a" * 61),
}
GOOD_FORMS = {
    "duration": ("1s", "0.5s", "90s", "10m", "1.5h", "10000h"),
    "every": ("1", "100", "60s", "0.5m", "1h"),
    "device": ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"),
    "encoding": ("utf-8", "cp1252", "koi8-r", "utf-16", "iso8859-1"),
}


def needs(name: str) -> dict[str, object]:
    """What must be given beside an option for it to make sense."""
    beside: dict[str, dict[str, object]] = {
        "vocab_size": {"tokenizer": "sentencepiece"},
        "sentencepiece": {"tokenizer": "sentencepiece"},
        "context": {"model": "window"},
        "heads": {"model": "transformer"},
        "radius": {"model": "echo"},
    }
    return beside.get(name, {})


def accepted(command: str, name: str, value: object) -> Any:
    given = {**needs(name), name: value}
    if command == "train":
        return check_train(given)["dropout_input" if name == "dropout" else name]
    return getattr(check_sample(given) if command == "sample" else check_eval(given), name)


def outside(spec: Option) -> list[object]:
    """Values of every wrong kind, and those just outside the bounds."""
    wrong: list[object] = [None, [], (), {}, b"1", 1j]
    if spec.type is bool:
        return [*wrong, 0, 1, 1.0, "", "true", "1"]
    wrong += [True, False]
    if spec.type is str:
        shaped = [*BAD_FORMS[spec.form], "\n" + GOOD_FORMS[spec.form][0]] if spec.form else []
        chosen = ["", "nonsense", spec.choices[0].upper(), spec.choices[0] + " "] if spec.choices else []
        numbers = [] if spec.loose else [1, 0.5, math.nan]
        return [*wrong, *numbers, *shaped, *chosen]
    wrong += [math.nan, math.inf, -math.inf, "", "1", "one", 10**400, -(10**400)]
    if spec.type is int:
        return [*wrong, spec.low - 1, spec.high + 1, float(spec.low), 1.5, -0.5]
    below = spec.low if spec.above else math.nextafter(spec.low, -math.inf)
    return [*wrong, below, math.nextafter(spec.high, math.inf), int(spec.high) + 1, int(spec.low) - 1]


@pytest.mark.fault(41)
@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_every_value_outside_its_range_is_refused_with_flag_and_range(command: str, name: str, tries: Tries) -> None:
    spec = COMMANDS[command][name]
    for value in outside(spec):
        if (command, name, value) == ("sample", "seed", None):
            continue  # a fresh one
        with pytest.raises(ConfigError) as raised:
            accepted(command, name, value)
        assert f"{flag(name)} must be {spec.range}, not " in str(raised.value)
        tries.survived()


TYPED = ["0", "-1", "1", "-0", "0.5", "9" * 30, "-" + "9" * 30, "1e400", "nan", "-nan", "inf", "-inf", "text", "", " "]


def within(text: str, spec: Option) -> bool:
    """Whether a number that a user typed lies in the option's range, in exact arithmetic."""
    if not re.fullmatch(r"-?[0-9]+" if spec.type is int else r"-?[0-9]+(\.[0-9]+)?", text):
        return False
    number = Fraction(text)
    return (spec.low < number if spec.above else spec.low <= number) and number <= spec.high


@pytest.mark.fault(41)
@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_what_a_user_types_is_taken_in_the_range_and_refused_out_of_it(command: str, name: str, tries: Tries) -> None:
    spec = COMMANDS[command][name]
    for text in TYPED:
        if spec.type is bool:
            wanted = False  # it is given without a value
        elif spec.type is str:
            shaped = FORMS[spec.form].pattern.fullmatch(text) and text not in ("0", "9" * 30) if spec.form else True
            shaped = shaped and spec.form != "encoding"  # none of these is one
            wanted = text in spec.choices if spec.choices else bool(shaped)
        else:
            wanted = within(text, spec)
        if wanted and (command, name) not in (("train", "val"), ("train", "test")):  # their range is tested below
            accepted(command, name, parse(text, spec))
        elif not wanted:
            with pytest.raises(ConfigError) as raised:
                check(name, parse(text, spec), spec)
            assert f"{flag(name)} must be {spec.range}, not " in str(raised.value)
        tries.survived()


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_the_bounds_themselves_are_allowed(command: str, name: str) -> None:
    spec = COMMANDS[command][name]
    inside: tuple[Value, ...] = spec.choices or GOOD_FORMS.get(spec.form, ())
    if spec.type is bool:
        inside = (True, False)
    elif spec.type is not str:
        lowest = math.nextafter(spec.low, math.inf) if spec.above else spec.low
        inside = (lowest, spec.high, *([int(spec.high)] if spec.type is float else []))
    for value in inside or ("anything.txt",):
        result = accepted(command, name, value)
        assert result == value
        assert type(result) is spec.type


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_every_option_is_described(command: str, name: str) -> None:
    spec = COMMANDS[command][name]
    assert len(spec.help) > 8
    assert spec.help == spec.help.strip().removesuffix(".")
    assert bool(spec.metavar) == (spec.type is not bool)
    assert flag(name) == "--" + name.replace("_", "-")
    assert not spec.form or FORMS[spec.form].words == spec.range


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layers", "an integer from 1 to 64"),
        ("lr", "a number above 0, at most 100"),
        ("dropout", "a number from 0 to 0.99"),
        ("cell", "one of lstm, gru, rnn, leaky, mingru"),
        ("val", "text"),
    ],
)
def test_ranges_in_words(name: str, words: str) -> None:
    assert TRAIN_OPTIONS[name].range == words


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nonsense", "--help list them"),
        ("layer", "--layers"),
        ("hiden", "--hidden"),
        ("flat", "--help"),
        ("", "--help"),
    ],
)
def test_an_unknown_option_is_refused_with_the_one_that_may_be_meant(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"there is no option --{name};.*{hint}"):
        check_train({name: 1})
    with pytest.raises(ConfigError, match=r"there is no option --"):
        check_sample({name: 1})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cp-1252", "cp1252"),
        ("windows1252", "cp1252"),
        ("utf9", "utf-8"),
        ("ANSI", "cp1252"),
        ("koi8", "koi8-r"),
        ("big-5", "big5"),
    ],
)
def test_an_unknown_encoding_is_refused_with_those_that_may_be_meant(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"--encoding must be the name of .*did you mean .*\b{meant}\b"):
        check_train({"encoding": name})


@pytest.mark.parametrize("name", ["CP1252", "windows-1252", "windows_1252", "1252"])
def test_an_encoding_is_recorded_by_one_name(name: str) -> None:
    assert check_train({"encoding": name}) == {"encoding": "cp1252"}


def test_a_configuration_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "notepad.toml"
    path.write_bytes(codecs.BOM_UTF8 + b"hidden = 32\r\nencoding = 'latin1'\r\n")
    assert read_toml(path) == {"hidden": 32, "encoding": "latin1"}


def values(spec: Option) -> st.SearchStrategy[Value]:
    """Everything that the specification allows."""
    if spec.type is bool:
        return st.booleans()
    if spec.type is int:
        return st.integers(int(spec.low), int(spec.high))
    if spec.type is float:
        return st.floats(spec.low, spec.high, exclude_min=spec.above)
    return st.sampled_from(spec.choices or GOOD_FORMS[spec.form]) if spec.choices or spec.form else st.text()


COMPLETE = st.fixed_dictionaries(
    {}, optional={name: values(spec) for name, spec in options_of(*TRAIN_SECTIONS).items()}
)


@PROFILE
@given(COMPLETE)
def test_a_configuration_comes_back_from_its_table(given_values: Mapping[str, Value]) -> None:
    config = Config.checked(given_values)
    table = config.flat()
    assert table == {**Config().flat(), **given_values}
    assert list(table) == list(options_of(*TRAIN_SECTIONS))
    assert Config.checked(json.loads(json.dumps(table))) == config


def test_a_table_with_a_bad_value_is_refused() -> None:
    for name, value in {"hidden": 0, "lr": math.nan, "cell": "x", "layers": "2", "time": "soon", "seed": None}.items():
        with pytest.raises(ConfigError, match=flag(name)):
            Config.checked({**Config().flat(), name: value})


def test_configurations_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        ModelConfig().hidden = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ({"dropout": 0.5}, (0.5, 0.5, 0.5)),
        ({"dropout": 0}, (0.0, 0.0, 0.0)),
        ({"dropout": 0.5, "dropout_between": 0.1}, (0.5, 0.1, 0.5)),
        ({"dropout_output": 0.2, "dropout": 0.5, "dropout_input": 0.0}, (0.0, 0.5, 0.2)),
    ],
)
def test_dropout_stands_for_all_three_and_gives_way_to_each(
    given_values: dict[str, object], expected: tuple[float, ...]
) -> None:
    names = ("dropout_input", "dropout_between", "dropout_output")
    assert check_train(given_values) == dict(zip(names, expected, strict=True))


def test_lengths_exclude_each_other() -> None:
    lengths: dict[str, object] = {"epochs": 2, "steps": 3, "time": "10m"}
    for name, value in lengths.items():
        assert check_train({name: value}) == {name: value}
        for other in lengths.keys() - {name}:
            with pytest.raises(ConfigError, match=rf"{flag(name)}.* cannot be combined") as raised:
                check_train({name: value, other: lengths[other]})
            assert flag(other) in str(raised.value)
    with pytest.raises(ConfigError, match="--epochs and --steps and --time cannot be combined"):
        check_train(lengths)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_a_forget_bias_needs_a_forget_gate(cell: str) -> None:
    with pytest.raises(ConfigError, match=rf"--forget-bias applies only to --cell lstm, not to {cell}"):
        check_train({"forget_bias": 1.0, "cell": cell})
    assert check_train({"forget_bias": 2, "cell": "lstm"}) == {"forget_bias": 2.0, "cell": "lstm"}
    assert check_train({"forget_bias": 2.0}) == {"forget_bias": 2.0}


@pytest.mark.parametrize("tokenizer", [{}, {"tokenizer": "char"}, {"tokenizer": "byte"}])
def test_a_vocabulary_size_is_for_sentencepiece(tokenizer: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--vocab-size applies only to --tokenizer sentencepiece"):
        check_train({"vocab_size": 300, **tokenizer})


@pytest.mark.parametrize(
    ("val", "share"),
    [("0", 0.0), ("0.1", 0.1), ("1e-1", 0.1), ("0.9", 0.9), ("later.txt", None), ("./0.1", None), ("0.1.txt", None)],
)
def test_what_is_held_out_is_a_share_or_a_file(val: str, share: float | None) -> None:
    assert val_share(val) == share
    assert check_shares("0", val) == (0.0, share)
    assert check_train({"val": val}) == {"val": val}
    assert check_train({"test": val}) == {"test": val}


@pytest.mark.fault(41)
@pytest.mark.parametrize("val", ["0.91", "1", "-0.1", "nan", "inf", "10"])
def test_a_share_beyond_its_range_is_refused(val: str) -> None:
    for name in ("val", "test"):
        with pytest.raises(ConfigError, match=rf"--{name} must be a fraction from 0 to 0\.9 or a file"):
            check_train({name: val})


def test_validation_and_test_leave_a_tenth_to_train_on() -> None:
    assert check_shares("0.45", "0.45") == (0.45, 0.45)
    with pytest.raises(ConfigError, match=r"--val 0\.5 and --test 0\.41 hold out too much"):
        check_train({"val": "0.5", "test": "0.41"})


def test_durations_and_intervals() -> None:
    assert [seconds(text) for text in ("90s", "10m", "2h", "0.5m", "1.25h")] == [90, 600, 7200, 30, 4500]
    assert [every(text) for text in ("1", "250", "90s", "2m")] == [(1, 0), (250, 0), (0, 90), (0, 120)]
    for text in ("soon", "10", "10 m", "-1m"):
        with pytest.raises(ValueError, match=text):
            seconds(text)


def test_a_file_gives_options_by_name_with_either_stroke(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'cell = "gru"\nvocab-size = 300\ntokenizer = "sentencepiece"\nweight_decay = 0.5\n'
        'val = 0.25\ncheckpoint-every = 100\nname = "mine"\n',
        encoding="utf-8",
    )
    table = read_toml(path)
    assert table.pop("name") == "mine"
    assert check_train(table) == {
        "cell": "gru",
        "vocab_size": 300,
        "tokenizer": "sentencepiece",
        "weight_decay": 0.5,
        "val": "0.25",
        "checkpoint_every": "100",
    }
    path.write_text('val = 0\ncheckpoint_every = "30s"\n', encoding="utf-8")
    assert check_train(read_toml(path)) == {"val": "0", "checkpoint_every": "30s"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("val", "true"),
        ("checkpoint-every", "false"),
        ("val", "nan"),
        ("hidden", "1.5"),
        ("layers", "{}"),
        ("lr", "1979-05-27"),
        ("model.hidden", "2"),
    ],
)
def test_what_a_file_gives_is_checked_like_any_option(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"{name} = {value}", encoding="utf-8")
    with pytest.raises(ConfigError, match="--" + name.removesuffix(".hidden")):
        check_train(read_toml(path))


@pytest.mark.parametrize(
    "content",
    [b"hidden: 3", b"hidden =", b"a = 1\na = 2", b"\xff\xfe", b"\0", b"a = " + b"[" * 9999, b"a = " + b"9" * 9999],
)
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{path} is not TOML"):
        read_toml(path)


def test_an_option_given_with_both_strokes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("hidden = 3\nweight-decay = 0.5\nweight_decay = 0.1\n")
    with pytest.raises(ConfigError, match="weight-decay and weight_decay are the same option"):
        read_toml(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(StorageError, match=f"cannot read {path}"):
            read_toml(path)


def test_texts_that_look_like_numbers_or_are_paths_may_be_given_as_such() -> None:
    given = check_train({"val": 0.2, "checkpoint_every": 100})
    assert given == {"val": "0.2", "checkpoint_every": "100"}
    assert check_train({"val": Path("later.txt")}) == {"val": "later.txt"}


@pytest.mark.parametrize("wrong", [{"cell": "foo"}, {"tokenizer": "foo"}])
def test_a_mistyped_choice_beside_a_file_is_refused_like_any_other(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"must be one of .*, not 'foo'"):
        check_train(merge({"hidden": 8}, wrong))
    with pytest.raises(ConfigError, match=r"must be one of .*, not 'foo'"):
        check_train({**wrong, "forget_bias": 1.0, "vocab_size": 300, "dropout": 0.1})


def test_the_kind_of_sentencepiece_may_stand_anywhere() -> None:
    """It has no effect there, and files may list every option."""
    assert check_train({"sentencepiece": "bpe"}) == {"sentencepiece": "bpe"}

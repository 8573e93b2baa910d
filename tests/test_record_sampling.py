"""Whole records: each once, new ones, the likeliest first; fresh seeds, and where a sample begins and ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from oracles import memoryless_decoder, scripted_decoder
from processes import PATIENCE, started, terminal

import charlm
from charlm.cli.main import run
from charlm.config import SampleConfig, check_sample
from charlm.errors import ConfigError
from charlm.generation.choice import TRIES, Choice, bits_per_character
from charlm.generation.decoder import Decoder
from charlm.generation.generate import Piece, collect, completed, generate
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer

NAMES: Final = sorted({a + b + c for a in ("a", "be", "ma", "lo") for b in ("n", "r", "ss") for c in ("", "a", "en")})
LEARN: Final[dict[str, Any]] = {"steps": 120, "hidden": 24, "embedding": 8, "layers": 1, "batch": 16, "bptt": 16}
AB: Final = CharTokenizer.train("\nab")
COIN: Final = memoryless_decoder([0.4, 0.3, 0.3])  # a line end, a, b


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of lines, of paragraphs, and of one text."""
    folder = tmp_path_factory.mktemp("sampling")
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (folder / "pairs.txt").write_text("".join(f"{name}\n{name}\n\n" for name in NAMES))
    (folder / "lines.txt").write_text("".join(f"{n} is a number\n" for n in range(300)))
    for corpus, kind in (("names", "line"), ("pairs", "paragraph"), ("lines", "none")):
        options: dict[str, Any] = {**LEARN, "records": kind, "threads": 1, "precision": "fp32", "val": 0}
        charlm.train(folder / f"{corpus}.txt", checkpoints=folder / "checkpoints", progress=False, **options)
    return folder


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Sample = Callable[..., Done]


@pytest.fixture
def sample(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Sample:
    """`charlm sample`, in that folder, with the decoder that needs no compiler."""

    def command(*arguments: str, cwd: Path = place) -> Done:
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        return Done(run(["sample", *arguments, "--engine", "numpy"]), *capfd.readouterr())

    return command


# seeds


def test_each_call_without_a_seed_has_its_own_which_writes_the_same_again(sample: Sample) -> None:
    first, second = (sample("lines", "--length", "40") for _ in range(2))
    assert first.stdout != second.stdout
    (seed,) = re.findall(r"^seed (\d+); the same again: --seed \1$", first.stderr, re.MULTILINE)
    assert int(seed) < 10**9
    again = sample("lines", "--length", "40", "--seed", seed)
    assert (again.stdout, again.stderr) == (first.stdout, "")
    quiet = sample("lines", "--length", "40", "--json", "-q")
    found = json.loads(quiet.stdout)
    assert quiet.stderr == ""
    assert sample("lines", "--length", "40", "--seed", str(found["seed"])).stdout in found["samples"]
    assert sample("lines", "--length", "4", "--temperature", "0").stderr == ""  # it has no effect


def test_python_has_fresh_seeds_too(place: Path) -> None:
    model = charlm.load(place / "checkpoints/lines")
    texts = {model.sample(length=40, seed=seed) for seed in (None, None)} | {model.sample(length=40)}
    assert len(texts) == 3
    assert model.sample(length=40, seed=5) == model.sample(length=40, seed=5)
    for wrong in (-1, 2**63, "x"):
        with pytest.raises(ConfigError, match="--seed must be"):
            model.sample(seed=wrong)  # type: ignore[arg-type]


def test_what_is_given_stays_and_what_is_left_out_is_filled_in() -> None:
    given = check_sample({"length": 0, "seed": 0})
    assert completed(given, 9) == given
    filled = completed(check_sample({"seed": None}), 9)
    assert filled.length == 9
    assert len({completed(SampleConfig()).seed for _ in range(9)}) > 1


# where a sample begins


def alternating(tokenizer: CharTokenizer | ByteTokenizer, script: str) -> Decoder:
    return scripted_decoder(tokenizer.encode(script).ids.tolist(), tokenizer.size)


def begun(decoder: Decoder, tokenizer: Any, **options: Any) -> str:
    return collect(generate(decoder, tokenizer, SampleConfig(length=6, seed=0), **options), 1)[0]


def test_without_a_prime_a_line_end_is_read_where_there_are_lines() -> None:
    """Reading one makes no other difference to the coin, which knows line ends; a script without any has none read."""
    assert begun(COIN, AB) == begun(COIN, AB, prime="") == begun(COIN, AB, prime="\n")
    tokenizer = CharTokenizer.train("xyz")
    assert begun(alternating(tokenizer, "xyz"), tokenizer) == "xyzxyz"
    never = memoryless_decoder([1e-6, 0.5, 0.5])
    assert begun(never, AB) == begun(never, AB, prime="")


def test_samples_of_a_text_begin_where_its_lines_do(place: Path, sample: Sample) -> None:
    model = charlm.load(place / "checkpoints/lines")
    asked: dict[str, Any] = {"length": 2, "count": 300, "temperature": 0.5, "seed": 1}
    share = {
        prime: np.mean([text[0].isdigit() for text in model.samples(prime=prime, **asked)]) for prime in (None, "")
    }
    assert share[None] > 0.9
    assert share[""] < 0.7
    assert model.samples(**asked) != model.samples(prime="", **asked)
    command = sample("lines", "--length", "20", "--seed", "3", "--prime", "")
    assert command.stdout == model.sample(prime="", length=20, seed=3)
    assert sample("lines", "--length", "20", "--seed", "3").stdout == model.sample(length=20, seed=3)


def test_records_begin_with_the_start_input_alone(place: Path) -> None:
    model = charlm.load(place / "checkpoints/names")
    assert model.samples(count=9, seed=1) == model.samples(count=9, seed=1, prime="")


# which records


def sampler(decoder: Decoder, seed: int) -> Callable[[int, int], Iterator[Piece]]:
    def sampled(first: int, count: int) -> Iterator[Piece]:
        config = SampleConfig(length=100, seed=seed, count=count)
        return generate(decoder, AB, config, prime="", stops=("\n",), first=first)

    return sampled


def test_samples_from_a_number_on_are_those_of_that_number() -> None:
    sampled = sampler(COIN, 7)
    whole = collect(sampled(0, 40), 40)
    assert list(collect(sampled(13, 9), 9)) == list(whole[13:22])


def test_records_are_taken_in_the_order_of_their_numbers() -> None:
    """Against a list comprehension over all samples; the coin often writes nothing, or the same."""
    sampled = sampler(COIN, 3)
    every = [text for text in collect(sampled(0, 400), 400) if text]
    assert [p.text for p in Choice().take(sampled, 20, "")] == every[:20]
    assert [p.text for p in Choice(unique=True).take(sampled, 20, "")] == list(dict.fromkeys(every))[:20]
    known = frozenset({"a", "b", "ab"})
    new = [text for text in every if text not in known]
    taken = list(Choice(known=known).take(sampled, 20, ""))
    assert [p.text for p in taken] == new[:20]
    assert [p.sample for p in taken] == list(range(20))
    assert all(p.done and p.stopped for p in taken)


def test_tries_end(sample: Sample) -> None:
    """Two records that differ are all that there are: the third is looked for, and then said to be missing."""
    tried: list[int] = []

    def sampled(first: int, count: int) -> Iterator[Piece]:
        for k in range(count):
            tried.append(first + k)
            yield Piece(k, "ab"[k % 2], done=True, stopped=True)

    assert [piece.text for piece in Choice(unique=True).take(sampled, 3, "")] == ["a", "b"]
    assert tried == list(range(3 * TRIES))
    done = sample("names", "--temperature", "0", "--unique", "--count", "3")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "found 1 of 3 records in 150 samples; a higher --temperature finds more" in done.stderr


def test_a_record_that_does_not_end_is_not_taken(place: Path, sample: Sample) -> None:
    short = charlm.load(place / "checkpoints/names").samples(count=30, length=3, unique=True, seed=1)
    assert short
    assert max(map(len, short)) <= 3 < max(map(len, NAMES))
    cut = sample("names", "--count", "9", "--length", "1", "--seed", "1")
    assert "9 records were cut off after 1 characters (--length)" in cut.stderr


def test_bits_per_character_of_records_are_those_of_the_score(place: Path) -> None:
    """The decoder beside the training network, on records of all lengths and with an unseen character."""
    for name, end in (("names", "\n"), ("pairs", "\x03")):
        model = charlm.load(place / "checkpoints" / name, threads=1)
        records = ["ann", "", "b", "massen" * 5, "\u2603a"] * 20
        bits = bits_per_character(model._decoder("numpy", "fp32", 1), model.tokenizer, records, end)
        for record, found in zip(records[:5], bits[:5], strict=True):
            text = record + end
            expected = (
                charlm.load(place / "checkpoints" / name, records="none").nats(text).sum() / np.log(2) / len(text)
            )
            assert found == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(bits.reshape(20, 5), np.tile(bits[:5], (20, 1)), rtol=1e-5)
    assert len(bits_per_character(model._decoder("numpy", "fp32", 1), model.tokenizer, [], "\n")) == 0


def test_the_command_prints_new_records_once_and_ranked(place: Path, sample: Sample) -> None:
    options = ("--count", "12", "--unique", "--novel", "--seed", "4", "--temperature", "1.5")
    plain = sample("names", *options)
    written = plain.stdout.splitlines()
    assert len(set(written)) == len(written) == 12
    assert not set(written) & set(NAMES)
    ranked = json.loads(sample("names", *options, "--rank", "--novelty", "--json").stdout)
    bits = ranked["bits_per_character"]
    assert sorted(ranked["samples"]) == sorted(written)
    assert bits == sorted(bits)
    assert ranked["new_records"] == 12
    model = charlm.load(place / "checkpoints/names")
    assert bits == pytest.approx([model.score(name).bits_per_character for name in ranked["samples"]], rel=1e-4)
    mine = model.samples(count=12, unique=True, novel=True, rank=True, seed=4, temperature=1.5)
    assert list(mine) == ranked["samples"]
    shown = sample("names", *options, "--rank")
    assert shown.stdout.splitlines() == ranked["samples"]
    assert f"bits per character: {bits[0]:.3f} (the first record) to {bits[-1]:.3f} (the last)" in shown.stderr


def test_the_prime_belongs_to_the_record(sample: Sample) -> None:
    options = ("--prime", "ma", "--count", "5", "--unique", "--seed", "1")
    written = sample("names", *options).stdout.splitlines()
    assert all(name.startswith("ma") for name in written)
    bare = sample("names", *options, "--no-echo").stdout.splitlines()
    assert written == ["ma" + rest for rest in bare]
    new = sample("names", *options, "--novel", "--temperature", "2").stdout.splitlines()
    assert not set(new) & set(NAMES)


def test_the_share_of_new_records_is_reported(sample: Sample) -> None:
    done = sample("names", "--count", "50", "--novelty", "--seed", "2", "--temperature", "1.3")
    new = [name for name in done.stdout.splitlines() if name not in NAMES]
    assert 0 < len(new) < 50
    assert done.stderr == f"{2 * len(new)} % of 50 records are not in the training text.\n"


@pytest.mark.parametrize("option", ["--unique", "--novel", "--rank"])
def test_a_model_of_one_text_has_no_records_to_choose(option: str, sample: Sample) -> None:
    done = sample("lines", option)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"{option} chooses among whole records" in done.stderr
    stopped = sample("names", option, "--stop", "a")
    assert (stopped.returncode, stopped.stdout) == (2, "")
    assert f"{option} and --stop cannot be combined" in stopped.stderr


def test_new_records_need_the_training_text(place: Path, tmp_path: Path, sample: Sample) -> None:
    model = tmp_path / "alone.safetensors"
    model.write_bytes((place / "checkpoints/names/last.safetensors").read_bytes())
    (place / "names.txt").rename(tmp_path / "elsewhere.txt")
    try:
        missing = sample(str(model), "--novel", cwd=tmp_path)
        assert (missing.returncode, missing.stdout) == (3, "")
        found = sample(str(model), "--novel", "--corpus", "elsewhere.txt", "--seed", "1", cwd=tmp_path)
        assert found.returncode == 0, found.stderr
    finally:
        (tmp_path / "elsewhere.txt").rename(place / "names.txt")


# what is printed


def test_paragraphs_are_parted_by_a_blank_line(sample: Sample) -> None:
    one = sample("pairs", "--seed", "1").stdout
    three = sample("pairs", "--seed", "1", "--count", "3").stdout
    assert one.endswith("\n")
    assert not one.endswith("\n\n")
    assert three.startswith(one + "\n")
    texts = json.loads(sample("pairs", "--seed", "1", "--count", "3", "--json").stdout)["samples"]
    assert three == "\n\n".join(texts) + "\n"


def test_a_pipe_gets_the_samples_and_nothing_else(sample: Sample) -> None:
    options = ("--count", "3", "--seed", "1", "--length", "33")
    texts = json.loads(sample("lines", *options, "--json").stdout)["samples"]
    assert sample("lines", *options).stdout == "\0".join(texts)


@pytest.mark.parametrize(("stop", "ends"), [("", "number\r\n"), ("ber", "num\r\n")])
def test_on_a_terminal_the_prompt_has_a_line_of_its_own(place: Path, stop: str, ends: str) -> None:
    """Whether or not the sample ends with a line end: there is one, and one only."""
    arguments = (
        ["lines", "--prime", "7 is a number\n", "--length", "0"] if not stop else ["lines", "--prime", "7 is a num"]
    )
    arguments += ["--temperature", "0", "--stop", stop] if stop else []
    with terminal() as screen, started("sample", *arguments, cwd=place, stdout=screen.side) as process:
        os.close(screen.side)
        shown = screen.read_until(lambda _: False)
        assert process.wait(PATIENCE) == 0
    assert shown.endswith(ends)

"""docs/lectures.md and its scripts: the page's commands are real, its pictures are there, its experiments compute what
they say."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from bench.lectures import clipping, dropout, sparsity
from bench.lectures.__main__ import PAGE, PICTURES, Session, blocks, commands, filled, trimmed
from charlm.cli.main import run
from charlm.config import ModelConfig
from charlm.models.network import Network, initialise
from charlm.models.ngram import Counts

ROOT = PAGE.parents[1]
TEXT = PAGE.read_text()
COMMANDS = [words for block in blocks(TEXT) for words in commands(block)]
HOSTS = r"https?://(?:www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org)/"


def test_a_block_is_read_as_a_shell_reads_it() -> None:
    block = "charlm eval a \\\n  --exact  # slow\n\n# nothing\ncharlm score --text 'b c'\n"
    assert commands(block) == [["charlm", "eval", "a", "--exact"], ["charlm", "score", "--text", "b c"]]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_each_command_of_the_page_is_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an empty folder each is refused for want of a file, none for its options."""
    name, *arguments = words
    if name == "python":
        assert words[1] == "-m"
        assert ROOT.joinpath(*words[2].split(".")).with_suffix(".py").exists()
        return
    assert name == "charlm"
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "data":
        assert run(arguments) == 0
        return
    assert run([f"missing/{word}" if word.endswith(".svg") else word for word in arguments]) > 0
    error = capsys.readouterr().err
    assert re.search(r"missing|python-docs|checkpoints", error), error


def test_each_picture_of_the_page_is_there_and_described() -> None:
    shown = re.findall(r"!\[(.*?)\]\((.*?)\)", TEXT)
    assert len({where for _, where in shown}) == len(shown)
    assert {PAGE.parent / where for _, where in shown} == set(PICTURES.iterdir())
    assert all(len(described.split()) > 5 for described, _ in shown)


def test_the_pictures_are_small_and_stand_alone() -> None:
    pictures = [path.read_text() for path in PICTURES.iterdir()]
    assert sum(map(len, pictures)) < 500_000
    for picture in pictures:
        assert not re.sub(HOSTS, "", " ".join(re.findall(r"https?://\S+?/", picture))).strip()
        ElementTree.fromstring(picture)  # noqa: S314 - our own picture


def test_each_command_that_draws_has_its_picture_on_the_page() -> None:
    drawn = [words[words.index("-o") + 1] for words in COMMANDS if "-o" in words]
    assert drawn == re.findall(r"\(lectures/(.*?)\)", TEXT)


def test_the_page_is_filled_with_what_the_last_command_of_a_block_prints(tmp_path: Path) -> None:
    head, tail = "\n<!-- output: make lectures -->\n```text\n", "```\n<!-- end -->\n"
    before = '```sh\npython -c \'open("n", "a").write("1")\'\npython -c \'print(6 * 7)\'\n```\n'
    page = f"# Title\n\n{before}{head}old\nlines\n{tail}\n{before}\nText.\n"
    assert filled(page, Session(tmp_path / "new")) == page.replace("old\nlines\n", "42\n")
    assert filled(page, Session(tmp_path / "new")) == page.replace("old\nlines\n", "42\n")
    assert (tmp_path / "new" / "n").read_text() == "1"  # nothing is run twice


def test_a_picture_loses_only_digits_of_places_and_indentation() -> None:
    picture = '<path d="M 1.23456 7" transform="scale(0.015625)"/>\n  <use x="-0.12345"/>'
    assert trimmed(picture) == '<path d="M 1.2 7" transform="scale(0.015625)"/>\n<use x="-0.1"/>'


def test_unseen_ngrams_are_those_that_a_search_does_not_find() -> None:
    train, text = "abracadabra abra", "abrakadabra cab!"
    vocabulary = sorted(set(train))
    ids = np.array([vocabulary.index(c) if c in vocabulary else len(vocabulary) + 1 for c in text], dtype=np.int32)
    known = np.array([vocabulary.index(c) for c in train], dtype=np.int32)
    expected = []
    for order in range(1, 6):
        pieces = [text[at : at + order] for at in range(len(text) - order + 1)]
        expected.append(np.mean([piece not in train for piece in pieces]))
    assert list(sparsity.unseen(Counts(known, len(vocabulary), 5), ids)) == pytest.approx(expected)


def small(layers: int = 2) -> tuple[Network, torch.Tensor]:
    network = Network(ModelConfig(cell="lstm", layers=layers, hidden=6, embedding=5), 7)
    initialise(network, seed=3)
    return network, torch.randint(7, (9, 4), generator=torch.Generator().manual_seed(1))


def test_the_textbook_lstm_is_that_of_charlm() -> None:
    network, ids_TB = small()
    (ours, after), (theirs, expected) = (
        model(ids_TB, network.init_state(4)) for model in (dropout.Textbook(network, 0.0, "hc"), network)
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(("recurrent", "forgets"), [("", False), ("h", False), ("hc", True)])
def test_a_memory_of_which_nearly_all_is_dropped_forgets(recurrent: str, forgets: bool) -> None:
    """With all of h and c dropped, what was before the last token makes no difference to what is after it."""
    network, ids_TB = small(layers=1)
    other = ids_TB.clone()
    other[0] = (other[0] + 1) % 7
    model = dropout.Textbook(network, 0.0, "")
    for letter in recurrent:
        getattr(model, f"drop_{letter}").p = 1 - 2**-16
    (_, one), (_, another) = (model(ids, network.init_state(4)) for ids in (ids_TB, other))
    assert torch.equal(one[0][1], another[0][1]) == forgets


def test_an_lstm_learns_to_recall_where_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "LAG", 1)
    assert dropout.trial("and h(t-1)", 0.0, steps=80).right > 2 * dropout.TASK.chance


def test_clipped_descent_lowers_the_loss() -> None:
    found = clipping.descend("tick, tock, " * 200, 1.0, steps=40)
    assert found.losses[-1] < found.losses[0]
    assert len(found.norms) == 40

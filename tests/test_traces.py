"""Gates and states of a network while it reads: those of the network itself, whatever it reads and in any blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspected import write_models
from oracles import networks_by_tokenizer, random_network, sigmoid, synthetic_text

from charlm.config import CELLS, ModelConfig
from charlm.errors import ConfigError, DataError
from charlm.inspection.subject import RecurrentNetwork, check_recurrent, open_network, reading
from charlm.inspection.trace import Block, Held, memories, trace
from charlm.models.network import Network, export_weights, named_weights
from charlm.text.tokenizer import CharTokenizer

TEXT = "so it goes, and 2 and 2 are 4.\nSo it is.\n"
TOKENIZER = CharTokenizer.train("so itgea,nd2r4.\n")


def opened(network: Network, dtype: Any = np.float32) -> RecurrentNetwork:
    return open_network(network.config, export_weights(network), dtype)


def whole(blocks: list[Block], layer: int, kind: str, name: str) -> Any:
    return np.concatenate([getattr(block.layers[layer], kind)[name] for block in blocks])


@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize(("embedding", "skip"), [(6, True), (0, False)])
def test_states_and_outputs_are_those_of_the_network(cell: str, embedding: int, skip: bool) -> None:
    config = ModelConfig(cell=cell, layers=2, hidden=9, embedding=embedding, skip=skip)
    network = random_network(config, TOKENIZER.size, seed=1)
    read = reading(TEXT, TOKENIZER)
    blocks = list(trace(opened(network), read, size=7))
    state = network.init_state(1)
    with torch.no_grad():
        for at, token in enumerate(read.inputs.tolist()):
            logits, state = network(torch.tensor([[token]]), state)
            block = blocks[at // 7]
            for layer, parts in enumerate(state):
                for name, part in zip(CELLS[cell].states, parts, strict=True):
                    np.testing.assert_allclose(block.layers[layer].states[name][at % 7], part.numpy(), atol=2e-5)
            found = block.output[at % 7] @ network.head.weight.numpy().T + network.head.bias.numpy()
            np.testing.assert_allclose(found, logits[0].numpy(), atol=1e-4)


def test_the_gates_of_an_lstm_are_the_textbooks() -> None:
    network = random_network(ModelConfig(cell="lstm", layers=1, hidden=5, embedding=4), TOKENIZER.size, seed=2).double()
    read = reading(TEXT, TOKENIZER)
    blocks = list(trace(opened(network, np.float64), read))
    weights = {name.removeprefix("rnn.0."): weight.detach() for name, weight in named_weights(network).items()}
    h = torch.from_numpy(np.concatenate([np.zeros((1, 1, 5)), whole(blocks, 0, "states", "h")])).squeeze(1)
    x = network.embedding(torch.from_numpy(read.inputs)).detach()
    all_four = x @ weights["weight_ih"].T + weights["bias_ih"] + h[:-1] @ weights["weight_hh"].T + weights["bias_hh"]
    for name, product in zip("ifgo", all_four.chunk(4, 1), strict=True):
        expected = torch.tanh(product) if name == "g" else sigmoid(product)
        np.testing.assert_allclose(whole(blocks, 0, "gates", name)[:, 0], expected.numpy(), atol=1e-6)


def test_the_gates_of_a_gru_are_the_textbooks() -> None:
    network = random_network(ModelConfig(cell="gru", layers=1, hidden=5, embedding=4), TOKENIZER.size, seed=3).double()
    read = reading(TEXT, TOKENIZER)
    blocks = list(trace(opened(network, np.float64), read))
    w = {name.removeprefix("rnn.0."): weight.detach() for name, weight in named_weights(network).items()}
    h = torch.from_numpy(np.concatenate([np.zeros((1, 1, 5)), whole(blocks, 0, "states", "h")])).squeeze(1)[:-1]
    of_x = (network.embedding(torch.from_numpy(read.inputs)).detach() @ w["weight_ih"].T + w["bias_ih"]).chunk(3, 1)
    of_h = (h @ w["weight_hh"].T + w["bias_hh"]).chunk(3, 1)
    r = sigmoid(of_x[0] + of_h[0])
    expected = {"r": r, "z": sigmoid(of_x[1] + of_h[1]), "n": torch.tanh(of_x[2] + r * of_h[2])}
    for name, value in expected.items():
        np.testing.assert_allclose(whole(blocks, 0, "gates", name)[:, 0], value.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_each_character_has_the_token_that_completes_it(kind: str) -> None:
    text = synthetic_text(3000, seed=1) + "§ “straße” é"
    _, tokenizer = networks_by_tokenizer(synthetic_text(6000, seed=1), seed=1)[kind]
    read = reading(text, tokenizer)
    assert read.inputs[0] == tokenizer.start
    sizes = [1 if kind == "char" else len(tokenizer.pieces[token]) for token in read.inputs[1:]]
    done, size = [0, *np.cumsum(sizes)], 0
    for character, token in zip(text, read.token_of.tolist(), strict=True):
        size += 1 if kind == "char" else len(character.encode())
        assert done[token] >= size > done[token - 1]
    assert read.targets.tolist() == [*read.inputs[1:].tolist(), -1]


def test_records_begin_anew_and_backward_texts_are_turned() -> None:
    network = opened(random_network(ModelConfig(cell="gru", layers=1, hidden=4), TOKENIZER.size, seed=4))
    read = reading("so\ngo\nis\n", TOKENIZER, "line")
    alone = memories(network, reading("is\n", TOKENIZER, "line"))
    np.testing.assert_allclose(memories(network, read)[read.token_of[-3:]], alone[1:], atol=1e-6)
    back = reading("so it", TOKENIZER, backward=True)
    forward = reading("ti os", TOKENIZER)
    assert back.text == "so it"
    assert back.inputs.tolist() == forward.inputs.tolist()
    assert back.token_of.tolist() == forward.token_of[::-1].tolist()


@pytest.mark.parametrize("cell", ["lstm", "gru", "leaky"])
def test_a_unit_that_is_held_keeps_its_value_in_its_lane_alone(cell: str) -> None:
    network = opened(random_network(ModelConfig(cell=cell, layers=2, hidden=6), TOKENIZER.size, seed=5))
    read, memory = reading(TEXT, TOKENIZER), CELLS[cell].states[-1]
    plain = list(trace(network, read))
    held = list(trace(network, read, lanes=3, held=[Held(1, 0, 2, 0.25), Held(2, 1, 4, -0.5)], size=10))
    for layer in range(2):
        kept = whole(held, layer, "states", memory)
        np.testing.assert_allclose(kept[:, 0], whole(plain, layer, "states", memory)[:, 0], atol=1e-5)
    assert (whole(held, 0, "states", memory)[:, 1, 2] == 0.25).all()
    assert (whole(held, 1, "states", memory)[:, 2, 4] == -0.5).all()
    np.testing.assert_allclose(
        whole(held, 0, "states", memory)[:, 2], whole(plain, 0, "states", memory)[:, 0], atol=1e-5
    )
    assert np.abs(whole(held, 1, "states", memory)[:, 1] - whole(plain, 1, "states", memory)[:, 0]).max() > 1e-3
    if cell == "lstm":  # what it puts out is that of the value held
        o, h = whole(held, 0, "gates", "o")[:, 1, 2], whole(held, 0, "states", "h")[:, 1, 2]
        np.testing.assert_allclose(h, o * np.tanh(0.25), atol=1e-6)


def test_what_cannot_be_inspected_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"old has no recurrent cells .* --model window; nothing was inspected; use a"
    ):
        check_recurrent(ModelConfig(model="window"), "old")
    with pytest.raises(DataError, match="the text is empty; nothing was inspected"):
        reading("", TOKENIZER)


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_models(tmp_path)
    (tmp_path / "checkpoints/lstm").mkdir(parents=True)
    (tmp_path / "lstm.safetensors").rename(tmp_path / "checkpoints/lstm/best.safetensors")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs/inspection.md").read_text(encoding="utf-8")
    block, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)  # the other is of what a model remembers
    exec(compile(block, "inspection.md", "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out.startswith("(26, 1, 8) ")


def test_an_unknown_character_reads_the_mean_embedding() -> None:
    network = random_network(ModelConfig(cell="rnn", layers=1, hidden=4, embedding=3), TOKENIZER.size, seed=6)
    read = reading("so ☃", TOKENIZER)
    assert read.inputs[-1] == TOKENIZER.unseen
    found = opened(network)
    np.testing.assert_allclose(
        found.rows[-1], named_weights(network)["embedding.weight"].detach().numpy()[:-1].mean(0), atol=1e-6
    )
    assert np.isfinite(memories(found, read)).all()

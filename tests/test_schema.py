"""The description in a checkpoint: whatever lacks something that is read later is refused at once, and names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hostile import Table, alone, made, opened

from charlm.errors import CheckpointError, DataError
from charlm.storage.records import TrainState
from charlm.storage.schema import from_json, too_large

WHOLE = opened(made().to_bytes())[1]
MODEL = opened(made(**alone(made())).to_bytes())[1]
Path = tuple[str | int, ...]


def paths(value: Any, above: Path = ()) -> Iterator[Path]:
    """Where every table, list and figure of a description stands."""
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield (*above, name)
        yield from paths(inner, (*above, name))


def changed(table: Table, path: Path, *value: Any) -> str:
    """The description with the entry at `path` replaced, or removed if no value is given."""
    copy = json.loads(json.dumps(table))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    if value:
        inner[path[-1]] = value[0]
    else:
        del inner[path[-1]]
    return json.dumps(copy)


def is_read(path: Path) -> bool:
    """Options have defaults, a tokenizer checks its own table, nobody reads the hash or the optimizer's options."""
    if path[0] == "state_sha256" or path[:2] == ("training", "optimizer"):
        return len(path) == 2
    return path[0] not in ("config", "tokenizer") or len(path) == 1


MAY_BE_MISSING = {
    ("training", "plan"),  # then it is a model alone
    *(("training", name) for name in ("rollbacks", "seed", "optimizer")),
    *(("history", name) for name in ("characters_seen", "characters_per_second")),
    *(("environment", name) for name in ("system", "device_name", "processes")),
    *(("bookkeeping", name) for name in ("inexact", "init_from", "samples_length")),
    *(("result", name) for name in ("characters_per_second", "test_loss", "test_bits_per_character", "temperature")),
    *(("result", name) for name in ("planned_steps", "closing_seconds")),
    *(("corpus", name) for name in ("test_characters", "split")),
}
NEEDED = [(table, path) for table in (WHOLE, MODEL) for path in paths(table) if is_read(path)]


@pytest.mark.parametrize("table", [WHOLE, MODEL])
def test_what_is_written_can_be_read(table: Table) -> None:
    assert from_json(json.dumps(table)) == table
    assert from_json(json.dumps({**table, "history": [], "result": {}, "more": 1}))["more"] == 1


@pytest.mark.parametrize(
    ("table", "path"), NEEDED, ids=lambda value: ".".join(map(str, value)) * isinstance(value, tuple)
)
def test_an_entry_of_another_kind_is_refused_and_named(table: Table, path: Path) -> None:
    if isinstance(path[-1], str) and (path[0], path[-1]) not in MAY_BE_MISSING:
        with pytest.raises(CheckpointError, match=str(path[0])):
            from_json(changed(table, path))
    for value in ({"x": 1}, [["x"]], True, -(10**400)):
        before: Any = table
        for name in path:
            before = before[name]
        if type(value) is not type(before):
            with pytest.raises(CheckpointError, match=str(path[0])):
                from_json(changed(table, path, value))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("corpus", "sources", 0, "path"), None, r"corpus\.sources\[0\]\.path"),
        (("history", 1, "val_loss"), None, r"history\[1\]\.val_loss"),
        (("environment", "device"), "meta", r"environment\.device"),
        (("environment", "device"), "cuda:x", r"environment\.device"),
        (("environment", "precision"), "auto", r"environment\.precision"),
        (("environment", "threads"), 0, r"environment\.threads"),
        (("environment", "threads"), 2**63, r"environment\.threads"),
        (("bookkeeping", "metrics_length"), 1.0, r"bookkeeping\.metrics_length"),
        (("bookkeeping", "seconds"), -1, r"bookkeeping\.seconds"),
        (("bookkeeping", "seconds"), 1e299, r"bookkeeping\.seconds"),
        (("bookkeeping", "seconds"), 10**400, r"bookkeeping\.seconds"),
        (("bookkeeping", "inexact"), [1], r"bookkeeping\.inexact\[0\]"),
        (("result", "val_bits_per_character"), None, "result"),
        (("training", "recent"), [], r"training\.recent"),
        (("training", "recent"), [[1.0, 0]], r"training\.recent"),
        (("training", "recent"), [[1.0, 4, 4]], r"training\.recent"),
        (("training", "rollbacks"), [[1]], r"training\.rollbacks"),
        (("training", "loss_scale"), 0, r"training\.loss_scale"),
        (("training", "position"), {"epoch": 0, "shift": 0}, r"training\.position"),
        (("training", "position"), {"epoch": 0, "shift": 0, "offset": 0, "x": 0}, r"training\.position"),
        (("training", "position"), {"epoch": 0, "shift": 0, "offset": -1}, r"training\.position"),
        *(
            (("training", "plan"), plan, r"training\.plan")
            for plan in (
                *(
                    [],
                    [5],
                    [[0, 0.0]],
                    [[0, 0.0], [9]],
                    [[0, 0.0], 5, [9, 1.0]],
                    [[1, 0.0], [9, 1.0]],
                    [[0, 0.1], [9, 1]],
                ),
                *([[0, 0.0], [9, 0.5]], [[0, 0], [3, 0.5], [3, 0.6], [9, 1]], [[0, 0], [3, 0.5], [2, 1]]),
                *([[0, 0], [3, 0.5], [4, 0.4], [9, 1]], [[0, 0], [3, 2], [4, 2], [9, 1]], [[0, 0], ["3", 0.5], [9, 1]]),
            )
        ),
    ],
)
def test_figures_that_cannot_be_are_refused(path: Path, value: Any, named: str) -> None:
    with pytest.raises(CheckpointError, match=f"its metadata is invalid: {named}"):
        from_json(changed(WHOLE, path, value))


@pytest.mark.parametrize(
    "plan",
    [
        [[0, 0.0], [10**12, 1.0]],
        [[0, 0.0], [3, 0.5], [3, 1.0]],
        [[0, 0], [2, 0.25], [5, 0.25], [9, 1]],
        [[0, 0], [1, 1]],
    ],
)
def test_plans_that_training_makes_are_read(plan: list[Any]) -> None:
    table = from_json(changed(WHOLE, ("training", "plan"), plan))
    state = TrainState.from_json(table["training"])
    assert all(0 <= state.plan.progress(step) <= 1 for step in range(12))


def test_lists_of_later_versions_may_be_there_or_not() -> None:
    later = changed(WHOLE, ("training", "rollbacks"), [[9, 4], [8, 4]])
    assert from_json(changed(json.loads(later), ("bookkeeping", "inexact"), ["device was cpu"]))["training"][
        "rollbacks"
    ]
    early = {**WHOLE, "training": {**WHOLE["training"], "step": 0, "recent": []}}
    assert from_json(json.dumps(early)) == early


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        "{",
        '"text"',
        "[" * 100_000,
        "1" * 10_000,
        "\ud800",
        "{}",
        '{"format":1}',
        '{"é":1}',
        "NaN",
    ],
)
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        from_json(text)


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused_wherever_they_stand(figure: str) -> None:
    for path in (("training", "more"), ("config", "optim", "lr"), ("more",)):
        with pytest.raises(CheckpointError, match="cannot be read"):
            from_json(changed(WHOLE, path, "here").replace('"here"', figure))


def test_nesting_is_bounded_so_that_what_was_read_can_be_written_again() -> None:
    for levels, fine in ((30, True), (40, False), (900, False)):
        text = changed(WHOLE, ("more",), "here").replace('"here"', "[" * levels + "]" * levels)
        if fine:
            from_json(text)
        else:
            with pytest.raises(CheckpointError, match="cannot be read"):
                from_json(text)


@pytest.mark.parametrize("bomb", ["[],", "{},", '"",', "0,"])
def test_texts_that_would_swell_are_refused_before_they_are_parsed(bomb: str) -> None:
    with pytest.raises(CheckpointError, match="its metadata is too large"):
        from_json("[" + bomb * 1_000_000 + "0]")
    assert too_large(" " * (25 * 2**20))


def test_a_text_in_100_000_files_can_be_saved_and_one_in_far_more_is_refused_by_saving() -> None:
    source = {**WHOLE["corpus"]["sources"][0], "path": "/home/somebody/projects/linux/drivers/net/ethernet/one.c"}
    corpus = {**WHOLE["corpus"], "sources": [source] * 100_000}
    text = json.dumps({**WHOLE, "corpus": corpus}, separators=(",", ":"))
    assert len(from_json(text)["corpus"]["sources"]) == 100_000
    made(corpus=corpus).to_bytes()
    with pytest.raises(DataError, match=r"150,000 files of text: .* join them into fewer files"):
        made(corpus={**corpus, "sources": [source] * 150_000}).to_bytes()

"""charlm info and charlm verify"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, command
from charlm.cli.outputs import Screen
from charlm.config import BACKWARD, DEFAULT_FOLDER

if TYPE_CHECKING:
    from charlm.storage.checkpoint import Checkpoint
    from charlm.text.corpus import Source

Fact = tuple[str, str]
_FILES: Final = 10
_VALIDATIONS: Final = 5


def register(app: typer.Typer) -> None:
    command(app, "info")(info)
    command(app, "verify")(verify)


def info(
    screen: Screen,
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint holds.

    Prints its architecture, vocabulary, corpus, training history and best validation loss.
    """
    path, loaded = _opened(screen, checkpoint, checkpoints)
    if as_json:
        screen.json("info", checkpoint=str(path), **_record(loaded))
    else:
        from charlm.report.console import facts

        facts(screen.out, [("checkpoint", str(path)), *_facts(loaded)])


def verify(
    screen: Screen,
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Check that a checkpoint is intact.

    Verifies its hash, the names and shapes of its tensors, and that every number is finite.
    """
    path, loaded = _opened(screen, checkpoint, checkpoints)
    arrays = {**loaded.weights, **loaded.tensors}
    numbers = sum(array.size for array in arrays.values())
    if as_json:
        screen.json(
            "verify",
            checkpoint=str(path),
            whole=True,
            tensors=len(arrays),
            numbers=numbers,
            state_sha256=loaded.state_sha256,
        )
    else:
        from charlm.report.console import paragraphs

        paragraphs(
            screen.out,
            [
                f"{path} is intact: its SHA-256 matches, {len(arrays)} tensors have the expected shapes, and all "
                f"{numbers:,} values are finite."
            ],
        )


def _opened(screen: Screen, what: str | None, folder: str) -> tuple[Path, Checkpoint]:
    """Load the named checkpoint, or the newest run's; what the user has not named so is named."""
    from charlm.storage.checkpoint import load_checkpoint
    from charlm.storage.runs import find_checkpoint

    path = find_checkpoint(what, folder)
    screen.note_model(what, path)
    return path, load_checkpoint(path)


def _record(checkpoint: Checkpoint) -> dict[str, object]:
    tokenizer = checkpoint.open_tokenizer()
    table = {name: value for name, value in checkpoint.tokenizer.table.items() if name != "vocabulary"}
    return {
        "state_sha256": checkpoint.state_sha256,
        "resumable": checkpoint.resumable,
        "parameters": checkpoint.parameters,
        "receptive_field": checkpoint.receptive_field,
        "vocabulary": tokenizer.size,
        "tokenizer": {**table, "escape": tokenizer.escape},
        "config": checkpoint.config.flat(),
        "corpus": asdict(checkpoint.corpus),
        "training": checkpoint.training.to_json(),
        "history": [asdict(row) for row in checkpoint.history],
        "environment": asdict(checkpoint.environment),
        "inexact": list(checkpoint.bookkeeping.inexact),
        "init_from": checkpoint.bookkeeping.init_from,
        "result": checkpoint.result.figures() if checkpoint.result else {},
    }


def _facts(checkpoint: Checkpoint) -> list[Fact]:
    """What `charlm info` prints, as names and values."""
    kinds = Counter(name.split(".")[0] for name in {**checkpoint.weights, **checkpoint.tensors})
    return [
        *_model(checkpoint),
        *_text(checkpoint),
        *_training(checkpoint),
        *_origin(checkpoint),
        ("tensors", ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))),
    ]


def _model(checkpoint: Checkpoint) -> list[Fact]:
    model, tokenizer = checkpoint.config.model, checkpoint.open_tokenizer()
    layers = f"{model.layers} x {model.hidden} {model.kind}, embedding {model.embedding or 'one-hot'}"
    reach = checkpoint.receptive_field
    dropout = ", ".join(f"{name} {getattr(model, 'dropout_' + name):g}" for name in ("input", "between", "output"))
    return [
        ("model", f"{layers}, {checkpoint.parameters:,} parameters"),
        *([("receptive field", f"{reach:,} token{'s' * (reach != 1)}")] if reach else []),
        ("dropout", dropout),
        ("vocabulary", f"{tokenizer.size:,} ({tokenizer.kind}), escape probability {tokenizer.escape:.3g}"),
    ]


def _text(checkpoint: Checkpoint) -> list[Fact]:
    """The corpus: its size, and its first files."""
    from charlm.text.split import FILES

    corpus, data = checkpoint.corpus, checkpoint.config.data
    size = f"{corpus.train_characters:,} characters of training text, {corpus.val_characters:,} of validation text"
    size += f", {corpus.test_characters:,} of test text" if corpus.test_characters else ""
    files = [("", f"{source.path}{_part(source)}") for source in corpus.sources[:_FILES]]
    more = len(corpus.sources) - _FILES
    return [
        ("text", f"{size}, SHA-256 {corpus.fingerprint[:16]}…"),
        *([("split", "by whole files, chosen by hash")] if corpus.split == FILES else []),
        *([("records", data.records)] if data.records != "none" else []),
        *(
            [("direction", f"{data.direction}: each character from those that follow it")]
            * (data.direction == BACKWARD)
        ),
        *files,
        *([("", f"and {more} more")] if more > 0 else []),
    ]


def _part(source: Source) -> str:
    """What a file is for, where it is not for training."""
    return (" (test)" if source.test else " (validation)") if source.held_out else ""


def _training(checkpoint: Checkpoint) -> list[Fact]:
    """How it was trained, how far, and its validation losses."""
    from charlm.report.words import bits, duration

    train, optim, state, result = (
        checkpoint.config.train,
        checkpoint.config.optim,
        checkpoint.training,
        checkpoint.result,
    )
    shuffled = f", shuffled in segments of {train.shuffle:,}" if train.shuffle else ""
    batch = f"{train.batch} lanes x {train.bptt} tokens{shuffled}, seed {train.seed}"
    done = f"{state.step:,} steps, {duration(checkpoint.bookkeeping.seconds)}"
    rows = [
        ("training", f"{optim.optimizer}, learning rate {optim.lr:g}, {batch}"),
        ("progress", f"{done}, {'finished' if result else 'not finished'}"),
    ]
    if state.best is not None:
        rows.append(("best validation", f"{state.best:.4f} nats, {bits(state.best):.4f} bits per character"))
    for number, row in enumerate(checkpoint.history[-_VALIDATIONS:]):
        losses = f"training {row.train_loss:.4f}, validation {row.val_loss:.4f} nats"
        rows.append(("" if number else "last validations", f"step {row.step:,}: {losses}"))
    if result and result.val_loss is not None:
        final = f"{result.val_loss:.4f} nats, {result.val_bits_per_character:.4f} bits per character"
        rows.append(("final validation", final))
    if result and result.test_loss is not None:
        tested = f"{result.test_loss:.4f} nats, {bits(result.test_loss):.4f} bits per character"
        rows.append(("test", f"{tested}, on text that no choice has seen"))
    return rows


def _origin(checkpoint: Checkpoint) -> list[Fact]:
    """What wrote it, where, and what it can be used for."""
    made = checkpoint.environment
    use = "can be resumed" if checkpoint.resumable else "weights only, cannot be resumed"
    return [
        ("written with", f"format 1, torch {made.torch}, Python {made.python}, {made.device}, {made.precision}"),
        ("state SHA-256", f"{checkpoint.state_sha256} ({use})"),
        *(
            [("began with", f"the weights of state SHA-256 {began}")]
            if (began := checkpoint.bookkeeping.init_from)
            else []
        ),
        *(("not exact", reason) for reason in checkpoint.bookkeeping.inexact),
    ]

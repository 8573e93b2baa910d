"""charlm info and charlm verify"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, command
from charlm.cli.outputs import Screen
from charlm.config import DEFAULT_FOLDER

if TYPE_CHECKING:
    from charlm.storage.checkpoint import Checkpoint


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

    That is its architecture, vocabulary, corpus, training history and best validation loss.
    """
    path, loaded = _opened(screen, checkpoint, checkpoints)
    if as_json:
        screen.json("info", checkpoint=str(path), **_record(loaded))
    else:
        from charlm.report.console import facts

        facts(screen.out, [("checkpoint", str(path)), *_lines(loaded)])


def verify(
    screen: Screen,
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Check that a checkpoint is intact.

    Checks its hash, the names and shapes of its tensors, and that every number is finite.
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
                f"{path} is whole: its SHA-256 matches, {len(arrays)} tensors have the shapes they should, "
                f"{numbers:,} numbers are finite."
            ],
        )


def _opened(screen: Screen, what: str | None, folder: str) -> tuple[Path, Checkpoint]:
    """The checkpoint that is meant; which one that is, is said where it was left out."""
    from charlm.storage.checkpoint import load_checkpoint
    from charlm.storage.runs import find_checkpoint

    path = find_checkpoint(what, folder)
    if what is None:
        screen.note_newest(path)
    return path, load_checkpoint(path)


def _record(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoint.open_tokenizer()
    table = {name: value for name, value in checkpoint.tokenizer.table.items() if name != "vocabulary"}
    return {
        "state_sha256": checkpoint.state_sha256,
        "resumable": checkpoint.resumable,
        "parameters": checkpoint.parameters,
        "vocabulary": tokenizer.size,
        "tokenizer": {**table, "escape": tokenizer.escape},
        "config": checkpoint.config.flat(),
        "corpus": asdict(checkpoint.corpus),
        "training": checkpoint.training.to_json(),
        "history": [asdict(row) for row in checkpoint.history],
        "environment": asdict(checkpoint.environment),
        "inexact": list(checkpoint.bookkeeping.inexact),
        "result": checkpoint.result.figures() if checkpoint.result else {},
    }


def _lines(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    from charlm.report.words import bits, duration

    model, train, optim = checkpoint.config.model, checkpoint.config.train, checkpoint.config.optim
    corpus, environment, result = checkpoint.corpus, checkpoint.environment, checkpoint.result
    tokenizer = checkpoint.open_tokenizer()
    dropout = ", ".join(f"{name} {getattr(model, 'dropout_' + name):g}" for name in ("input", "between", "output"))
    lines = [
        (
            "model",
            f"{model.layers} x {model.hidden} {model.cell}, embedding {model.embedding or 'one-hot'}, "
            f"{checkpoint.parameters:,} parameters",
        ),
        ("dropout", dropout),
        ("vocabulary", f"{tokenizer.size:,} ({tokenizer.kind}), escape {tokenizer.escape:.3g}"),
        (
            "text",
            f"{corpus.train_characters:,} characters to train on, {corpus.val_characters:,} held out, "
            f"SHA-256 {corpus.fingerprint[:16]}…",
        ),
    ]
    lines += [("", f"{source.path}{' (held out)' if source.held_out else ''}") for source in corpus.sources[:10]]
    if len(corpus.sources) > 10:
        lines.append(("", f"and {len(corpus.sources) - 10} more"))
    lines += [
        (
            "training",
            f"{optim.optimizer}, rate {optim.lr:g}, {train.batch} lanes x {train.bptt} tokens, seed {train.seed}",
        ),
        (
            "progress",
            f"{checkpoint.training.step:,} steps, {duration(checkpoint.bookkeeping.seconds)}, "
            f"{'finished' if result else 'not finished'}",
        ),
    ]
    if checkpoint.training.best is not None:
        lines.append(
            (
                "best check",
                f"{checkpoint.training.best:.4f} nats, {bits(checkpoint.training.best):.4f} bits a character",
            )
        )
    for number, row in enumerate(checkpoint.history[-5:]):
        name = "last checks" if number == 0 else ""
        lines.append((name, f"step {row.step:,}: train {row.train_loss:.4f}, held out {row.val_loss:.4f} nats"))
    if result and result.val_loss is not None:
        lines.append(
            ("held-out loss", f"{result.val_loss:.4f} nats, {result.val_bits_per_character:.4f} bits a character")
        )
    lines += [
        (
            "made by",
            f"charlm's format 1, torch {environment.torch}, Python {environment.python}, "
            f"{environment.device}, {environment.precision}",
        ),
        ("state", f"{checkpoint.state_sha256} ({'can be resumed' if checkpoint.resumable else 'the model alone'})"),
    ]
    lines += [("not exact", reason) for reason in checkpoint.bookkeeping.inexact]
    kinds = Counter(name.split(".")[0] for name in {**checkpoint.weights, **checkpoint.tensors})
    return [*lines, ("tensors", ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))]

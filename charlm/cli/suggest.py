"""What a user may have meant by a mistyped word: a command, an option, or an option of another command.

Imported for a usage error alone. Commands are searched by the names that they have, by those that people try instead,
and by likeness, in this order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from charlm.cli.help import GENERAL, term
from charlm.errors import quoted

# Words that people try, and the command that does it.
COMMANDS: Final = {
    "sample": "generate gen write complete continue predict chat",
    "eval": "evaluate test loss bpc ppl validate benchmark",
    "train": "fit learn run finetune fine-tune resume",
    "score": "surprisal heatmap highlight visualize",
    "pairs": "minimal-pairs blimp acceptability grammaticality agreement",
    "novelty": "memorization memorisation overlap plagiarism",
    "info": "show describe summary",
    "verify": "check fsck",
    "data list": "corpora corpus dataset datasets",
    "data get": "download fetch",
    "compress": "zip encode",
    "decompress": "unzip decode uncompress extract",
    "push": "upload publish share release",
    "runs": "ls list experiments history",
    "plot": "curves chart graph",
    "inspect gradients": "gradient vanishing",
    "inspect gates": "saturation",
    "inspect cells": "neurons units activations probe",
    "doctor": "diagnose env status devices",
    "--version": "version",
}
_LETTER: Final = 3  # characters of an option of one letter, which any other is like
# The same for options, by the names that other programs give them.
OPTIONS: Final = {
    "hidden": "hidden-size hidden-dim rnn-size units width n-embd num-hidden",
    "embedding": "embedding-size embedding-dim emb-size embed",
    "layers": "num-layers n-layer n-layers depth",
    "cell": "rnn-type",
    "model": "architecture arch network",
    "batch": "batch-size bs",
    "bptt": "seq-length seq-len sequence-length block-size context-length chunk",
    "lr": "learning-rate eta alpha",
    "steps": "max-iters iterations iters max-steps updates",
    "epochs": "num-epochs max-epochs",
    "time": "max-time time-limit budget",
    "clip": "grad-clip gradient-clipping max-norm",
    "optimizer": "optimiser optim",
    "precision": "dtype half amp",
    "threads": "workers num-threads jobs",
    "val": "val-split validation val-frac",
    "init-from": "checkpoint pretrained from load finetune",
    "checkpoints": "run-dir save-dir runs",
    "name": "run-name run out-dir output-dir",
    "length": "max-new-tokens num-tokens max-tokens characters chars max-length",
    "count": "num-samples n-samples samples",
    "prime": "prompt start seed-text prefix",
    "temperature": "temp",
    "text": "input file data dataset",
    "output": "out outfile output-file",
    "quiet": "silent",
    "log": "tensorboard logger report-to log-dir",
}


def explain(error: Any) -> str:
    """Explain a usage error in one line: what is wrong, what may have been meant, and which help to read."""
    ctx = getattr(error, "ctx", None)
    command = ctx.command_path if ctx else "charlm"
    if hasattr(error, "possibilities"):
        what = unknown_option(error.option_name, ctx)
    elif hasattr(error, "param_type") and error.param is not None:
        what = f"{command} needs {term(error.param)}"
    elif getattr(getattr(error, "param", None), "min", None) is not None:
        what = f"{error.param.opts[-1]} must be an integer from {error.param.min}"
    elif error.message == "Missing command.":
        what = f"{command} needs a command"
    else:
        what = _plain(error.format_message())
    return f"{what} See {command} --help" if what.endswith("?") else f"{what}; see {command} --help"


def _plain(message: str) -> str:
    """A message of typer's in the style of ours."""
    return message[:1].lower() + message[1:].rstrip(".")


def unknown_command(word: str, ctx: Any) -> str:
    """Say that this group has no such command, and which one may be meant.

    A file or folder is what one would train on: `charlm corpus.txt`.
    """
    what = f"there is no command {word!r}"
    names = [name for name, _ in _commands(ctx.find_root().command)]
    here = [name for name in names if name.startswith(_path(ctx))]
    if found := _tried(COMMANDS, word) or _alike(word, here) or _alike(word, names):
        return f"{what}; did you mean charlm {found}?"
    if os.path.exists(word):
        return f"{what}; did you mean charlm train {quoted(word)}?"
    return what


def unknown_option(name: str, ctx: Any) -> str:
    """Say that this command has no such option, and which command has it or which option may be meant."""
    what = f"{ctx.command_path} has no option {name}"
    own = _long_options(ctx.command)
    others = [(f"charlm {path}", _long_options(command)) for path, command in _commands(ctx.find_root().command)]
    holders = [path for path, options in others if name in options]
    if holders and dict(others)[holders[0]][name].rich_help_panel == GENERAL:
        return f"{what}; it goes after a command, as in {holders[0]} {name}"
    if holders:
        return f"{what}; {_listed(holders)} {'has' if len(holders) == 1 else 'have'} it"
    elsewhere = {option: f"{path} {option}" for path, options in reversed(others) for option in options}
    meant = {**elsewhere, **{option: option for option in own}}
    tried = f"--{_tried(OPTIONS, name.lstrip('-').replace('_', '-'))}"
    found = (
        tried
        if tried in meant
        else _alike(name, list(own)) or _alike(name, [option for option in elsewhere if len(option) > _LETTER])
    )
    return f"{what}; did you mean {meant[found]}?" if found else what


def _commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that help lists, by its words after `charlm`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path}{name} ")
        elif not command.hidden:
            yield path + name, command


def _path(ctx: Any) -> str:
    """The words of a group before those of its commands: none, or "data "."""
    return "".join(f"{word} " for word in ctx.command_path.split()[1:])


def _long_options(command: Any) -> dict[str, Any]:
    return {name: param for param in command.params for name in param.opts if name.startswith("--")}


def _tried(words: Mapping[str, str], word: str) -> str:
    """The name that lists this word, if any."""
    return next((name for name, tried in words.items() if word.lower() in tried.split()), "")


def _alike(word: str, names: list[str]) -> str:
    """The name whose last word is most similar to this one, if any is similar."""
    lasts = {name.split()[-1]: name for name in reversed(names)}
    return next((lasts[match] for match in get_close_matches(word, lasts, 1)), "")


def _listed(names: list[str]) -> str:
    """
    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

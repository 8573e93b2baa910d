"""charlm: a character-level language-model workbench.

    trained = charlm.train("corpus.txt")     train a model; help(charlm.train) lists the options
    model = charlm.load("corpus")            load a trained model, by file or by the name of its run
    model.sample(length=200)                 write text
    model.score("Some text.")                loss, bits per character, perplexity
    charlm.push("corpus", "owner/name")      upload a model to the Hugging Face Hub

Errors are subclasses of CharlmError. The API is imported when it is first used: importing charlm does not import torch.
"""

from __future__ import annotations

from charlm.errors import CharlmError, CheckpointError, ConfigError, DataError, DivergedError, StorageError

TYPE_CHECKING = False  # as in typing, which takes longer to import than all of this
if TYPE_CHECKING:
    from charlm.api import LanguageModel, Trained, load, push, train

__version__ = "0.1.0"
__all__ = [
    "CharlmError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "LanguageModel",
    "StorageError",
    "Trained",
    "__version__",
    "load",
    "push",
    "train",
]


if not TYPE_CHECKING:  # type checkers would take any name for one of these

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'charlm' has no attribute {name!r}")
        from charlm import api

        return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Models on the Hugging Face Hub: `hf:OWNER/NAME` leads to a checkpoint, and a run's model can be pushed.

One file of a repository is read, model.safetensors: the name under which the Hub expects weights, and shows their
shapes. Nothing is unpickled and no code is downloaded. What arrives is a stranger's file, and is checked like one.

The library huggingface_hub, an extra, speaks to the Hub. Its cache, its token and its variables (HF_HOME, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE) are the user's own, and apply. docs/sharing.md describes all of it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from charlm import __version__
from charlm.config import val_share
from charlm.errors import CharlmError, CheckpointError, ConfigError, StorageError, quoted
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.storage.records import ModelState

PREFIX: Final = "hf:"
FILE: Final = "model.safetensors"
CARD: Final = "README.md"
LARGEST: Final = 4 * 2**30  # bytes; a network of 4 layers of 4,096 units takes 2.2 GB
_LONGEST: Final = 96  # of an owner or a name, as the Hub has it
_LONGEST_REVISION: Final = 200
_LISTED: Final = 3  # files that an error lists
_CLIPPED: Final = 200
_PART: Final = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
_REPOSITORY: Final = re.compile(rf"(?!.*(?:--|\.\.|\.git$)){_PART}/{_PART}", re.ASCII)
_REVISION: Final = re.compile(r"(?!.*(?:\.\.|//|\.lock(?:/|$)))[A-Za-z0-9_](?:[\w./-]*\w)?", re.ASCII)
_COMMIT: Final = re.compile("[0-9a-f]{40}")
_KEPT: Final = "nothing was changed"
_UNPUSHED: Final = "nothing was pushed"
_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO)
_LOG_IN: Final = "log in with hf auth login, or set HF_TOKEN"


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on the Hub: its repository (OWNER/NAME), and a branch, a tag or a commit of it."""

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What `push` has done.

    commit    the commit of the repository that holds the model
    url       the page of the repository
    created   whether the repository is new
    bytes     length of model.safetensors, and `sha256` its hash, as the Hub has confirmed both
    """

    repository: str
    branch: str
    commit: str
    url: str
    private: bool
    created: bool
    bytes: int
    sha256: str

    def record(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def is_hub_name(what: str) -> bool:
    """Whether a CHECKPOINT is meant to be on the Hub; a file of such a name is ./hf:..."""
    return what.startswith(PREFIX)


def parse(text: str) -> HubName | None:
    """OWNER/NAME or OWNER/NAME@REVISION, None for whatever else.

    >>> parse("ada/novel@v1.0")
    HubName(repository='ada/novel', revision='v1.0')
    >>> parse("ada/../novel"), parse("ada/novel@../../main"), parse("novel"), parse("ada/novel@")
    (None, None, None, None)
    """
    repository, sign, revision = text.partition("@")
    fits = _REPOSITORY.fullmatch(repository) and max(map(len, repository.split("/"))) <= _LONGEST
    if not fits or (sign and not (_REVISION.fullmatch(revision) and len(revision) <= _LONGEST_REVISION)):
        return None
    return HubName(repository, revision)


def origin(path: Path) -> HubName | None:
    """The repository and the commit that a file of the library's cache is from; None for any other file."""
    with suppress(ValueError):
        folder, snapshots, commit, file = path.parts[-4:]
        name = folder.removeprefix("models--").split("--")
        if folder.startswith("models--") and snapshots == "snapshots" and file == FILE and len(name) == 2:
            return HubName("/".join(name), commit) if _COMMIT.fullmatch(commit) else None
    return None


def fetch(what: str) -> Path:
    """The file of `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` in the library's cache; it is a whole charlm checkpoint.

    It is downloaded unless it is there. Without network, and with HF_HUB_OFFLINE, what is there is taken.

    Raises CheckpointError where there is no such model, no access to it, or it is no charlm checkpoint; StorageError
    where the network or the disk fails; CharlmError without the library.
    """
    name = parse(what.removeprefix(PREFIX))
    if name is None:
        raise CheckpointError(
            f"{what!r} is no name of a model on the Hub",
            kept=_KEPT,
            hint=f"write hf:OWNER/NAME or hf:OWNER/NAME@REVISION; a file of that name is {quoted('./' + what)}",
        )
    with _speaking(_explain_fetch(name)) as api:
        path, fresh = _obtained(api, name)
        fault = _fault(path)
        if (fresh or fault) and not _as_kept(path):  # damaged on its way, or since then
            path = Path(_download(api, name, again=True))
            fault = _fault(path)
            if not _as_kept(path):
                fault = "what arrived is not what the Hub says: its SHA-256 differs"
                _discard(path)
    if fault:
        hint = "hf: takes models that charlm push has uploaded"
        raise CheckpointError(f"{origin(path) or name}: {fault}", kept=_KEPT, hint=hint)
    return path


def _obtained(api: Any, name: HubName) -> tuple[Path, bool]:
    """The file in the cache, and whether it has just been downloaded; its size is asked for before."""
    cached = _cached(name)
    if cached is not None and _COMMIT.fullmatch(name.revision):
        return cached, False
    found = _metadata(api, name, cached)
    if found is None and cached is not None:
        return cached, False
    if (found.size or 0) > LARGEST:
        raise CheckpointError(
            f"{name} has {found.size:,} bytes; at most {LARGEST:,} are downloaded",
            kept=_KEPT,
            hint=f"download {FILE} yourself and name the file",
        )
    if cached is not None and cached.parent.name == found.commit_hash:
        return cached, False
    return Path(_download(api, name)), True


def _cached(name: HubName) -> Path | None:
    """What the cache has of a model: of a branch, the commit that was its last when it was asked for."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repository, FILE, revision=name.revision or None)
    return Path(found) if isinstance(found, str) else None


def _metadata(api: Any, name: HubName, cached: Path | None) -> Any:
    """Commit and size of the file on the Hub; None where it cannot be reached but the cache has one.

    It is asked once: the library's own download would wait and ask again, for half a minute without a network.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import httpx

    url = hf_hub_url(name.repository, FILE, revision=name.revision or None, endpoint=api.endpoint)
    try:
        return api.get_hf_file_metadata(url=url)
    except (OSError, httpx.HTTPError) as error:
        if cached is None or (_status(error) < 500 and _status(error) not in (0, 429)):
            raise
        return None


def _download(api: Any, name: HubName, *, again: bool = False) -> str:
    return str(api.hf_hub_download(name.repository, FILE, revision=name.revision or None, force_download=again))


def _fault(path: Path) -> str:
    """What is wrong with a stranger's checkpoint; empty if it can be used."""
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return str(error.__cause__ or error)  # without the path in the cache
    return ""


def _as_kept(path: Path) -> bool:
    """Whether a file has the hash that it is kept under in the cache; True where it has none, as without links."""
    with path.open("rb") as file:
        return _is_content(file, path.stat().st_size, os.path.basename(os.path.realpath(path)))


def _discard(path: Path) -> None:
    """Remove a file of the cache that is not what it is kept as, so that nobody takes it for that."""
    for place in (Path(os.path.realpath(path)), path):
        place.unlink(missing_ok=True)


def _is_content(file: io.BytesIO | io.BufferedReader, size: int, digest: str) -> bool:
    """Whether a file has this hash: SHA-256 if it is large, else git's own; True where it is neither of these."""
    if re.fullmatch("[0-9a-f]{64}", digest):
        return hashlib.file_digest(file, "sha256").hexdigest() == digest
    if _COMMIT.fullmatch(digest):
        start = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return hashlib.file_digest(file, start.copy).hexdigest() == digest
    return True


def publishable(checkpoint: Checkpoint) -> Checkpoint:
    """What may be seen by others: the model without its training state, and of each path the file's name alone.

    It samples, scores and verifies as before. Names, sizes and hashes of the training files stay, so that whoever has
    them can be recognised; the text itself is in no checkpoint.
    """
    data, state, corpus = checkpoint.config.data, checkpoint.training, checkpoint.corpus
    sources = tuple(replace(source, path=_file_name(source.path)) for source in corpus.sources)
    return replace(
        checkpoint,
        config=replace(checkpoint.config, data=replace(data, val=_held_out(data.val), test=_held_out(data.test))),
        training=ModelState(step=state.step, best=state.best),
        tensors={},
        bookkeeping=replace(checkpoint.bookkeeping, metrics_length=0, samples_length=0),
        corpus=replace(corpus, sources=sources),
    )


def _file_name(path: str) -> str:
    """The last part of a path of any system.

    >>> _file_name("/home/ada/novel.txt"), _file_name("C:\\\\texts\\\\novel.txt"), _file_name("/")
    ('novel.txt', 'novel.txt', 'text')
    """
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "text"


def _held_out(val: str) -> str:
    """What `--val` or `--test` was, without the folders of a file.

    >>> _held_out("0.1"), _held_out("/home/ada/later.txt"), _held_out("/home/ada/0.1")
    ('0.1', 'later.txt', './0.1')
    """
    if val_share(val) is not None:
        return val
    name = _file_name(val)
    try:
        return name if val_share(name) is None else f"./{name}"
    except ConfigError:  # a number that is no share
        return f"./{name}"


def push(
    checkpoint: Checkpoint,
    repository: str,
    *,
    card: Callable[[Checkpoint], str],
    private: bool = False,
    branch: str = "",
    message: str = "",
    force: bool = False,
) -> Pushed:
    """Upload a model and its card to a repository on the Hub, which is created if there is none, in one commit.

    The model is `publishable(checkpoint)`, and `card` writes README.md for that. Afterwards the Hub is asked for the
    hash of what it has.

    Raises ConfigError for a name or a branch that cannot be, for a repository that may not be written to or, unless
    `force`, holds something else; StorageError where the network fails; CharlmError without the library.
    """
    name = _target(repository, branch)
    model = publishable(checkpoint)
    data = model.to_bytes()
    files = {FILE: data, CARD: card(model).encode()}
    message = message or f"Push a charlm model of {model.parameters:,} parameters"
    with _speaking(_explain_push(name, _UNPUSHED)) as api:
        there = _there(api, name)
        if there is None:
            api.create_repo(repository, private=private or None)
        else:
            _check_there(there, name, private=private, force=force)
    with _speaking(_explain_push(name, _UNPUSHED if there else f"{repository} was created and is empty")) as api:
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = _commit(api, name, files, message)
    with _speaking(_explain_push(name, f"{FILE} was pushed in commit {commit}, but not compared")) as api:
        _check_arrival(api, name, commit, data)
        url, now = f"{api.endpoint}/{repository}", _there(api, name)
    return Pushed(
        repository=repository,
        branch=branch,
        commit=commit,
        url=url,
        private=bool(now and now.private),
        created=there is None,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _target(repository: str, branch: str) -> HubName:
    """Where to push; raises ConfigError for what is no name."""
    name = parse(repository)
    if name is None or name.revision:
        raise ConfigError(f"{repository!r} is not OWNER/NAME", kept=_UNPUSHED, hint="such as charlm push RUN ada/novel")
    if branch and not _REVISION.fullmatch(branch):
        raise ConfigError(f"--branch {branch!r} is no name of a branch", kept=_UNPUSHED, hint="such as --branch v2")
    return replace(name, revision=branch)


def _there(api: Any, name: HubName) -> Any:
    """What the Hub knows of a repository, None if there is none."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return api.model_info(name.repository)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _check_there(there: Any, name: HubName, *, private: bool, force: bool) -> None:
    """Refuse a repository that is public where a private one is wanted, or that holds no charlm model."""
    if private and not there.private:
        raise ConfigError(
            f"{name.repository} is there already and is public",
            kept=_UNPUSHED,
            hint="leave out --private, change it in the settings of the repository, or choose another name",
        )
    files = sorted(file.rfilename for file in there.siblings or () if file.rfilename != ".gitattributes")
    card = there.card_data.to_dict() if there.card_data else {}
    if files and card.get("library_name") != "charlm" and not force:
        more = ", ..." if len(files) > _LISTED else ""
        raise ConfigError(
            f"{name.repository} holds something else than a charlm model ({', '.join(files[:_LISTED])}{more})",
            kept=_UNPUSHED,
            hint=f"choose another name; --force replaces {FILE} and {CARD} there, and leaves all else",
        )


def _commit(api: Any, name: HubName, files: dict[str, bytes], message: str) -> str:
    """Upload files in one commit; returns its hash."""
    from huggingface_hub import CommitOperationAdd

    added = [CommitOperationAdd(path, content) for path, content in files.items()]
    done = api.create_commit(name.repository, operations=added, commit_message=message, revision=name.revision or None)
    return str(done.oid)


def _check_arrival(api: Any, name: HubName, commit: str, data: bytes) -> None:
    """Compare what the Hub has with what was sent; raises StorageError."""
    found = api.get_paths_info(name.repository, [FILE], revision=commit)
    if not any(
        file.size == len(data)
        and _is_content(io.BytesIO(data), len(data), file.lfs.sha256 if file.lfs else file.blob_id)
        for file in found
    ):
        raise StorageError(
            f"{FILE} on the Hub is not what was sent: its size or SHA-256 differs",
            kept=f"commit {commit} of {name.repository} holds it",
            hint="push again",
        )


@contextmanager
def _speaking(explain: Callable[[Exception], CharlmError]) -> Iterator[Any]:
    """The library's interface to the Hub; whatever fails meanwhile is raised as `explain` has it.

    The library's warnings and log messages are left out: charlm says itself what matters.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError, XetDownloadError
        from huggingface_hub.utils import httpx
    except ImportError as error:
        raise CharlmError(
            "the Hugging Face Hub needs the library huggingface_hub, which is not installed",
            kept=_KEPT,
            hint="pip install 'charlm-cli[hub]'",
        ) from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield HfApi(library_name="charlm", library_version=__version__)
        except (OSError, ValueError, RuntimeError, httpx.HTTPError, EntryNotFoundError, XetDownloadError) as error:
            raise explain(_cause(error)) from error


def _cause(error: Exception) -> Exception:
    """What made the library fail: it wraps errors of the network in others."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    under = error.__cause__ or error.__context__
    wrapped = isinstance(error, LocalEntryNotFoundError) or type(error) is RuntimeError
    return (
        _cause(under) if wrapped and isinstance(under, Exception) and not isinstance(error, HfHubHTTPError) else error
    )


def _explain_fetch(name: HubName) -> Callable[[Exception], CharlmError]:
    """How to say why a model cannot be had."""

    def explain(error: Exception) -> CharlmError:
        from huggingface_hub import errors

        what = hint = ""
        match error:
            case errors.GatedRepoError():
                what, hint = f"{name} is gated: its owner grants access", f"ask at its page, then {_LOG_IN}"
            case errors.RepositoryNotFoundError():
                what, hint = f"there is no model {name} on {_host()}, or it is private", f"check the name, or {_LOG_IN}"
            case errors.RevisionNotFoundError():
                what, hint = f"{name}: there is no such branch, tag or commit", "leave out @REVISION for the newest"
            case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
                what, hint = f"{name} has no {FILE}, so it is no charlm checkpoint", "see its page for what it is"
            case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
                what, hint = f"{name} is not in the cache, and HF_HUB_OFFLINE is set", "unset it to download the model"
            case errors.HfHubHTTPError() if _status(error) in (401, 403):
                what, hint = f"{_host()} refuses access to {name}", _LOG_IN
        return CheckpointError(what, kept=_KEPT, hint=hint) if what else _failure(error, _KEPT)

    return explain


def _explain_push(name: HubName, kept: str) -> Callable[[Exception], CharlmError]:
    """How to say why a model cannot be pushed."""

    def explain(error: Exception) -> CharlmError:
        if _status(error) in (401, 403):
            return ConfigError(
                f"{_host()} does not let you write to {name.repository}{_said(error)}",
                kept=kept,
                hint=f"{_LOG_IN}; the token needs write access",
            )
        if 400 <= _status(error) < 500 and _status(error) != 429:
            return CharlmError(f"{_host()} refuses the push to {name.repository}{_said(error)}", kept=kept)
        return _failure(error, kept)

    return explain


def _failure(error: Exception, kept: str) -> StorageError:
    """A disk that is full, or a network that fails."""
    if isinstance(error, OSError) and error.errno in _DISK:
        from huggingface_hub.constants import HF_HUB_CACHE

        what, hint = f"cannot write in {HF_HUB_CACHE}: {error.strerror}", "free space, or set HF_HOME to another folder"
    elif _status(error) == 429:
        what, hint = f"{_host()} takes no more requests for now (429)", f"wait a few minutes; {_LOG_IN} for more"
    elif _status(error):
        what, hint = f"{_host()} fails{_said(error)}", "try again later"
    else:
        what, hint = (
            f"no connection with {_host()}, or it broke off: {_reason(error)}",
            "check the network, then try again",
        )
    return StorageError(what, kept=kept, hint=hint)


def _status(error: Exception) -> int:
    """The HTTP status of an answer of the Hub, 0 for any other error."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _said(error: Exception) -> str:
    """The status of an answer, and what the server said about it."""
    said = str(getattr(error, "server_message", None) or "")[:_CLIPPED].strip().rstrip(".")
    return f" ({_status(error)}{': ' * bool(said)}{said})"


def _reason(error: Exception) -> str:
    """What an error of the network is called, and in its own words where they are the library's."""
    words = str(error).split("\n")[0][:_CLIPPED].rstrip(".") if isinstance(error, OSError) else ""
    return f"{type(error).__name__}{': ' * bool(words)}{words}"


def _host() -> str:
    from huggingface_hub.constants import ENDPOINT

    return str(ENDPOINT).partition("://")[2]

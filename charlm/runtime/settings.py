"""Settings of the whole process that charlm's results depend on, and how they are put back.

A command has its process to itself. A library is called by a program that has chosen its own number of threads, its own
rounding and its own random seed: `charlm.api` computes inside `computing`, which leaves all of them as they were.

What the C library does with freed memory (`charlm.runtime.processor.keep_memory`) cannot be read, so it could not be
put back. It is set only in a process that is charlm's own, as a command's is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch

_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"
_BACKENDS: Final[Any] = torch.backends  # torch's own types lack the newer switches
_CUDA: Final[Any] = torch.cuda
_DETERMINISTIC: Final[Any] = torch.utils.deterministic
# torch's older switches set some of the newer ones, so they are put back first. It refuses to read a switch, with a
# RuntimeError, where a program has used both kinds; that switch is left alone.
_SWITCHES: Final[tuple[tuple[Any, str], ...]] = (
    (_BACKENDS.cudnn, "deterministic"),
    (_BACKENDS.cuda.matmul, "allow_tf32"),
    (_BACKENDS.cudnn, "allow_tf32"),
)
_PRECISIONS: Final[tuple[tuple[Any, str], ...]] = tuple(
    (place, "fp32_precision")
    for place in (
        _BACKENDS.cuda.matmul,
        *(_BACKENDS.cudnn, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn),
        *(_BACKENDS.mkldnn, _BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn),
    )
)


def before_cuda() -> None:
    """Set what CUDA's libraries read when they start: cuBLAS is deterministic only with a workspace of this kind."""
    os.environ.setdefault(_WORKSPACE, ":4096:8")


def make_exact() -> None:
    """Let a GPU compute deterministically, and fp32 products without rounding to TF32 (see `Runtime.arithmetic`)."""
    before_cuda()
    _BACKENDS.cudnn.deterministic = True
    _BACKENDS.cudnn.allow_tf32 = _BACKENDS.cuda.matmul.allow_tf32 = False


@contextmanager
def deterministic() -> Iterator[None]:
    """Compute in here with algorithms that always give the same bits.

    On a GPU some of torch's kernels, that of the embedding's gradient among them, otherwise add numbers in the order in
    which threads finish.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = _DETERMINISTIC.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    _DETERMINISTIC.fill_uninitialized_memory = False  # which takes time and changes nothing that is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _DETERMINISTIC.fill_uninitialized_memory = fills


@contextmanager
def computing() -> Iterator[None]:
    """Compute in here with `make_exact`; afterwards threads, switches, environment and random states are as before."""
    with ExitStack() as afterwards:
        for put_back in (_threads(), _environment(), _switches(), _random_states()):
            afterwards.callback(put_back)
        make_exact()
        yield


def _threads() -> Callable[[], None]:
    before = torch.get_num_threads()
    return lambda: torch.set_num_threads(before)


def _environment() -> Callable[[], None]:
    before = os.environ.get(_WORKSPACE)

    def put_back() -> None:
        if before is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = before

    return put_back


def _switches() -> Callable[[], None]:
    older, newer = _values(_SWITCHES), _values(_PRECISIONS)
    products = _products()

    def put_back() -> None:
        for place, name, value in older:
            setattr(place, name, value)
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for place, name, value in newer:
            setattr(place, name, value)

    return put_back


def _values(switches: tuple[tuple[Any, str], ...]) -> list[tuple[Any, str, Any]]:
    """Each switch with its value, of those that torch lets us read."""
    values = []
    for place, name in switches:
        try:
            values.append((place, name, getattr(place, name)))
        except RuntimeError:
            continue
    return values


def _products() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _random_states() -> Callable[[], None]:
    """torch's global generators. Nothing of charlm draws from NumPy's or Python's."""
    processor, started = torch.get_rng_state(), _CUDA.is_initialized()
    gpus = _CUDA.get_rng_state_all() if started else []

    def put_back() -> None:
        torch.set_rng_state(processor)
        if started:
            _CUDA.set_rng_state_all(gpus)
        elif _CUDA.is_initialized():  # they were seeded when CUDA started, and nobody had drawn from them
            for generator in _CUDA.default_generators:
                generator.manual_seed(generator.initial_seed())

    return put_back

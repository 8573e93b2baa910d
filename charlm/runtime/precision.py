"""The precision of a run, chosen so that the same command on the same machine always takes the same.

Another precision is other weights from the same seed, and may be a tenth of the speed, so one measurement on a machine
that others use as well must not decide. What the processor and the layers have decides first. Where that does not say,
steps are measured, by one thread, which does not wait for others, in turn, until the answer is sure; and the answer is
kept for this machine and these sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Final, Protocol

import torch

from charlm.errors import ConfigError
from charlm.runtime import cache, processor
from charlm.runtime.threads import torch_threads

CUDA_ONLY: Final = ("tf32", "fp16")
_KEPT: Final = "precision"
_WORTH: Final = 1.15  # minimum speed-up for which reduced precision is chosen
_SURE: Final = 1.1  # a speed-up that is off by this factor from that would be decided the other way
_LEAST, _MOST = 5, 16  # measurements of each precision


class Trial(Protocol):
    """Steps of the network that is to be trained, to find out which precisions it can be trained in, and how fast.

    size    what their speed depends on, besides the machine
    sure    precisions in which its layers are faster than in fp32 wherever they work
    """

    size: str
    sure: Sequence[str]

    def works(self, precision: str) -> bool:
        """Whether this device has the instructions and libraries for it."""
        ...

    def seconds(self, precision: str) -> float:
        """The time of a step. Raises RuntimeError where the memory does not suffice."""
        ...


def check_precision(device: torch.device, precision: str) -> None:
    """Raise ConfigError if no device of this kind supports the precision."""
    if precision in CUDA_ONLY and device.type != "cuda":
        raise ConfigError(
            f"--precision {precision} needs a CUDA GPU; a CPU supports only bf16 and fp32",
            hint="use --precision auto",
        )


def choose_precision(device: torch.device, wanted: str, trial: Trial | None) -> tuple[str, str]:
    """The precision for `--precision`, and the reason; raises ConfigError for one that does not work here."""
    check_precision(device, wanted)
    if wanted != "auto":
        if trial is not None and wanted != "fp32" and not trial.works(wanted):
            here = "processor" if device.type == "cpu" else "GPU"
            raise ConfigError(
                f"--precision {wanted}: this {here} cannot compute these layers in {wanted}",
                kept="nothing was written",
                hint="use --precision fp32",
            )
        return wanted, "requested"
    faster = [precision for precision in _reduced(device) if trial is not None and trial.works(precision)]
    if trial is None or not faster:
        return "fp32", "no faster precision on this device"
    if sure := [precision for precision in faster if precision in trial.sure]:
        return sure[0], f"this processor has instructions for {sure[0]}"
    return _measured(device, faster, trial)


def has_bf16() -> bool:
    """Whether the processor has bf16 matrix instructions (AVX-512 BF16 or AMX)."""
    features = processor.features()
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and ("avx512_bf16" in features or "amx_bf16" in features)


def _reduced(device: torch.device) -> tuple[str, ...]:
    """Precisions that are likely to be faster than fp32 on this device."""
    if device.type == "cuda":  # not bf16: cuDNN's recurrent layers would compute in fp16 anyway
        return ("tf32", "fp16") if torch.cuda.get_device_capability(device) >= (8, 0) else ("fp16",)
    return ("bf16",) if device.type == "cpu" and has_bf16() else ()


def _measured(device: torch.device, faster: Sequence[str], trial: Trial) -> tuple[str, str]:
    """The fastest of fp32 and `faster`, as it was measured on this machine before or is now."""
    key = machine_key(device, trial.size)
    kept = cache.recall(_KEPT, key)
    if isinstance(kept, list) and len(kept) == 2 and kept[0] in ("fp32", *faster):
        return kept[0], str(kept[1])
    found = _fastest(_times(device, faster, trial))
    cache.remember(_KEPT, key, list(found))
    return found


def machine_key(device: torch.device, *facts: str) -> str:
    """A name for this device, this build of torch and these facts, under which to keep what was found out here."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else sorted(processor.features())
    limits = [os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    about = [torch.__version__, torch.backends.cpu.get_cpu_capability(), *limits, str(name), *facts]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:20]


def _times(device: torch.device, faster: Sequence[str], trial: Trial) -> Mapping[str, float]:
    """The shortest time of a step in each precision that it can be computed in.

    Other work only ever makes a step longer, so the shortest of some is nearly what the machine can do.
    """
    times: dict[str, list[float]] = {precision: [] for precision in ("fp32", *faster)}
    with torch_threads(1) if device.type == "cpu" else nullcontext():
        for number in range(_MOST):
            for precision in tuple(times):
                try:
                    times[precision].append(trial.seconds(precision))
                except RuntimeError:  # the memory does not suffice
                    del times[precision]
            best = {precision: min(each[1:] or each) for precision, each in times.items()}  # the first sets up as well
            if number + 1 >= _LEAST and _is_sure(best):
                break
    return best


def _is_sure(best: Mapping[str, float]) -> bool:
    """Whether no speed-up is so close to what is worth it that another measurement may decide otherwise."""
    ratios = [best.get("fp32", 0.0) / seconds for precision, seconds in best.items() if precision != "fp32"]
    return all(ratio > _WORTH * _SURE or ratio < _WORTH / _SURE for ratio in ratios)


def _fastest(best: Mapping[str, float]) -> tuple[str, str]:
    others = [precision for precision in best if precision != "fp32"]
    quickest = min(others, key=lambda precision: best[precision], default="fp32")
    if quickest == "fp32" or "fp32" not in best:
        return quickest, "no other precision works on this device"
    ratio = best["fp32"] / best[quickest]
    reason = f"measured: a {quickest} step runs at {ratio:.2f} times the speed of an fp32 step"
    return quickest if ratio > _WORTH else "fp32", reason

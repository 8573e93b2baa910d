"""A process of many, for tests/test_distributed.py, started by torchrun: `joint.py JSON`.

`cli`: a command line of charlm, in the folder that has the process's rank for a name. Otherwise `charlm.train` of
`corpus` with `options`, in float64 where `double` says so, until `stop_after` steps; the first process prints what came
of it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

RANK = int(os.environ.get("RANK", "0"))


def main(job: dict[str, Any]) -> None:
    if "cli" in job:
        os.chdir(str(RANK))
        sys.argv = ["charlm", *job["cli"]]
        from charlm.__main__ import main as command

        sys.exit(command())
    import charlm
    from charlm.training.events import Event, Stepped

    if job.get("double"):
        _compute_in_float64()
    losses: list[float] = []

    def follow(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.loss)

    trained = charlm.train(
        *job["corpus"],
        on_event=follow,
        stop=lambda: "enough" if len(losses) == job.get("stop_after") else None,
        **job["options"],
    )
    if RANK == 0:
        figures = {"losses": losses, "reason": trained.reason, **trained.result.figures()}
        print(json.dumps(figures))  # noqa: T201


def _compute_in_float64() -> None:
    """Weights, and all that is computed from them; the checkpoints of such a run cannot be loaded."""
    import torch

    from charlm.models.network import Network, initialise
    from charlm.runtime.device import Runtime
    from charlm.training import session

    def doubled(network: Network, seed: int) -> None:
        initialise(network, seed)
        network.double()

    session.initialise = doubled  # type: ignore[attr-defined]
    Runtime.type = property(lambda _: torch.float64)  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

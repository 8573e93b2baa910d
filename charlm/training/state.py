"""All that a resumed run needs, by name. Random numbers are functions of (seed, step), so they need no place here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from charlm.text.lanes import Position
from charlm.training.schedule import UNKNOWN, Plan

RECENT: Final = 100  # step losses that are remembered, for figures that a single chunk would make jump


@dataclass(slots=True)
class TrainState:
    """Where training stands, but for the tensors (weights, optimizer, carried hidden state)."""

    plan: Plan = field(default_factory=lambda: Plan.of(UNKNOWN))
    checks: int = 0  # evenly spaced looks at the held-out text in the plan
    step: int = 0  # updates so far
    position: Position = field(default_factory=Position)
    tokens_seen: int = 0
    recent: list[tuple[float, int]] = field(default_factory=list)  # nats and tokens of the last steps
    best: float | None = None  # lowest held-out loss
    best_step: int = 0
    bad_checks: int = 0  # checks since then
    loss_scale: float = 1.0
    good_steps: int = 0
    stopped: bool = False  # by patience
    rollbacks: list[tuple[int, int]] = field(default_factory=list)  # the step that diverged, the one gone back to
    # outside what is computed, so outside state_sha256:
    seconds: float = 0.0
    metrics_length: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)  # why the run is no longer what it would be without a stop

    @property
    def finished(self) -> bool:
        return self.stopped or self.step >= self.plan.total

    def recent_loss(self, steps: int) -> float:
        """Nats per token over the last steps, as many as are remembered; chunks count by their tokens."""
        last = self.recent[-min(steps, RECENT) :]
        return sum(nats for nats, _ in last) / sum(tokens for _, tokens in last)

    def to_json(self) -> dict[str, Any]:
        """What `state_sha256` covers."""
        return {
            "plan": [list(knot) for knot in self.plan.knots],
            "checks": self.checks,
            "step": self.step,
            "position": self.position._asdict(),
            "tokens_seen": self.tokens_seen,
            "recent": [list(step) for step in self.recent],
            "best": self.best,
            "best_step": self.best_step,
            "bad_checks": self.bad_checks,
            "loss_scale": self.loss_scale,
            "good_steps": self.good_steps,
            "stopped": self.stopped,
            "rollbacks": [list(rollback) for rollback in self.rollbacks],
        }

    def bookkeeping(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "metrics_length": self.metrics_length, "inexact": list(self.inexact)}

    @classmethod
    def from_json(
        cls, training: Mapping[str, Any], bookkeeping: Mapping[str, Any], history: list[dict[str, Any]]
    ) -> TrainState:
        outside = {"seconds", "metrics_length", "inexact"}
        known = {field.name for field in fields(cls)} - outside
        values = {name: value for name, value in training.items() if name in known}
        values |= {name: value for name, value in bookkeeping.items() if name in outside}
        return cls(
            **{
                **values,
                "plan": Plan.from_json(values["plan"]),
                "position": Position(**values["position"]),
                "recent": [(nats, tokens) for nats, tokens in values["recent"]],
                "rollbacks": [(diverged, back) for diverged, back in values.get("rollbacks", [])],
                "history": history,
                "inexact": list(values.get("inexact", [])),
            }
        )

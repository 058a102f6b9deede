"""Elastic weight consolidation: old tasks hold the weights that matter to them (Kirkpatrick et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sideagents.errors import CheckpointError, SideAgentsError, nearest

EWCMode = Literal["separate", "online"]


class EWC:
    """Quadratic penalty on leaving the weights of earlier tasks, weighted by their Fisher information F.

    With theta_k the weights after task k and lambda = `strength`:

    - `separate` (Kirkpatrick et al. 2017, equation 3): lambda / 2 * sum over k of sum_i F_k,i (theta_i - theta_k,i)^2;
    - `online` (Schwarz et al. 2018, Progress & Compress): lambda / 2 * sum_i F_i (theta_i - theta*_i)^2, theta* the
      latest weights only, and F <- gamma F + F_t at the end of task t. Gamma is applied there and nowhere else.

    The factor 1/2 is part of the penalty, and F is the mean over samples. Codes differ in both, so a lambda does not
    carry over: the side-tuning authors' code has no 1/2 (its 1e5 is 2e5 here) and squares the gradient of mini-batch
    means (`batched` of `fisher_information`). Its default averages anchors and Fishers over tasks, in one dictionary
    that all tasks share and average again, so that it practically holds the last task only (anchor 1.999 instead of 1.5
    after weights 1 and 2). Nothing is averaged or shared here.

    Give the weights that all tasks share and train: heads of single tasks must not be held. Statistics of BatchNorm are
    no parameters and not held either. Raises `SideAgentsError` for wrong settings and frozen parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        strength: float,
        mode: EWCMode = "separate",
        gamma: float = 1.0,
    ) -> None:
        known = get_args(EWCMode)
        if mode not in known:
            raise SideAgentsError(f"unknown EWC mode {mode!r}{nearest(mode, known)} (known: {', '.join(known)})")
        if not parameters:
            raise SideAgentsError("EWC needs at least one shared parameter to hold")
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                raise SideAgentsError(f"EWC: parameter {name!r} is frozen and cannot leave its place; leave it out")
        if not 0.0 <= strength < float("inf"):
            raise SideAgentsError(f"EWC's strength (lambda) must be finite and at least 0, got {strength}")
        if not 0.0 <= gamma <= 1.0 or (mode == "separate" and gamma != 1.0):
            raise SideAgentsError(f"EWC's gamma is between 0 and 1, and for mode 'online' only; got {gamma} ({mode})")
        self.parameters = dict(parameters)
        self.strength = strength
        self.mode = mode
        self.gamma = gamma
        self._held: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # (anchors, Fisher), by task

    def remember(self, fisher: Mapping[str, Tensor]) -> None:
        """Hold the weights as they are now, by `fisher` (names and shapes of the parameters), after a task.

        Raises `SideAgentsError` when names or shapes differ, or when a value is negative or not finite.
        """
        if fisher.keys() != self.parameters.keys():
            odd = sorted(fisher.keys() ^ self.parameters.keys())[0]
            raise SideAgentsError(
                f"EWC: the Fisher information must name the held parameters; {odd!r} is on one side only"
            )
        for name, parameter in self.parameters.items():
            if fisher[name].shape != parameter.shape:
                shapes = f"{tuple(fisher[name].shape)}, its parameter {tuple(parameter.shape)}"
                raise SideAgentsError(f"EWC: the Fisher information of {name!r} has shape {shapes}")
            if not bool((torch.isfinite(fisher[name]) & (fisher[name] >= 0)).all()):
                raise SideAgentsError(f"EWC: the Fisher information of {name!r} must be finite and not negative")
        anchors = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        weights = {name: fisher[name].detach().to(p.device, copy=True) for name, p in self.parameters.items()}
        if self.mode == "online" and self._held:
            _, earlier = self._held.pop()
            weights = {name: self.gamma * earlier[name] + weight for name, weight in weights.items()}
        self._held.append((anchors, weights))

    def penalty(self) -> Tensor:
        """Return the penalty, a scalar to add to the loss; 0 before the first task has been remembered."""
        total = torch.zeros((), device=next(iter(self.parameters.values())).device)
        for anchors, weights in self._held:
            for name, parameter in self.parameters.items():
                total = total + (weights[name] * (parameter - anchors[name]).square()).sum()
        return 0.5 * self.strength * total

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is held as plain tensors, named `K.anchor.NAME` and `K.fisher.NAME`, K from 0."""
        state: dict[str, Tensor] = {}
        for index, (anchors, weights) in enumerate(self._held):
            state |= {f"{index}.anchor.{name}": tensor for name, tensor in anchors.items()}
            state |= {f"{index}.fisher.{name}": tensor for name, tensor in weights.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave; raises `CheckpointError` when it belongs to other parameters or mode."""
        count = len({name.partition(".")[0] for name in state})
        wanted = {
            f"{index}.{part}.{name}": parameter
            for index in range(count)
            for part in ("anchor", "fisher")
            for name, parameter in self.parameters.items()
        }
        for key in sorted(wanted.keys() ^ state.keys()):
            raise CheckpointError(f"EWC state: {key!r} is {'missing' if key in wanted else 'not part of it'}")
        for key, parameter in wanted.items():
            if state[key].shape != parameter.shape:
                shapes = f"{tuple(state[key].shape)} instead of {tuple(parameter.shape)}"
                raise CheckpointError(f"EWC state: {key!r} has shape {shapes}")
        if self.mode == "online" and count > 1:
            raise CheckpointError(
                f"EWC state holds {count} tasks apart; mode 'online' keeps one, load it as 'separate'"
            )

        def part(index: int, kind: str) -> dict[str, Tensor]:
            named = {name: state[f"{index}.{kind}.{name}"] for name in self.parameters}
            return {name: t.detach().to(self.parameters[name].device, copy=True) for name, t in named.items()}

        self._held = [(part(index, "anchor"), part(index, "fisher")) for index in range(count)]

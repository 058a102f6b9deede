"""How a side starts by distillation: it learns to say what the backbone says, before it sees the task's labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sideagents.core.modes import modes_kept
from sideagents.errors import SideAgentsError


class Ladder(Protocol):
    """What distilling asks of a ladder."""

    backbone: nn.Module
    twins: nn.ModuleDict
    up: nn.Linear

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Return the model's output."""

    def last_states(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Return the last hidden states (B, T, C) of side and backbone."""

    def modules(self) -> Iterator[nn.Module]:
        """Yield all parts."""

    def train(self, mode: bool = True) -> Any:
        """Set the mode."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""


def distil(ladder: Ladder, batches: Iterable[Mapping[str, Tensor]], learning_rate: float = 1e-3) -> list[float]:
    """Let a ladder's side learn the output of its own backbone; return the loss of each batch.

    batches: inputs as the backbone takes them, each of one step of Adam; for several epochs, give them again. Of a
    language model the side learns the distribution over words (Kullback-Leibler divergence), of other ones the last
    hidden state (squared error over the state's mean square). A task's head does not learn. The side is left in the
    mode it had. LST, section 5 compares this with pruning. Raises `SideAgentsError` where there is no batch.
    """
    # a language model's head says what matters in its states; that of a task has not learned anything yet
    head = getattr(ladder.backbone, "get_output_embeddings", lambda: None)()
    loss_of = _of_states if head is None else _of_words
    learned = [p for part in (ladder.twins, ladder.up) for p in part.parameters()]
    optimizer = torch.optim.Adam(learned, lr=learning_rate)
    losses = []
    with modes_kept(ladder), torch.enable_grad():
        ladder.train()
        for batch in batches:
            loss = loss_of(ladder, batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's annotations
            optimizer.step()
            ladder.zero_grad()
            losses.append(float(loss.detach()))
    if not losses:
        raise SideAgentsError("distil: there is no batch to learn from")
    return losses


def _of_words(ladder: Ladder, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        words = {name: given for name, given in batch.items() if not name.startswith("visual")}
        wanted = F.log_softmax(ladder.backbone(**words).logits.float(), dim=-1)
    found = F.log_softmax(ladder(**batch).logits.float(), dim=-1)
    apart = F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=-1)
    return _mean(apart, batch)


def _of_states(ladder: Ladder, batch: Mapping[str, Tensor]) -> Tensor:
    found, wanted = ladder.last_states(**batch)
    apart = (found - wanted).float().square().mean(dim=-1) / wanted.float().square().mean()
    return _mean(apart, batch)


def _mean(apart: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Average over the positions (B, T) that count: those with a label, else those that are not padding."""
    labels, mask = batch.get("labels"), batch.get("attention_mask")
    if labels is not None and labels.shape == apart.shape:
        weights = labels != -100
    elif mask is not None and mask.shape == apart.shape:
        weights = mask.bool()
    else:
        return apart.mean()
    return cast(Tensor, (apart * weights).sum() / weights.sum().clamp(min=1))

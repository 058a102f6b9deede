"""A side distilled from its base as a configuration asks for it: `side_init: distilled`, and the section `distil`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from sideagents.bases.encoder import MidLevelDecoder
from sideagents.core.base import FrozenBase
from sideagents.core.init import load_student
from sideagents.errors import CheckpointError
from sideagents.machine.devices import device_of
from sideagents.storage.files import find_data, missing
from sideagents.storage.tensors import load_tensors
from sideagents.train.distil import DistilConfig, distil

DISTILLED = "distilled"  # the word for `side_init`


class StudentConfig(DistilConfig):
    """How a side is distilled where `side_init` is `distilled`, and what of the base beside its codes teaches it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    decoder: str | None = Field(
        None, description="weights of the base's decoder, which `sideagents pretrain` leaves in its run's folder"
    )
    classifier: str | None = Field(
        None, description="weights of the base's linear classifier, such as `task.safetensors` of the run that made it"
    )

    @model_validator(mode="after")
    def _teachers_named(self) -> Self:
        for weight, part in (("perceptual", "decoder"), ("labels", "classifier")):
            if (getattr(self, weight) > 0) != (getattr(self, part) is not None):
                raise ValueError(f"{weight} above 0 and {part} belong together: give both, or neither")
        return self


def distil_side(
    base: FrozenBase, side: nn.Module, images: Tensor, held_out: Tensor, config: StudentConfig, out: Path
) -> None:
    """Distil `base` into `side`, in place, and write `out`; where that file is there, read it in place of training.

    images, held_out: uint8 (N, C, H, W). Prints how much of the code's variance on held-out images the side explains.
    Raises `SideAgentsError`, as `distil` does.
    """
    if out.is_file():
        load_student(side, out)
        return
    decoder = None if config.decoder is None else load_decoder(Path(find_data(config.decoder)), base.out_shape)
    classifier = None
    if config.classifier is not None:
        classifier = load_classifier(Path(find_data(config.classifier)), base.out_shape)
    for part in (decoder, classifier):
        if part is not None:
            part.to(device_of(side))
    found = distil(base, side, images, held_out, config, out, decoder=decoder, classifier=classifier)
    print(f"distilled: the side explains {100 * found.explained:.1f} % of the variance of the base's code", flush=True)


def missing_teachers(config: StudentConfig) -> Iterator[str]:
    """Yield one line for each weights file that is not there."""
    named = {"distil.decoder": config.decoder, "distil.classifier": config.classifier}
    yield from missing({key: None if name is None else find_data(name) for key, name in named.items()})


def load_decoder(path: Path, code: tuple[int, ...]) -> MidLevelDecoder:
    """Return the decoder that `sideagents pretrain` wrote; raises `CheckpointError` for one of other codes."""
    tensors = load_tensors(path)
    try:
        outputs, width = tensors["body.4.weight"].shape[:2]
        decoder = MidLevelDecoder(outputs // 4, code[0], width)
        decoder.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError):
        raise CheckpointError(f"{path}: is no decoder of codes {code} that `sideagents pretrain` wrote") from None
    return decoder


def load_classifier(path: Path, code: tuple[int, ...]) -> nn.Module:
    """Return a linear classifier, of the mean over the grid where codes are maps, from its weight and bias.

    In the file of a task they are the readout's. Raises `CheckpointError` where there is not one for such codes.
    """
    tensors = load_tensors(path)
    tensors = {name: t for name, t in tensors.items() if name.startswith("readout.")} or tensors
    weights = [t for name, t in tensors.items() if name.endswith("weight") and t.dim() == 2]
    biases = [t for name, t in tensors.items() if name.endswith("bias") and t.dim() == 1]
    if len(weights) != 1 or len(biases) != 1 or weights[0].shape != (len(biases[0]), code[0]):
        raise CheckpointError(
            f"{path}: needs one weight (classes, {code[0]}) and one bias of a classifier of codes {code}"
        )
    linear = nn.Linear(code[0], len(biases[0]))
    linear.load_state_dict({"weight": weights[0], "bias": biases[0]})
    return linear if len(code) == 1 else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)

"""Distillation: the student comes close to the base, its file fits such a side, mirrors and decoder count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sideagents.core.base import FrozenBase
from sideagents.core.init import load_student
from sideagents.core.side import make_side
from sideagents.errors import SideAgentsError
from sideagents.train.distil import DistilConfig, code_error, distil, encode_all, soft_label_loss


class Teacher(nn.Module):
    """Code: mean brightness of each 4x4 cell, and how much brighter its right half is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.encoded = 0

    def forward(self, images: Tensor) -> Tensor:
        self.encoded += len(images)
        grey = images.mean(1, keepdim=True) * self.scale
        left, right = (nn.functional.avg_pool2d(grey[..., part::2], (4, 2)) for part in (0, 1))
        return torch.cat([left + right, 4 * (right - left)], dim=1)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(160, 3, 8, 8, generator=generator)
    fine = 0.3 * torch.rand(160, 3, 16, 16, generator=generator)
    return ((nn.functional.interpolate(coarse, 16) * 0.7 + fine) * 255).to(torch.uint8)


def settings(**changes: object) -> DistilConfig:
    values: dict[str, object] = {"epochs": 40, "batch_size": 16, "learning_rate": 2e-2, "precision": "float32"}
    return DistilConfig.model_validate(values | changes)


def student(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.Conv2d(width, 2, 1))


def test_the_student_learns_the_code_and_its_file_fits(images: Tensor, tmp_path: Path) -> None:
    base = FrozenBase(Teacher(), "teacher", (16, 16))
    side = student()
    before = code_error(base, side, images[128:])
    result = distil(base, side, images[:128], images[128:], settings(), tmp_path / "student.safetensors")
    assert result.error < 0.1 * before[0]
    assert result.explained > 0.9 > 0 > before[1]
    assert result.seconds > 0
    again = student()
    load_student(again, result.path)
    assert torch.equal(encode_all(again, images), encode_all(side, images))


def test_the_base_runs_once_per_image_and_once_per_mirror(images: Tensor, tmp_path: Path) -> None:
    for mirror, passes in ((False, 1), (True, 2)):
        teacher = Teacher()
        base = FrozenBase(teacher, "teacher", (16, 16))
        teacher.encoded = 0
        out = tmp_path / "student.safetensors"
        distil(base, student(), images[:128], images[128:], settings(epochs=3, mirror=mirror), out)
        assert teacher.encoded == 128 * passes + 32
        assert teacher.scale.grad is None


def test_the_decoder_weighs_errors_and_stays_frozen(images: Tensor, tmp_path: Path) -> None:
    """A student of one inner channel must choose: alone it takes the louder channel, with this decoder the first."""

    class FirstOnly(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(2, 1, 1, bias=False)
            with torch.no_grad():
                self.weight.copy_(torch.tensor([10.0, 0.0]).view(1, 2, 1, 1))

    base = FrozenBase(Teacher(), "teacher", (16, 16))
    out = tmp_path / "student.safetensors"
    errors = []
    for perceptual in (0.0, 10.0):
        side, decoder = student(width=1), FirstOnly()
        options = settings(perceptual=perceptual)
        distil(base, side, images[:128], images[128:], options, out, decoder=decoder)
        assert decoder.weight.flatten().tolist() == [10.0, 0.0]
        gap = encode_all(side, images[128:]) - encode_all(base, images[128:])
        errors.append(gap.square().mean(dim=(0, 2, 3)))
    assert errors[1][0] < 0.5 * errors[0][0]
    assert errors[1][1] > 2 * errors[0][1]


def test_what_cannot_be_distilled_is_refused(images: Tensor, tmp_path: Path) -> None:
    base = FrozenBase(Teacher(), "teacher", (16, 16))
    out = tmp_path / "student.safetensors"
    with pytest.raises(SideAgentsError, match=r"the side's code is \(3, 4, 4\), that of base 'teacher' \(2, 4, 4\)"):
        distil(base, make_side("conv", (3, 4, 4), input_size=(16, 16)), images, images, settings(), out)
    with pytest.raises(SideAgentsError, match="needs the base's decoder"):
        distil(base, student(), images, images, settings(perceptual=1.0), out)
    assert not out.exists()


def test_soft_labels_by_hand() -> None:
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])  # 3/4 and 1/4 at temperature 2
    student = torch.zeros(1, 2)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(soft_label_loss(student, teacher, 2.0)) == pytest.approx(4 * divergence)
    assert float(soft_label_loss(teacher, teacher, 3.0)) == pytest.approx(0.0, abs=1e-6)


def test_soft_labels_alone_teach_what_the_classifier_asks(images: Tensor, tmp_path: Path) -> None:
    base = FrozenBase(Teacher(), "teacher", (16, 16))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    torch.manual_seed(1)
    classifier[1].weight.data.normal_(std=2.0)
    side = student()
    config = settings(code=0.0, labels=1.0, temperature=2.0)

    def divergence() -> float:
        with torch.no_grad():
            found, wanted = (classifier(encode_all(net, images[128:])) for net in (side, base))
        return float(soft_label_loss(found, wanted, 2.0))

    before = divergence()
    distil(base, side, images[:128], images[128:], config, tmp_path / "s.safetensors", classifier=classifier)
    assert divergence() < 0.3 * before
    assert not any(p.requires_grad or p.grad is not None for p in classifier.parameters())
    with pytest.raises(SideAgentsError, match="labels above 0 needs the base's classifier"):
        distil(base, side, images[:128], images[128:], config, tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="there is nothing to learn"):
        settings(code=0.0)

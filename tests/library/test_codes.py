"""Cached codes: computed once, read from the disk after that, never of another base or other images."""

from __future__ import annotations

import pytest
import torch

from sideagents.bases import load_base
from sideagents.core.base import FrozenBase
from sideagents.data.codes import cache_folder, cached_codes

IMAGES = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_codes_are_computed_once(tmp_path, monkeypatch):
    base = load_base("cifar:resnet20")
    first = cached_codes(base, IMAGES, tmp_path)
    assert torch.allclose(first, base(IMAGES), atol=1e-5)
    monkeypatch.setattr(FrozenBase, "forward", lambda *_: pytest.fail("was computed again"))
    assert torch.equal(cached_codes(base, IMAGES, tmp_path), first)
    assert len(list(tmp_path.glob("*.codes"))) == 1


def test_another_base_and_other_images_have_their_own(tmp_path):
    base, other = load_base("cifar:resnet20"), load_base("cifar:resnet20", seed=1)
    one = cached_codes(base, IMAGES[:10], tmp_path)
    assert not torch.equal(cached_codes(other, IMAGES[:10], tmp_path), one)
    assert not torch.equal(cached_codes(base, IMAGES[10:20], tmp_path), one)
    assert len(list(tmp_path.glob("*.codes"))) == 3


def test_the_type_that_the_base_computes_in_counts(tmp_path):
    rough = cached_codes(load_base("cifar:resnet20", dtype="bfloat16"), IMAGES[:10], tmp_path)
    assert not torch.equal(cached_codes(load_base("cifar:resnet20"), IMAGES[:10], tmp_path), rough)


def test_a_cut_file_is_made_again_and_nothing_half_written_stays(tmp_path, monkeypatch):
    base = load_base("cifar:resnet20")
    whole = cached_codes(base, IMAGES[:10], tmp_path).clone()
    (path,) = tmp_path.glob("*.codes")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(cached_codes(base, IMAGES[:10], tmp_path), whole)
    monkeypatch.setattr(FrozenBase, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cached_codes(base, IMAGES[:20], tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_what_is_written_to_the_codes_does_not_reach_the_file(tmp_path):
    base = load_base("cifar:resnet20")
    codes = cached_codes(base, IMAGES[:10], tmp_path)
    kept = codes.clone()
    codes.zero_()
    assert torch.equal(cached_codes(base, IMAGES[:10], tmp_path), kept)


def test_the_folder_is_the_user_s_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDEAGENTS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "codes"

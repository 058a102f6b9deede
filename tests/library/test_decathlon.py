"""The Visual Decathlon: images meet labels by id, and the score is the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from decathlon_files import put_domain
from sideagents.data.decathlon import DOMAINS, decathlon_score, image_size, load_decathlon
from sideagents.errors import SideAgentsError

PUBLISHED = """
row imagenet12 aircraft cifar100 daimlerpedcls dtd gtsrb vgg-flowers omniglot svhn ucf101 S
fine-tuning           60.32 60.34 82.12 92.82 55.53 99.42 81.41 89.12 96.55 51.20 3096
series                60.32 61.87 81.22 93.88 57.13 99.27 81.67 89.62 96.57 50.12 3159
parallel              60.32 64.21 81.91 94.73 58.83 99.38 84.68 89.21 96.54 50.94 3412
early                 60.32 50.47 78.58 93.26 58.46 99.00 82.27 87.68 95.39 47.77 2610
mid                   60.32 57.88 79.25 94.24 56.65 98.85 83.43 88.47 95.96 48.98 2852
late                  60.32 61.06 80.58 94.02 57.87 99.19 84.68 89.06 96.30 50.94 3159
half                  60.32 61.15 81.24 94.36 58.40 98.85 84.76 88.69 96.19 49.99 3061
svd                   60.32 66.04 81.86 94.23 57.82 99.24 85.74 89.25 96.62 52.50 3398
rebuffi-2017          59.23 63.73 81.31 93.30 57.02 97.47 83.43 89.82 96.17 50.28 2643
rosenfeld             57.74 64.11 80.07 91.29 56.54 98.46 86.05 89.67 96.77 49.38 2851
taps-0.25             60.32 66.58 81.76 97.07 58.83 99.07 86.99 88.79 95.72 51.92 3533
taps-0.5              60.32 62.05 81.74 97.13 57.02 98.40 85.80 88.96 95.62 49.06 3180
taps-1                60.32 63.43 81.04 96.99 58.19 98.38 84.08 89.16 94.99 51.10 3088
"""
(_, *ORDER, _), *_rows = (line.split() for line in PUBLISHED.strip().splitlines())
ROWS = {row[0]: [float(field) for field in row[1:]] for row in _rows}


def fault(root: Path, domain: str = "aircraft", split: Any = "train", **options: Any) -> str:
    with pytest.raises(SideAgentsError) as caught:
        load_decathlon(root, domain, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_labels_are_joined_by_id(tmp_path: Path) -> None:
    put_domain(tmp_path)
    data = load_decathlon(tmp_path, "aircraft", "train")
    assert data.images.shape == (3, 3, 64, 64)
    assert data.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert data.labels.tolist() == [2, 0, 1]
    assert data.classes == ("plane 1", "plane 2", "plane 3", "plane 4")
    assert data.offset == 10_000_001
    assert data.of_classes(1, 2).labels.tolist() == [1, 0]


def test_the_size_is_the_domains_unless_given(tmp_path: Path) -> None:
    for domain in ("gtsrb", "dtd"):
        put_domain(tmp_path, domain)
    assert load_decathlon(tmp_path, "gtsrb", "train").images.shape[-1] == 72
    assert load_decathlon(tmp_path, "dtd", "train").images.shape[-1] == 64
    assert load_decathlon(tmp_path, "dtd", "train", size=72).images.shape[-1] == 72
    assert {name for name in DOMAINS if image_size(name) == 72} == {"gtsrb", "omniglot", "svhn"}
    assert "must be 64 or 72, got 32" in fault(tmp_path, size=32)


def test_the_centre_is_kept_and_other_sizes_become_72(tmp_path: Path) -> None:
    put_domain(tmp_path)
    tall = Image.new("RGB", (72, 144))
    tall.paste((200, 100, 50), (4, 40, 68, 104))
    tall.save(tmp_path / "data/aircraft/train/000001.png")
    Image.new("RGB", (30, 50), (9, 9, 9)).save(tmp_path / "data/aircraft/train/000002.png")
    images = load_decathlon(tmp_path, "aircraft", "train").images
    assert images[1].flatten(1).unique(dim=1).tolist() == [[200], [100], [50]]
    assert images[2].unique().tolist() == [9]


def test_the_challenges_test_split_has_no_labels(tmp_path: Path) -> None:
    put_domain(tmp_path, split="test", annotations=None)
    assert "image 10200003 (data/aircraft/test/000003.png) has no annotation; labels of the test" in fault(
        tmp_path, split="test"
    )
    put_domain(tmp_path, split="test")
    assert len(load_decathlon(tmp_path, "aircraft", "test")) == 3


def test_what_is_missing_or_wrong_is_one_line(tmp_path: Path) -> None:
    assert "unknown domain 'aircaft', did you mean 'aircraft'?" in fault(tmp_path, "aircaft")
    assert "unknown split 'valid', did you mean 'val'?" in fault(tmp_path, split="valid")
    assert "no such data folder; the Visual Decathlon is at https://" in fault(tmp_path / "gone")
    assert "no such file" in fault(tmp_path)
    path = put_domain(tmp_path)
    entry = {"image_id": 10200001, "category_id": 10000001}
    both = [entry, entry | {"category_id": 10000002}]
    cases: dict[str, dict[str, Any]] = {
        "is no annotation file of the Decathlon (KeyError: 'images')": {"images": None},
        "(KeyError: 'category_id')": {"annotations": [{"image_id": 1}]},
        "is no annotation file of the Decathlon (TypeError": {"categories": 3},
        "has 0 images and 4 categories": {"images": []},
        "has 2 annotations of 1 images": {"annotations": both},
        "its category ids do not follow each other from 5 on": {"categories": [{"id": i, "name": ""} for i in (5, 7)]},
        "image 10200003 has the unknown category 10000003": {
            "categories": [{"id": 10000000 + i, "name": ""} for i in (1, 2)]
        },
    }
    for message, changes in cases.items():
        put_domain(tmp_path, **changes)
        assert message in fault(tmp_path)
        assert str(path) in fault(tmp_path)
    path.write_text("[1, 2]")
    assert "is no annotation file of the Decathlon" in fault(tmp_path)
    put_domain(tmp_path)
    (tmp_path / "data/aircraft/train/000002.png").unlink()
    assert "000002.png: no such file" in fault(tmp_path)


@pytest.mark.parametrize("name", ROWS)
def test_published_scores(name: str) -> None:
    *accuracies, score = ROWS[name]
    assert decathlon_score(dict(zip(ORDER, accuracies, strict=True))) == pytest.approx(score, abs=3)


def test_the_score_is_2500_for_the_baseline_and_10000_without_error() -> None:
    assert len(ROWS) == 13
    assert sorted(ORDER) == list(DOMAINS)
    assert decathlon_score({name: domain.baseline for name, domain in DOMAINS.items()}) == pytest.approx(2500)
    assert decathlon_score(dict.fromkeys(DOMAINS, 100.0)) == pytest.approx(10_000)
    assert decathlon_score(dict.fromkeys(DOMAINS, 0.0)) == 0  # worse than twice the error: nothing, not its square


def test_scores_of_other_domains_are_refused() -> None:
    whole = dict.fromkeys(DOMAINS, 50.0)
    with pytest.raises(SideAgentsError, match="needs all ten domains, dtd, svhn not given"):
        decathlon_score({name: value for name, value in whole.items() if name not in ("dtd", "svhn")})
    with pytest.raises(SideAgentsError, match="unknown domain 'cifar10', did you mean 'cifar100'"):
        decathlon_score(whole | {"cifar10": 50.0})
    for wrong in (-1.0, 101.0, float("nan")):
        with pytest.raises(SideAgentsError, match="the accuracy of dtd must be in percent, 0 to 100"):
            decathlon_score(whole | {"dtd": wrong})

"""One table {base x side x merge x method} against one list of invariants: a new row is held to all of them."""

import copy
from functools import cache, partial

import pytest
import torch
from torch import nn

from byte_images import images
from sideagents import MERGES, METHODS, FrozenBase, build_perception, list_bases, load_base
from sideagents.core.pixels import fit_images


class Vector(nn.Module):
    """A vector encoder with the layers that freezing gets wrong: BatchNorm and Dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(8, 16)

    def forward(self, images):
        return self.out(self.drop(torch.relu(self.norm(self.conv(images)))).mean(dim=(2, 3)))


class Plain(nn.Module):
    """A user's own side."""

    def __init__(self, out_shape):
        super().__init__()
        self.out_shape = out_shape
        self.conv = nn.Conv2d(3, out_shape[0], 5, padding=2)

    def forward(self, images):
        x = self.conv(images)
        return x.mean(dim=(2, 3)) if len(self.out_shape) == 1 else nn.functional.adaptive_avg_pool2d(x, (8, 8))


def vector_base():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FrozenBase(Vector(), "vector", (32, 32))


# every base that is made from nothing, and with it whatever is registered next; small where it can be
OPTIONS = {"random": {"width": 16}}
MADE = [str(row["name"]) for row in list_bases() if row["kind"] in ("control", "own") and row["available"]]
BASES = {name: partial(load_base, name, **OPTIONS.get(name, {})) for name in MADE} | {"vector": vector_base}
SIDES = ["conv", "copy", f"{__name__}:Plain"]
TABLE = [
    (base, side, merge, method)
    for base in BASES
    for method in METHODS.names()
    for side in (SIDES if method not in ("features", "stagewise") else ["conv"])
    for merge in (MERGES.names() if method in ("sidetune", "finetune") else ["alpha"])
    if not (base == "pixels" and (side == "copy" or method == "stagewise"))  # no weights that a copy could train
]


def rows_of(keep):
    rows = [row for row in TABLE if keep(*row)]
    return pytest.mark.parametrize(("base", "side", "merge", "method"), rows, ids=["-".join(row) for row in rows])


cases = rows_of(lambda *row: True)
blended = rows_of(lambda base, side, merge, method: MERGES.get(merge).exact_ends and method != "features")
frozen_base = rows_of(lambda base, side, merge, method: method not in ("finetune", "scratch"))
# A trained copy of an encoder with Dropout differs between the modes by design.
modeless = rows_of(
    lambda base, side, merge, method: (
        MERGES.get(merge).modeless
        and (base != "vector" or (side != "copy" and method not in ("finetune", "scratch", "stagewise")))
    )
)


@cache
def base_of(name):
    return BASES[name]()


def make(base, side, merge, method, seed=0):
    torch.manual_seed(seed)
    model = build_perception(method, base_of(base), side, merge)
    if side == "copy":  # where base and side agree, alpha has nothing to choose and no gradient
        for parameter in model.side.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def train(model, readout):
    """Two steps with weight decay and everything in train mode, as any training loop does."""
    optimizer = torch.optim.AdamW([*model.parameter_groups(1e-2, 1e-1, 0.1), {"params": readout.parameters()}])
    for seed in range(2):
        model.train()
        optimizer.zero_grad()
        code = model(images(seed=seed))
        (readout(code.flatten(1)) - 1.0).square().mean().backward()
        optimizer.step()
    return optimizer


@cases
def test_codes_have_the_shape_of_the_base_and_are_float32(base, side, merge, method):
    code = make(base, side, merge, method)(images())
    assert code.shape == (2, *base_of(base).out_shape)
    assert code.dtype == torch.float32
    assert torch.isfinite(code).all()


@cases
def test_training_moves_what_is_trained_and_not_one_byte_of_the_base(base, side, merge, method):
    model, mark = make(base, side, merge, method), base_of(base).fingerprint
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = train(model, nn.Linear(model(images()).flatten(1).shape[1], 1))
    assert base_of(base).fingerprint == mark
    frozen = {id(p) for p in base_of(base).parameters()}
    assert not frozen & {id(p) for group in optimizer.param_groups for p in group["params"]}
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    if method != "stagewise":  # at alpha 1 its copy has had no part yet
        # Behind a dead ReLU a weight may stand still; each part as a whole must move.
        assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name in before}


@cases
def test_gradient_reaches_alpha_and_every_trained_part(base, side, merge, method):
    model = make(base, side, merge, method)
    if method in ("features", "stagewise"):
        assert not model(images()).requires_grad
        return
    # A fixed random readout: the plain sum of a normalised code is constant and has no gradient.
    code = model(images())
    (code * torch.randn(code.shape, generator=torch.Generator().manual_seed(7))).sum().backward()
    got = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert got == {name.split(".")[0] for name, _ in model.named_parameters()}
    assert all(p.grad is None for p in base_of(base).parameters())


@cases
def test_save_and_strict_load_give_the_same_codes(base, side, merge, method):
    model, other = make(base, side, merge, method), make(base, side, merge, method, seed=1)
    state = model.state_dict()
    if model.uses_frozen_base:
        assert not any(name.startswith("base.") for name in state)
    frozen = {p.data_ptr() for p in (*base_of(base).parameters(), *base_of(base).buffers())}
    assert not frozen & {t.data_ptr() for t in state.values()}
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.eval()(images()), model.eval()(images()))
    assert torch.equal(copy.deepcopy(model)(images()), model(images()))


@cases
def test_groups_hold_each_trained_parameter_once_and_alpha_without_decay(base, side, merge, method):
    model = make(base, side, merge, method)
    groups = model.parameter_groups(1e-3, 1e-2, 0.1)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for p in model.trainable_parameters()})
    alphas = {id(p) for name, p in model.named_parameters() if "alpha" in name}
    for group in groups:
        assert (group["weight_decay"] == 0.0) == ({id(p) for p in group["params"]} <= alphas)
    assert model.summary()["total"]["trainable"] == sum(p.numel() for p in model.trainable_parameters())


@blended
def test_alpha_one_is_the_base_and_alpha_zero_the_side_bitwise(base, side, merge, method):
    model = make(base, side, merge, method).eval()
    alpha = next(iter((*model.alpha.parameters(), *model.alpha.buffers())))
    learned = alpha.requires_grad
    alpha.data.fill_(200.0 if learned else 1.0)
    assert torch.equal(model(images()), model.base(images()))
    alpha.data.fill_(-200.0 if learned else 0.0)
    assert torch.equal(model(images()), model.side(fit_images(images().float() / 255, model.input_size)))


@frozen_base
def test_cached_codes_change_nothing(base, side, merge, method):
    model = make(base, side, merge, method).eval()
    code = base_of(base)(images())
    expected = model(images())
    assert torch.equal(model(images(), code), expected)
    if not model.needs_images:
        assert torch.equal(model(None, code), expected)


@modeless
def test_train_and_eval_mode_agree(base, side, merge, method):
    """Reinforcement learning collects in eval mode and learns in train mode; its ratios must start at 1."""
    model = make(base, side, merge, method)
    assert torch.equal(model.train()(images()), model.eval()(images()))

"""Sequences of tasks: every method learns, additive ones forget nothing, a stopped run goes on to the same bytes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_files import TRAIN
from optional_packages import methods_of
from rendered_images import put_images
from run_files import weights
from sideagents.adaptation import ADAPTATIONS
from sideagents.bases import load_base
from sideagents.config.typed import config_hash, load_config
from sideagents.core.trainable import shared_view
from sideagents.data.images import LabelledImages
from sideagents.errors import ConfigError, SideAgentsError
from sideagents.jobs import lifelong as run_module
from sideagents.jobs.lifelong import lifelong, table_of
from sideagents.lifelong.learner import Learner
from sideagents.lifelong.learners import LEARNERS
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents.lifelong.stream import StreamTask
from sideagents.run.checkpoint import load_checkpoint
from sideagents.run.folder import RunFolder
from sideagents.run.scalars import read_scalars
from sideagents_policies.cli.main import main
from vision_jobs import lifelong_config

LENT = {*ADAPTATIONS.names()} - {"sidetune", "features", "finetune"}  # methods of `adapt` alone
FORGET_NOTHING = ({*ADAPTATIONS.names()} - {"finetune"}) | {"independent", "pnn"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of small buildings, with targets."""
    root = tmp_path_factory.mktemp("images")
    put_images(root / "train", 3)
    put_images(root / "val", 1, first=3)
    return root


@pytest.mark.parametrize("method", ["sidetune", "independent", "pnn"])
def test_curricula_go_their_way_in_every_task_and_the_side_learns(cifar: Path, tmp_path: Path, method: str) -> None:
    run, result = lifelong(lifelong_config(cifar, tmp_path, method=method, alpha="linear:0.5"))
    assert result["alpha"] == [0.0, 0.0]
    _, result = lifelong(lifelong_config(cifar, tmp_path, method=method, alpha="hyperbolic:2"))
    epochs = 8 * 16 / (2 * TRAIN)
    assert result["alpha"] == [pytest.approx(2 / (2 + epochs))] * 2
    tensors = load_checkpoint(RunFolder.open(run).checkpoint()).tensors
    sides = [name for name in tensors if ("side." in name and name.endswith("weight")) or "columns.1" in name]
    start = lifelong_config(cifar, tmp_path, method=method, alpha=1.0, name="start")
    still = load_checkpoint(RunFolder.open(lifelong(start)[0]).checkpoint()).tensors
    moved = [name for name in sides if not torch.equal(tensors[name], still[name])]
    assert moved


@pytest.fixture(params=methods_of(LEARNERS), scope="module")
def played(request: pytest.FixtureRequest, cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A method's run folder and result."""
    runs = tmp_path_factory.mktemp(request.param)
    # each task's own BatchNorm begins with the base's statistics, or with none
    steps = {"psp": 16, "residual_adapters": 40}.get(request.param, 8)
    return request.param, *lifelong(lifelong_config(cifar, runs, method=request.param, steps=steps))


def test_every_method_learns_and_says_what_it_cost(played: Any) -> None:
    method, run, result = played
    assert result["method"] == method
    assert result["tasks"] == ["0-1", "2-3"]
    assert result["accuracy"][0][1] is None
    assert result["per_task"] == result["accuracy"][1]
    assert result["mean_accuracy"] == pytest.approx(sum(result["per_task"]) / 2)
    rows = read_scalars(run / "progress.csv")
    if method in ("scratch", "taps"):  # whose BatchNorm sees too little here to be tested by
        assert float(rows[-2]["train/loss"]) < math.log(2)
    else:
        assert result["accuracy"][1][1] > 0.5
    assert [float(row["eval/mean_accuracy"]) for row in rows if row["eval/mean_accuracy"]] == [
        result["accuracy"][0][0], pytest.approx(result["mean_accuracy"])
    ]  # fmt: skip
    assert json.loads((run / "result.json").read_text()) == result
    assert f"{method}: mean accuracy" in table_of(result)
    known = [f"{value:.2f}" for value in result["alpha"] if value is not None]
    assert table_of(result).splitlines()[2:] == ([f"alpha: 0-1 {known[0]}  2-3 {known[1]}"] if known else [])


def test_what_is_additive_forgets_nothing(played: Any) -> None:
    method, _, result = played
    if method in FORGET_NOTHING:
        assert result["loss"][1][0] == result["loss"][0][0]  # to the bit
        assert result["forgetting"] == 0.0
    else:
        assert result["loss"][1][0] != result["loss"][0][0]


def test_weights_of_a_task(played: Any) -> None:
    method, _, result = played
    readout = 64 * 2 + 2
    expected = {"sidetune": 25_904 + 1, "features": 0, "pnn": 37_428 + 1}
    if method in expected:
        assert result["weights_per_task"] == [expected[method] + readout] * 2
    assert [alpha is None for alpha in result["alpha"]] == [method in LENT] * 2  # which have no base to weigh
    assert all(0.0 < alpha <= 1.0 for alpha in result["alpha"] if alpha is not None)
    base, side = 269_072, 25_904  # a ResNet-20 without its last layer
    once = {"sidetune": 2 * (side + 1), "pnn": 2 * (37_428 + 1), "features": 0, "independent": 2 * (base + side + 1)}
    once |= {"finetune": base + side + 1, "ewc": base + side + 1}
    if method in once:
        trained = once[method] + 2 * readout
        assert result["multiple"] == pytest.approx((base + trained) / base)


AUGMENTED: dict[str, Any] = {"augment": "flip_crop", "precision": "bfloat16"}
CHANGES: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in LEARNERS.names() if method not in ("lora", "ia3")),
    ("finetune", AUGMENTED),
    ("sidetune", AUGMENTED | {"views": 2}),
    ("sidetune", AUGMENTED | {"side": "feedback"}),
]


@pytest.mark.parametrize(("method", "changes"), CHANGES)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    method: str, changes: dict[str, Any], cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result = lifelong(lifelong_config(cifar, tmp_path / "whole", method=method, **changes))
    config = lifelong_config(cifar, tmp_path / "cut", method=method, **changes)
    original = run_module.TaskSequence._train

    def stop_in_the_second(self: Any, task: int, shown: Any) -> None:
        if task == 1:
            raise KeyboardInterrupt
        original(self, task, shown)

    monkeypatch.setattr(run_module.TaskSequence, "_train", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        lifelong(config)
    monkeypatch.setattr(run_module.TaskSequence, "_train", original)
    run, again = lifelong(config, resume=True)
    assert run == tmp_path / "cut" / "lifelong_1"
    assert weights(run) == weights(whole)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in result.items() if k != "seconds"}
    assert load_checkpoint(RunFolder.open(run).checkpoint()).step == 2
    with pytest.raises(ConfigError, match="steps was 8, now 9"):
        lifelong(lifelong_config(cifar, tmp_path / "cut", method=method, steps=9, **changes), resume=True)


def test_codes_of_augmented_copies_are_computed_once(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = run_module.encode_all
    monkeypatch.setattr(run_module, "encode_all", lambda base, x: seen.append(len(x)) or original(base, x))
    _, result = lifelong(lifelong_config(cifar, tmp_path, augment="flip_crop", views=3))
    assert result["accuracy"][1][1] > 0.5
    assert seen == [3 * 2 * TRAIN] * 2
    for changes in ({"views": 2}, {"views": 2, "augment": "flip", "reader": "taskonomy"}):
        with pytest.raises(ValueError, match="give augment, reader must be cifar"):
            lifelong_config(cifar, tmp_path, **changes)


@pytest.mark.parametrize("method", methods_of(LEARNERS))
def test_targets_of_images_are_tasks_too(method: str, images: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "held_out_data": str(images / "val"), "tasks": 10, "reader": "taskonomy", "method": method,
        "targets": ("depth", "room", "segmentation"), "base": "curvature", "side": "copy", "merge": "alpha",
        "steps": 4, "batch_size": 8, "ewc": {"samples": 4, "fisher": "empirical"}, "augment": "flip",
    }  # fmt: skip
    _, result = lifelong(lifelong_config(images / "train", tmp_path, **changes))
    assert (result["tasks"], result["measure"]) == (["depth", "room", "segmentation"], "loss")
    assert result["per_task"] == result["loss"][2]
    assert result["mean_loss"] == pytest.approx(sum(result["per_task"]) / 3)
    assert result["accuracy"][2][0] is None
    assert 0 <= result["accuracy"][2][1] <= 1
    additive = method in FORGET_NOTHING
    assert (result["loss"][2][0] == result["loss"][0][0]) == additive
    assert (result["forgetting"] == 0.0) == additive
    assert f"{method}: mean loss" in table_of(result)
    assert (tmp_path / "lifelong_1" / "plots" / "sequence.png").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("depth", "deps")}, "targets: unknown task 'deps', did you mean 'depth'"),
        ({"targets": ("depth", "depth")}, "targets must name each task once"),
        ({"order": (2,)}, "order must name tasks from 0 to 1"),
        ({"method": "ewc"}, "exact is over classes; for targets of images give empirical"),
        ({"base": "cifar:resnet20"}, "a code that is a vector gives no maps"),
        ({"tasks": 3}, "tasks is for readers of classes and would be ignored here: leave it out"),
        ({"size": 32}, "codes of 8x8 cells give maps of 64x64, not 32x32"),
    ],
)
def test_targets_that_do_not_fit(images: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"reader": "taskonomy", "targets": ("depth", "room"), "base": "curvature", "tasks": 10}
    with pytest.raises((ConfigError, ValueError), match=message):
        lifelong_config(images / "train", tmp_path, **(values | {"side": "copy"} | changes))


def test_maps_are_not_cropped(images: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"reader": "taskonomy", "targets": ("depth",), "base": "curvature", "tasks": 10}
    with pytest.raises(SideAgentsError, match="augment: maps are not cropped with their images; give flip or none"):
        lifelong(lifelong_config(images / "train", tmp_path, **values, side="copy", augment="flip_crop"))


@pytest.mark.parametrize("method", ["sidetune", "finetune"])
def test_the_order_of_tasks(method: str, cifar: Path, tmp_path: Path) -> None:
    _, forwards = lifelong(lifelong_config(cifar, tmp_path, method=method))
    _, backwards = lifelong(lifelong_config(cifar, tmp_path, method=method, order=(1, 0)))
    _, alone = lifelong(lifelong_config(cifar, tmp_path, method=method, order=(1,)))
    assert backwards["tasks"] == ["2-3", "0-1"]
    assert backwards["loss"][0][0] == alone["loss"][0][0]  # trained first, whatever comes after
    assert (forwards["loss"][1][1] == alone["loss"][0][0]) == (method == "sidetune")
    with pytest.raises(ValueError, match="order must name tasks from 0 to 1, each at most once"):
        lifelong_config(cifar, tmp_path, order=(1, 1))


def test_images_are_held_out_of_training_and_the_test_set_stays_shut(cifar: Path, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    for name in ("train", "meta"):
        (shut / name).write_bytes((cifar / name).read_bytes())
    config = lifelong_config(shut, tmp_path, held_out=6, method="features")
    _, result = lifelong(config)
    assert all(value * 12 == pytest.approx(round(value * 12)) for value in result["per_task"])  # 2 x 6 images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sidetuna"}, "unknown method 'sidetuna', did you mean 'sidetune'"),
        ({"merge": "alfa"}, "unknown merge 'alfa', did you mean 'alpha'"),
        ({"side": "conf"}, "unknown side 'conf'"),
        ({"method": "pnn", "side": "conv"}, "give side fcn4 beside a base cifar:resnet..., or side copy"),
        ({"alpha": 2.0}, "alpha"),
        ({"alpha": "linear", "method": "psp"}, "alpha: a curriculum ends with its task, and psp has one network"),
        ({"norm_groups": 7}, "norm_groups=7 does not divide the 64 numbers of a code"),
        ({"method": "pnn", "merge": "sum", "alpha": 0.5}, r"alpha=0\.5 has no effect on this merge"),
        ({"method": "pnn", "options": {"laterals_alpha": 0.5}}, r"laterals_alpha=0\.5 has no effect on this merge"),
        ({"method": "pnn", "options": {"laterals": "sun"}}, "option laterals: unknown merge 'sun', did you mean 'sum'"),
        ({"method": "ewc", "options": {"strenght": 1.0}}, "has no option 'strenght', did you mean 'strength'.*samples"),
        ({"method": "ewc", "options": {"strength": "much"}}, "option strength must be a valid number, got 'much'"),
        ({"method": "ewc", "options": {"gamma": 0.5}}, "gamma is between 0 and 1, and for mode 'online' only"),
        ({"method": "psp", "options": {"kind": "binari"}}, "option kind must be 'binary', 'rotation' or 'complex'"),
        ({"method": "features", "options": {"dense": True}}, r"has no option 'dense' \(allowed: none\)"),
    ],
)
def test_parts_that_do_not_fit_are_told_before_anything_is_trained(
    cifar: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        lifelong_config(cifar, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_gamma_is_for_online_ewc(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with 'separate' it must stay 1\.0"):
        lifelong_config(cifar, tmp_path, method="ewc", ewc={"gamma": 0.5})
    assert lifelong_config(cifar, tmp_path, method="ewc", ewc={"gamma": 0.5, "mode": "online"}).ewc.gamma == 0.5


@pytest.mark.parametrize("method", ["ewc", "psp", "pnn"])
def test_the_sections_of_methods_are_their_options(method: str) -> None:
    section = getattr(LifelongConfig(), method)
    options = LEARNERS.about(method).options
    assert {name: options[name].default for name in type(section).model_fields} == section.model_dump()
    own = [name for name in options if name not in type(section).model_fields]
    assert own == (["laterals", "laterals_alpha"] if method == "pnn" else [])
    assert LifelongConfig(method=method).method_options == section.model_dump()


def test_options_and_sections_mean_the_same_and_may_not_differ(cifar: Path, tmp_path: Path) -> None:
    old, new = {"ewc": {"strength": 5.0, "samples": 4}}, {"options": {"strength": 5.0, "samples": 4}}
    (_, before), (_, now) = (
        lifelong(lifelong_config(cifar, tmp_path, method="ewc", steps=2, **given)) for given in (old, new)
    )
    assert before["loss"] == now["loss"]
    assert config_hash(LifelongConfig(options={})) == config_hash(LifelongConfig())
    assert config_hash(LifelongConfig(options={"strength": 5.0})) != config_hash(LifelongConfig())
    assert LifelongConfig(method="ewc", options={"strength": 2.0}, **{"ewc": {"strength": 2.0}}).options  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"options\.strength and ewc\.strength differ: give one of them"):
        lifelong_config(cifar, tmp_path, method="ewc", ewc={"strength": 5.0}, options={"strength": 4.0})
    assert lifelong_config(cifar, tmp_path, ewc={"strength": 5.0}).method_options == {}  # of a method that is not run


@pytest.mark.parametrize("merge", ["mlp_batchnorm", "film"])
def test_merges_reach_progressive_columns(merge: str, cifar: Path, tmp_path: Path) -> None:
    """Each task has a merge of its own, so nothing is forgotten; without alpha there is none to report."""
    options = {"laterals": "alpha", "laterals_alpha": "linear:0.5"}
    run, result = lifelong(lifelong_config(cifar, tmp_path, method="pnn", merge=merge, options=options))
    assert result["loss"][1][0] == result["loss"][0][0]
    assert result["alpha"] == [None, None]
    tensors = load_checkpoint(RunFolder.open(run).checkpoint()).tensors
    assert {name.split(".")[1] for name in tensors if name.startswith("merges.")} == {"0", "1"}
    weights = [float(t) for name, t in tensors.items() if name.endswith("alpha.alpha")]
    assert weights == [0.0] * 8  # four layers of two columns, at the end of the curriculum


def test_classes_that_cannot_be_cut(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(SideAgentsError, match="tasks=3: 4 classes cannot be cut into so many equal tasks"):
        lifelong(lifelong_config(cifar, tmp_path, tasks=3))
    assert not (tmp_path / "lifelong_1").exists()


def test_the_command(cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDEAGENTS_DATA", str(cifar.parent))
    words = [
        f"data={cifar.name}",
        "base=cifar:resnet20",
        "base_weights=null",
        "side_init=default",
        "tasks=2",
        "steps=3",
    ]
    assert main(["check", "lifelong/icifar_demo", *words]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert load_config(LifelongConfig, tmp_path / "again.yaml").merge == "mlp2_batchnorm"
    assert main(["lifelong", "lifelong/icifar_demo", *words, f"cache={cifar / 'codes'}", "--json", "result.json"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"mean_accuracy", "per_task", "forgetting"} <= result.keys()
    assert "wrote runs/icifar_demo_1" in capsys.readouterr().out


DIVERGED = {
    "the loss": r"error: task 2-3: the loss became nan \(step 1\); lower learning_rate",
    "a weight after the last step": r"error: training has diverged, at step 16 there is nan or infinity in '.*bias'.*",
    "what the method keeps": r"error: training has diverged, at step 2 there is nan or infinity in 'state/memory.*'.*",
}


@pytest.mark.parametrize("what", DIVERGED)
def test_a_sequence_that_diverges_is_one_line_and_keeps_the_task_before(
    what: str, cifar: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_module.TaskSequence._train

    def spoil(self: Any, task: int) -> None:
        with torch.no_grad():
            list(self.learner.trained(task).parameters())[-1].fill_(float("nan"))

    def trains(self: Any, task: int, shown: Any) -> None:
        if task == 1 and what == "the loss":
            spoil(self, task)
        original(self, task, shown)
        if task == 1 and what == "a weight after the last step":
            spoil(self, task)
        if task == 1 and what == "what the method keeps":
            memory = self.learner.memory()
            monkeypatch.setattr(self.learner, "memory", lambda: {**memory, "sums": torch.tensor([1.0, float("inf")])})

    monkeypatch.setattr(run_module.TaskSequence, "_train", trains)
    words = ["method=ewc", f"data={cifar}", "base=cifar:resnet20", "base_weights=null", "side_init=default", "tasks=2"]
    words += ["steps=8", "batch_size=16", "ewc.samples=4", "threads=1", f"cache={cifar / 'codes'}", f"runs={tmp_path}"]
    assert main(["lifelong", "lifelong/icifar_demo", *words]) == 2
    errors = capfd.readouterr().err  # progress is told there too
    line = errors.splitlines()[-1]
    assert errors.count("error: ") == 1
    run = tmp_path / "icifar_demo_1"
    kept = run / "checkpoints" / "step_000000001"
    assert re.fullmatch(DIVERGED[what] + f"; the last good checkpoint is {kept}", line)
    assert list(kept.parent.iterdir()) == [kept]
    assert all(torch.isfinite(tensor).all() for tensor in load_checkpoint(kept).tensors.values())
    assert not (run / "result.json").exists()
    monkeypatch.setattr(run_module.TaskSequence, "_train", original)
    assert main(["lifelong", "lifelong/icifar_demo", *words, "--resume"]) == 0


def test_a_first_task_that_diverges_leaves_nothing(
    cifar: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "example_loss", lambda *_, **__: torch.tensor(float("inf"), requires_grad=True))
    words = [f"data={cifar}", "base=cifar:resnet20", "base_weights=null", "side_init=default", "tasks=2", "steps=2"]
    words += ["threads=1", f"cache={cifar / 'codes'}", f"runs={tmp_path / 'runs'}"]
    assert main(["lifelong", "lifelong/icifar_demo", *words]) == 2
    errors = capfd.readouterr().err
    said = "error: task 0-1: the loss became inf (step 1); lower learning_rate; there is no checkpoint yet"
    assert errors.splitlines()[-1] == said
    assert errors.count("error: ") == 1
    assert not (tmp_path / "runs").exists()


def test_what_a_task_stores_is_without_the_base() -> None:
    class Views(Learner):
        """Views of the base, the first layer their own."""

        def make_net(self) -> torch.nn.Module:
            view = shared_view(self.base)
            view.encoder.conv1.weight = torch.nn.Parameter(view.encoder.conv1.weight.detach().clone())
            return view

    data = LabelledImages(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.arange(2), ("a", "b"))
    tasks = [StreamTask(0, "0", data, data)]
    learner = Views(LifelongConfig(norm_groups=0), load_base("cifar:resnet20"), tasks)
    learner.begin(0)
    norms = 2 * sum(part.num_features for part in learner.nets[0].modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert sum(p.numel() for p in learner.stored(0)) == 3 * 16 * 9 + norms + 64 * 2 + 2

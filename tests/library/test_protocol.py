"""What methods of every kind share: options from signatures, traits that agree with what is built, names."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from optional_packages import methods_of
from sideagents.adaptation import ADAPTATIONS, adapt
from sideagents.config.options import check_options, options_of
from sideagents.core.protocol import KINDS, TRAITS, Methods, about, kinds_of, says
from sideagents.core.sidetuned import SideTuned
from sideagents.core.trainable import TrainableBase
from sideagents.errors import SideAgentsError
from sideagents.language.nlp_methods import METHODS as LANGUAGE
from sideagents.lifelong.learners import LEARNERS, make_learner
from sideagents.lifelong.lifelong_config import LifelongConfig
from sideagents_policies.cli.main import main

REGISTRIES: dict[str, Methods[Any]] = {"vision": ADAPTATIONS, "sequences": LEARNERS, "language": LANGUAGE}


class Parent:
    def __init__(self, model: str, strength: float = 1.0, **more: Any) -> None:
        pass


class Child(Parent):
    """Has one option more. And text.

    And lines.
    """

    def __init__(self, *parts: Any, rank: Annotated[int, Field(ge=1)], kind: Literal["a", "b"] = "a", **options: Any):
        super().__init__(*parts, **options)


class Built:
    def build(self, base: str, layers="", scale: float | None = None) -> None:  # type: ignore[no-untyped-def]
        pass


def test_options_are_the_keywords_of_constructor_build_or_function() -> None:
    found = options_of(Child, ("model",))
    assert [(o.name, o.required, None if o.required else o.default) for o in found.values()] == [
        ("rank", True, None), ("kind", False, "a"), ("strength", False, 1.0)
    ]  # fmt: skip
    assert list(options_of(Built, ("base",))) == ["layers", "scale"]
    assert list(options_of(lambda model, width=3: width, ("model",))) == ["width"]
    assert about("child", Child, ("model",)).summary == "Has one option more. And text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rank": 1, "rnak": 2},
            r"method 'own' has no option 'rnak', did you mean 'rank'\? \(allowed: rank, kind, str",
        ),
        ({"kind": "b"}, r"method 'own' needs the option 'rank' \(allowed: rank, kind, strength\)"),
        ({"rank": 0}, "option rank must be greater than or equal to 1, got 0"),
        ({"rank": 1, "kind": "c"}, "option kind must be 'a' or 'b', got 'c'"),
        ({"rank": 1, "strength": "2"}, "option strength must be a valid number, got '2'"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SideAgentsError, match=message):
        check_options("own", options_of(Child, ("model",)), options)
    check_options("own", options_of(Child, ("model",)), {"rank": 1, "kind": "b", "strength": 2})
    check_options("own", options_of(Child, ("model",)), {}, complete=False)
    check_options("own", options_of(Built, ("base",)), {"layers": [object()], "scale": None})


def test_annotations_that_mean_nothing_are_one_line() -> None:
    def odd(model: str, width: Nowhere = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(SideAgentsError, match=r"odd: the types of its options cannot be read .*Nowhere"):
        options_of(odd)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_method_says_what_it_is(kind: str) -> None:
    registry = REGISTRIES[kind]
    assert KINDS[kind] is registry
    for name in registry.names():
        found = registry.about(name)
        assert found.summary
        assert set(found.traits) == set(TRAITS)
        assert not set(found.options) & set(registry.given)
        defaults = {key: option.default for key, option in found.options.items()}
        registry.check(name, defaults)
        json.dumps(defaults)


def test_one_name_means_the_same_in_each_kind() -> None:
    for name in ("sidetune", "features", "scratch", "lora", "ia3"):
        told = [registry.about(name).traits for registry in REGISTRIES.values() if name in registry.names()]
        assert all(one == told[0] for one in told), name
    assert kinds_of("ewc") == ["sequences"]
    with pytest.raises(SideAgentsError, match=r"method 'ewc' is of sequences, not of vision \(known: features"):
        ADAPTATIONS.get("ewc")
    with pytest.raises(SideAgentsError, match="unknown method 'tops'"):
        LEARNERS.get("tops")


@pytest.mark.parametrize("name", ["sidetune", "features", "finetune", "scratch", "taps", "residual_adapters"])
def test_traits_of_vision_are_those_of_what_is_built(name: str) -> None:
    adapted = adapt("cifar:resnet20", name)
    task = adapted.add_task("task", classes=2)
    net, told = task.net, ADAPTATIONS.get(name)
    shared = {id(p) for p in net.parameters()} & {id(p) for p in adapted.base.parameters()}
    assert told.frozen_base == (task.runs_base or bool(shared))
    assert not any(p.requires_grad for p in adapted.base.parameters())
    assert told.reads_codes == (isinstance(net, SideTuned) and net.reads_codes)
    assert told.needs_images == (not isinstance(net, SideTuned) or net.needs_images)
    assert told.has_side == (isinstance(net, SideTuned) and net.side is not None)


@pytest.mark.parametrize("name", methods_of(LEARNERS, {*ADAPTATIONS.names()} - {"sidetune", "features", "finetune"}))
def test_traits_of_sequences_are_those_of_what_is_built(name: str) -> None:
    from sideagents.bases import load_base

    config = LifelongConfig(method=name, base="cifar:resnet20")
    learner = make_learner(config, load_base(config.base), [])
    net = learner.make_net()
    trained = [part for part in net.modules() if isinstance(part, TrainableBase)]
    told = LEARNERS.get(name)
    assert told.frozen_base == (not trained)
    assert told.reads_codes == learner.reads_codes == (isinstance(net, SideTuned) and net.reads_codes)
    assert told.needs_images == (not isinstance(net, SideTuned) or net.needs_images)
    assert told.has_side == (not isinstance(net, SideTuned) or net.side is not None)


def test_traits_of_a_function() -> None:
    @says(has_side=True, needs_images=False)
    def own(model: Any) -> Any:
        return model

    expected = {"frozen_base": True, "has_side": True, "reads_codes": False, "needs_images": False, "own_side": False}
    assert about("own", own, ("model",)).traits == expected


@pytest.mark.parametrize("what", ["methods", "adaptations", "learners", "language"])
def test_options_are_listed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what, "--json"]) == 0
    rows = {row["name"]: row["options"] for row in json.loads(capsys.readouterr().out)}
    assert main(["list", what]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    expected: dict[str, tuple[str, str, dict[str, Any], str]] = {
        "adaptations": ("taps", "lam", {"type": "float", "default": 0.25}, "lam=0.25"),
        "learners": ("ewc", "fisher", {"type": "exact | empirical | batched", "default": "exact"}, "fisher=exact"),
        "language": ("lst", "keep_encoder", {"type": "Sequence | null", "default": None}, "keep_encoder=null"),
    }
    if what in expected:
        name, option, described, text = expected[what]
        assert rows[name][option] == described
        assert text in shown

"""What methods of every kind have in common: a name, a summary, typed options, and what they say of themselves.

A method is a class or a function, and one registration. Its options are the keywords of its constructor (of `build`,
where the class has one); they stand under `options:` of a configuration, and are checked from the signature. There are
four kinds, since what they are made from differs: of agents, of vision, of sequences of tasks, of language. A name
means the same idea in each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sideagents.config.options import Option, check_options, options_of
from sideagents.errors import SideAgentsError
from sideagents.registry import Registry

T = TypeVar("T", bound=Callable[..., Any])


class Traits:
    """What a method says of itself by its class alone, so that nothing need be built to ask.

    frozen_base: the network runs on the base's own weights, which stay as they are; else on copies that learn.
    has_side: a network learns beside the base.
    reads_codes: what the base gives can be computed once and handed over in its place, with the default options.
    needs_images: the inputs themselves are read even then (images; of language, tokens).
    own_side: the side is the method's own, whatever the configuration asks for.
    """

    frozen_base: bool = True
    has_side: bool = False
    reads_codes: bool = False
    needs_images: bool = True
    own_side: bool = False


TRAITS = tuple(Traits.__annotations__)


def says(**traits: bool) -> Callable[[T], T]:
    """Return a decorator that gives a function the traits which a class declares in its body."""
    assert set(traits) <= set(TRAITS), traits

    def give(function: T) -> T:
        vars(function).update(traits)
        return function

    return give


@dataclass(frozen=True)
class About:
    """A method as it can be shown: its name, the first sentence of its docstring, options and traits."""

    name: str
    summary: str
    options: Mapping[str, Option]
    traits: Mapping[str, bool]


def summary_of(target: object) -> str:
    """Return the first line of a docstring, without its full stop."""
    lines = (target.__doc__ or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else ""


def about(name: str, target: Callable[..., Any], given: Collection[str] = ()) -> About:
    """Describe a method from its class or function; given: as in `options_of`."""
    traits = {trait: bool(getattr(target, trait, getattr(Traits, trait))) for trait in TRAITS}
    return About(name, summary_of(target), options_of(target, given), traits)


class Methods(Registry[T]):
    """The methods of one kind.

    Args:
        of: the kind.
        given: the parameters of a method that are no options, but what it is made from.
        label: what an error calls one.
    """

    def __init__(self, of: str, given: Collection[str], label: str = "method") -> None:
        super().__init__(label)
        self.of, self.given = of, tuple(given)
        KINDS[of] = self

    def get(self, name: str) -> T:
        """Return the method of that name; raises `SideAgentsError`, which says so where it is one of another kind."""
        others = [] if name in self._targets else kinds_of(name)
        if others:
            known = ", ".join(self.names())
            raise SideAgentsError(
                f"{self.kind} {name!r} is of {' and '.join(others)}, not of {self.of} (known: {known})"
            )
        return super().get(name)

    def about(self, name: str) -> About:
        """Describe a method; raises `SideAgentsError` for an unknown name."""
        return about(name, self.get(name), self.given)

    def check(self, name: str, options: Mapping[str, Any], complete: bool = True) -> None:
        """Raise `SideAgentsError` for an unknown name, and for options that the method does not take.

        complete: for one that it needs and does not get, too.
        """
        check_options(name, self.about(name).options, options, complete)


KINDS: dict[str, Methods[Any]] = {}


def kinds_of(name: object) -> list[str]:
    """Return the kinds that have a method of that name, of those that have been imported."""
    return [kind for kind, registry in KINDS.items() if name in registry.names()]

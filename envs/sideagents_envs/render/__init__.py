"""Pictures by ray casting, and targets of pixels computed with them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sideagents_envs.render.rays import Renderer

__all__ = ["Renderer"]


def __getattr__(name: str) -> Any:
    if name == "Renderer":  # loaded when asked for: most of the room needs neither Embree nor compiled code
        from sideagents_envs.render import rays

        return rays.Renderer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

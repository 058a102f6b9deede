"""One frozen network, many tasks: side-tuning, TAPS, residual adapters and their rivals behind one call."""

from sideagents.adapt.adapted import Adapted, adapt
from sideagents.adapt.method import ADAPTATIONS, Adaptation

__all__ = ["ADAPTATIONS", "Adaptation", "Adapted", "adapt"]

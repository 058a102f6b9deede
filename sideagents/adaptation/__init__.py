"""One frozen network, many tasks: side-tuning, TAPS, residual adapters and others behind one call."""

from sideagents.adaptation.adapted import Adapted, adapt
from sideagents.adaptation.method import ADAPTATIONS, Adaptation

__all__ = ["ADAPTATIONS", "Adaptation", "Adapted", "adapt"]

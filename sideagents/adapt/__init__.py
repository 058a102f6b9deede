"""One frozen network, many tasks: side-tuning, TAPS, residual adapters and others behind one call.

The package itself can be called, as the function `adapt` in it: `sideagents.adapt(model, method)`, and
`sideagents.adapt.residual.fuse(net)` beside it.
"""

import sys
from types import ModuleType
from typing import Any

from sideagents.adapt.adapted import Adapted, adapt
from sideagents.adapt.method import ADAPTATIONS, Adaptation

__all__ = ["ADAPTATIONS", "Adaptation", "Adapted", "adapt"]


class _Callable(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Adapted:
        return adapt(*args, **options)


sys.modules[__name__].__class__ = _Callable

"""detseg: object detection and segmentation whose numbers can be trusted.

``train``, ``evaluate``, ``export``, ``convert``, ``check`` and ``load`` do what the verbs of the command line do;
``build`` gives a bare network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.api.models import build as build
    from detseg.api.models import convert as convert
    from detseg.api.models import export as export
    from detseg.api.models import load as load
    from detseg.api.runs import check as check
    from detseg.api.runs import evaluate as evaluate
    from detseg.api.runs import train as train
    from detseg.engine.logging.callbacks import Callback as Callback
    from detseg.runtime.tracker import Tracker as Tracker

__version__ = "0.1.0"

__all__ = ["Callback", "Tracker", "build", "check", "convert", "evaluate", "export", "load", "train"]

_PLACES = {
    "Callback": "detseg.engine.logging.callbacks",
    "Tracker": "detseg.runtime.tracker",
    **dict.fromkeys(("build", "convert", "export", "load"), "detseg.api.models"),
    **dict.fromkeys(("check", "evaluate", "train"), "detseg.api.runs"),
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used, so that ``import detseg`` takes no time."""
    if name not in _PLACES:
        raise AttributeError(f"module 'detseg' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

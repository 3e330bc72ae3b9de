"""detseg: object detection and segmentation whose numbers can be trusted.

``train``, ``evaluate``, ``export``, ``convert``, ``check`` and ``load`` do what the verbs of the command line do;
``build`` gives a bare network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.api import build as build
    from detseg.api import check as check
    from detseg.api import convert as convert
    from detseg.api import evaluate as evaluate
    from detseg.api import export as export
    from detseg.api import load as load
    from detseg.api import train as train
    from detseg.engine.callbacks import Callback as Callback

__version__ = "0.1.0"

__all__ = ["Callback", "build", "check", "convert", "evaluate", "export", "load", "train"]

_PLACES = dict.fromkeys(__all__, "detseg.api") | {"Callback": "detseg.engine.callbacks"}


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

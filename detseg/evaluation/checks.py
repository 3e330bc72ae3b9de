"""Checks that evaluators share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def require_unique(what: str, values: Sequence[Hashable]) -> None:
    """Raise ValueError, naming ``what`` occurs more than once among ``values``."""
    repeated = [str(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"every {what} must be unique, but these occur more than once: {', '.join(repeated)}")

"""Where what ``torch.compile`` makes is kept."""

from __future__ import annotations

import os

from detseg.files import cache_folder


def keep_compiled() -> None:
    """Let TorchInductor keep what it makes from now on in the user's cache folder, for later processes too, rather than
    among temporary files; unless ``TORCHINDUCTOR_CACHE_DIR`` names another place."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))

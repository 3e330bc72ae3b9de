"""Networks that mix the levels of a backbone's pyramid."""

from __future__ import annotations

NECKS = {
    "pan": "detseg.models.necks.pan:PANConfig",
}

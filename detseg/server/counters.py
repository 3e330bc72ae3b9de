"""What a server counts, in the text form that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)

Labels = tuple[str, ...]


class Counter:
    """A number that only grows, for each value of ``labels``."""

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0}
        self._lock = threading.Lock()

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count ``amount`` more for these values of the labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def lines(self) -> list[str]:
        """As text."""
        with self._lock:
            values = sorted(self._values.items())
        return [
            *_head(self._name, self._about, "counter"),
            *(
                f"{self._name}{_labels(dict(zip(self._labels, labels, strict=True)))} {value:.10g}"
                for labels, value in values
            ),
        ]


class Histogram:
    """How often something was at most as large as each of ``bounds``."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name, self._about, self._bounds = name, about, tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one ``value``."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        """As text."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        lines, below = _head(self._name, self._about, "histogram"), 0
        for bound, count in zip([*map("{:g}".format, self._bounds), "+Inf"], counts, strict=True):
            below += count
            lines.append(f"{self._name}_bucket{_labels({'le': bound})} {below}")
        return [*lines, f"{self._name}_sum {total:.10g}", f"{self._name}_count {below}"]


class Gauge:
    """A number that is asked for when it is shown."""

    def __init__(self, name: str, about: str, value: Callable[[], float]) -> None:
        self._name, self._about, self._value = name, about, value

    def lines(self) -> list[str]:
        """As text."""
        return [*_head(self._name, self._about, "gauge"), f"{self._name} {self._value():.10g}"]


class Counters:
    """All that is counted; ``num_under_way`` and ``num_waiting`` say how many requests are being answered now, and how
    many images are in no batch yet."""

    def __init__(self, num_under_way: Callable[[], float], num_waiting: Callable[[], float]) -> None:
        self.requests = Counter("detseg_requests_total", "Requests that were answered.", ("path", "status"))
        self.request_s = Histogram("detseg_request_seconds", "Seconds until a prediction was answered.", _SECONDS)
        self.images = Counter("detseg_images_total", "Images that went through the network.")
        self.batch_size = Histogram("detseg_batch_size", "Images in a batch.", _SIZES)
        self.batch_s = Histogram("detseg_batch_seconds", "Seconds of a batch, from the network's door on.", _SECONDS)
        self._gauges = (
            Gauge("detseg_requests_under_way", "Requests that are being answered.", num_under_way),
            Gauge("detseg_images_waiting", "Images that wait for a batch.", num_waiting),
        )

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.images.add(amount=size)
        self.batch_size.observe(size)
        self.batch_s.observe(seconds)

    def render(self) -> str:
        """All of them, as Prometheus reads them."""
        all_of_them = (self.requests, self.request_s, self.images, self.batch_size, self.batch_s, *self._gauges)
        return "".join(f"{line}\n" for one in all_of_them for line in one.lines())


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _labels(labels: Mapping[str, str]) -> str:
    """The values are paths of ours and numbers, in which nothing must be escaped."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""

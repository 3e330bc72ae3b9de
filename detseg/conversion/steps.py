"""Networks as graphs of steps, in which two programs' drawings of the same network become equal.

Layers are found by what they do, never by their names: a step is identified by its kind, its settings and the
identities of its inputs. Where two networks are the same, the inputs of their last steps are paired one by one, back to
the image; two convolutions of the same shape on the same input differ in where their results go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "corner", "convolution", "sigmoid", "concatenation", "sum", "pooling", "upsampling", "other"]


@dataclass(frozen=True, eq=False)
class Step:
    """One operation.

    - ``image``: the input.
    - ``corner``, settings (row, column): every second pixel, from this one on.
    - ``convolution``, settings :class:`Convolution`, with SiLU or without; ``name`` leads to its weights.
    - ``sigmoid``.
    - ``concatenation`` of channels; ``sum`` of two.
    - ``pooling``, settings (window,): the maximum over a square window, at stride 1.
    - ``upsampling``: every pixel becomes a square of four.
    - ``other``, settings that no other step has.
    """

    kind: Kind
    settings: tuple[object, ...] = ()
    inputs: tuple[Step, ...] = ()
    name: str = ""


def convolution(
    source: Step,
    name: str,
    shape: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activated: bool,
) -> Step:
    """``shape`` of the weights ``[out, in / groups, height, width]``; ``activated`` by SiLU."""
    settings = (tuple(shape), tuple(stride), tuple(padding), tuple(dilation), groups, activated)
    return Step("convolution", settings, (source,), name)


def shape_of(step: Step) -> tuple[int, ...]:
    """Of a convolution's weights."""
    shape = step.settings[0]
    assert step.kind == "convolution"
    assert isinstance(shape, tuple)
    return shape


def pooling(source: Step, window: int) -> Step:
    """A maximum over windows of maxima over windows is one over a larger window."""
    if source.kind == "pooling":
        (inner,) = source.settings
        assert isinstance(inner, int)
        return Step("pooling", (inner + window - 1,), source.inputs)
    return Step("pooling", (window,), (source,))


class Identities:
    """Numbers for steps, the same for two steps that compute the same with weights of the same shapes."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._known: dict[Step, int] = {}

    def of(self, step: Step) -> int:
        """The number of ``step``; those of all steps before it are found on the way."""
        waiting = [step]
        while waiting:
            last = waiting[-1]
            unknown = [source for source in last.inputs if source not in self._known]
            if unknown:
                waiting += unknown
                continue
            sources = [self._known[source] for source in last.inputs]
            if last.kind == "sum":
                sources.sort()
            key = (last.kind, last.settings, *sources)
            self._known[last] = self._numbers.setdefault(key, len(self._numbers))
            waiting.pop()
        return self._known[step]


def pair_convolutions(own: Sequence[Step], found: Sequence[Step], identities: Identities) -> dict[str, str]:
    """For each convolution that leads to the steps ``own``, by name, the name of that which takes its place on the way
    to ``found``, whose identities are those of ``own``, in order."""
    pairs: dict[str, str] = {}
    seen: set[tuple[Step, Step]] = set()
    waiting = list(zip(own, found, strict=True))
    while waiting:
        pair = waiting.pop()
        if pair in seen:
            continue
        seen.add(pair)
        mine, theirs = pair
        assert identities.of(mine) == identities.of(theirs)
        if mine.kind == "convolution":
            assert pairs.setdefault(mine.name, theirs.name) == theirs.name, "one layer of ours, two of theirs"
        sources = theirs.inputs
        if mine.kind == "sum" and identities.of(mine.inputs[0]) != identities.of(sources[0]):
            sources = sources[::-1]
        waiting += zip(mine.inputs, sources, strict=True)
    return pairs


def steps_before(last: Sequence[Step]) -> Iterator[Step]:
    """All steps that lead to ``last``, and these; sources before what is made of them."""
    seen: set[Step] = set()
    waiting = [(step, False) for step in reversed(last)]
    while waiting:
        step, ready = waiting.pop()
        if ready:
            yield step
        elif step not in seen:
            seen.add(step)
            waiting += [(step, True), *((source, False) for source in reversed(step.inputs))]

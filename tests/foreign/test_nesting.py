from __future__ import annotations

from typing import Any

import pytest

from detseg.foreign.limits import Limits, RefusedError
from detseg.foreign.nesting import check_nesting
from detseg.foreign.records import Record


def nested(depth: int) -> list[Any]:
    """``depth`` lists inside one another."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def shared_deep() -> list[Any]:
    """A list of depth 60 that is met near the top first, and below 60 others later: 121 in all."""
    tail = nested(60)
    long: Any = tail
    for _ in range(60):
        long = {"a": long}
    return [long, tail]


def test_depth_is_exact() -> None:
    check_nesting(nested(7), Limits(max_nesting=7))
    with pytest.raises(RefusedError, match="more than 6 deep"):
        check_nesting(nested(7), Limits(max_nesting=6))


def test_depth_of_what_is_shared() -> None:
    for content in (shared_deep(), shared_deep()[::-1]):
        check_nesting(content, Limits(max_nesting=121))
        with pytest.raises(RefusedError, match="deep"):
            check_nesting(content, Limits(max_nesting=120))


def test_shared_values_count_each_time() -> None:
    pair = [1, 2]  # 3 values: itself and two numbers
    content = [pair, pair, pair]  # 1, and 3 for each
    check_nesting(content, Limits(max_values=13))
    with pytest.raises(RefusedError, match="multiply"):
        check_nesting(content, Limits(max_values=8))


def test_doubling_forty_times_is_quick() -> None:
    content: Any = []
    for _ in range(40):
        content = [content, content]
    with pytest.raises(RefusedError, match="multiply"):
        check_nesting(content, Limits())


def endless(kind: str) -> Any:
    values: Any = [] if kind == "list" else {}
    within = (values,) if kind == "list" else {"a": [values]}
    values.append(within) if kind == "list" else values.update(within)
    return values


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_containers_that_contain_themselves(kind: str) -> None:
    with pytest.raises(RefusedError, match="contains itself"):
        check_nesting({"x": endless(kind)}, Limits())


def test_records_may_lead_back_to_themselves() -> None:
    module = Record("torch.nn.Linear")
    module.state = {"forward": Record("builtins.getattr", (module, "fused"))}
    check_nesting([module], Limits())
    assert repr(module) == "Record('torch.nn.Linear')"


@pytest.mark.parametrize("where", ["arguments", "state", "items"])
def test_records_are_walked(where: str) -> None:
    parts: dict[str, Any] = {"arguments": (endless("list"),), "state": endless("list"), "items": [endless("list")]}
    with pytest.raises(RefusedError, match="contains itself"):
        check_nesting(Record("a.B", **{where: parts[where]}), Limits())


@pytest.mark.parametrize("content", [None, 1, "text", (), {}, [()] * 3])
def test_plain_values_pass(content: object) -> None:
    check_nesting(content, Limits())

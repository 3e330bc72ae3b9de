from __future__ import annotations

from detseg.conversion.steps import Identities, Step, convolution, pair_convolutions, pooling, steps_before


def conv(source: Step, name: str, out_channels: int = 8, kernel: int = 1) -> Step:
    shape = (out_channels, 8, kernel, kernel)
    return convolution(source, name, shape, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, activated=True)


def halves(first: str, second: str, last: str) -> Step:
    """Two convolutions of one shape on one input, of which the first goes on through another."""
    image = Step("image")
    deep = conv(conv(image, first), last, kernel=3)
    return Step("concatenation", (), (deep, conv(image, second)))


def test_twins_are_told_apart_by_where_their_results_go() -> None:
    identities = Identities()
    own, other = halves("a", "b", "c"), halves("1", "2", "3")
    assert identities.of(own) == identities.of(other)
    assert identities.of(own.inputs[0].inputs[0]) == identities.of(own.inputs[1]), "twins"
    assert pair_convolutions([own], [other], identities) == {"a": "1", "b": "2", "c": "3"}


def test_the_order_of_a_sum_does_not_matter_and_that_of_a_concatenation_does() -> None:
    image, identities = Step("image"), Identities()
    one, two = conv(image, "one", kernel=1), conv(image, "two", kernel=3)
    same = Step("image")
    left, right = conv(same, "left", kernel=1), conv(same, "right", kernel=3)
    total, other = Step("sum", (), (one, two)), Step("sum", (), (right, left))
    assert identities.of(total) == identities.of(other)
    assert pair_convolutions([total], [other], identities) == {"one": "left", "two": "right"}
    assert identities.of(Step("concatenation", (), (one, two))) != identities.of(
        Step("concatenation", (), (right, left))
    )


def test_poolings_in_a_chain_are_larger_poolings() -> None:
    image, identities = Step("image"), Identities()
    chain = pooling(pooling(pooling(image, 5), 5), 5)
    assert identities.of(chain) == identities.of(pooling(Step("image"), 13))
    assert identities.of(chain) != identities.of(pooling(image, 15))


def test_settings_and_shapes_make_a_difference() -> None:
    image, identities = Step("image"), Identities()
    steps = [
        conv(image, "a"),
        conv(image, "a", kernel=3),
        conv(image, "a", out_channels=16),
        Step("corner", (0, 1), (image,)),
        Step("corner", (1, 0), (image,)),
        Step("upsampling", (), (image,)),
    ]
    assert len({identities.of(step) for step in steps}) == len(steps)
    assert identities.of(conv(image, "b")) == identities.of(steps[0]), "names make none"


def test_deep_graphs_need_no_recursion() -> None:
    step = Step("image")
    for index in range(5000):
        step = Step("sum", (), (conv(step, str(index)), step))
    identities = Identities()
    assert identities.of(step) == 10_000
    assert len(pair_convolutions([step], [step], identities)) == 5000
    order = list(steps_before([step]))
    assert len(order) == 10_001
    assert order[0].kind == "image"
    assert order[-1] is step

"""A pickle's opcodes as data: a stack machine that builds plain values and inert records.

The opcodes are those of Python's pickle protocols 2 to 5, which its module ``pickletools`` describes; ``torch.save``
writes protocol 2. What only protocols 0 and 1, registered extensions and out-of-band buffers need is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from detseg.foreign.byte_cursor import MAX_NAME_LENGTH, ByteCursor
from detseg.foreign.constructors import Constructors
from detseg.foreign.limits import Limits, RefusedError, brief
from detseg.foreign.plain_values import add_to_set, set_pairs
from detseg.foreign.records import GlobalName, Record

_HIGHEST_PROTOCOL = 5
_NAME_CHARACTERS_PER_CHARGE = 50
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2, under whose names protocol 2 writes those of Python 3."""


def read_pickle(data: bytes, constructors: Constructors, limits: Limits, position: int = 0) -> tuple[object, int]:
    """The value of the pickle that begins at ``position`` in ``data``, and the position behind its end.

    Raises:
        RefusedError: the pickle is damaged, exceeds the limits, or holds what the reader refuses.
    """
    cursor = ByteCursor(data, position, limits)
    value = _PickleMachine(cursor, constructors, limits).run()
    return value, cursor.position


class _PickleMachine:
    """The stack, its marks and the memo that opcodes work on; a mark is the height of the stack where it was set."""

    def __init__(self, cursor: ByteCursor, constructors: Constructors, limits: Limits) -> None:
        self.cursor = cursor
        self.constructors = constructors
        self.limits = limits
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.num_operations = 0

    def run(self) -> object:
        if self.cursor.take(1) != _PROTO or not 2 <= self.cursor.unsigned(1) <= _HIGHEST_PROTOCOL:
            self.cursor.refuse(f"no pickle of protocols 2 to {_HIGHEST_PROTOCOL}")
        while (code := self.cursor.take(1)) != _STOP:
            self.charge(1)
            operation = _OPERATIONS.get(code)
            if operation is None:
                name = _REFUSED.get(code)
                self.cursor.refuse(
                    f"the opcode {name}, which no checkpoint needs" if name else f"unknown opcode {code!r}"
                )
            operation(self)
            if len(self.stack) + len(self.marks) > self.limits.max_stack:
                self.cursor.refuse(f"more than {self.limits.max_stack:,} values on the stack")
        if len(self.stack) != 1 or self.marks:
            self.cursor.refuse(f"{len(self.stack)} values and {len(self.marks)} marks at the end, expected one value")
        return self.stack[0]

    def charge(self, num_operations: int) -> None:
        """Count operations, or what takes as long as that many."""
        self.num_operations += num_operations
        if self.num_operations > self.limits.max_operations:
            self.cursor.refuse(f"more than {self.limits.max_operations:,} operations")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def top(self) -> object:
        self.require(1)
        return self.stack[-1]

    def pop(self) -> object:
        self.require(1)
        return self.stack.pop()

    def require(self, num_values: int) -> None:
        """That many values are above the last mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < num_values:
            self.cursor.refuse("a value is taken from an empty stack")

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list[object]:
        if not self.marks:
            self.cursor.refuse("there is no mark on the stack")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push_tuple(self, length: int) -> None:
        self.require(length)
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()
        if len(self.memo) > self.limits.max_memo:
            self.cursor.refuse(f"more than {self.limits.max_memo:,} values to remember")

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.cursor.refuse(f"value {index} is used before it is remembered")
        self.push(self.memo[index])

    def append(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list | Record):
            self.cursor.refuse(f"a value is appended to a {type(target).__name__}")
        (target if isinstance(target, list) else target.items).extend(values)

    def set_items(self, keys_and_values: list[object]) -> None:
        if len(keys_and_values) % 2:
            self.cursor.refuse("a key without a value")
        pairs = list(zip(keys_and_values[::2], keys_and_values[1::2], strict=True))
        target = self.top()
        if isinstance(target, dict):
            set_pairs(target, pairs)
        elif isinstance(target, Record):
            target.items.extend(pairs)
        else:
            self.cursor.refuse(f"an item is set in a {type(target).__name__}")

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_items(self) -> None:
        values = self.pop_to_mark()
        target = self.top()
        if not isinstance(target, set):
            self.cursor.refuse(f"a value is added to a {type(target).__name__}")
        add_to_set(target, values)

    def push_frozen_set(self) -> None:
        values: set[object] = set()
        add_to_set(values, self.pop_to_mark())
        self.push(values)

    def push_global(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.cursor.refuse("a name that is no text")
        if not (module and name and len(module) + len(name) <= MAX_NAME_LENGTH):
            self.cursor.refuse(f"a name of {len(module)} + {len(name)} characters, allowed are {MAX_NAME_LENGTH}")
        if not (module.isprintable() and name.isprintable()):
            self.cursor.refuse(f"the name {brief(module)}, {brief(name)}, which cannot be shown")
        self.charge((len(module) + len(name)) // _NAME_CHARACTERS_PER_CHARGE)
        self.push(GlobalName(f"{_RENAMED_MODULES.get(module, module)}.{name}"))

    def push_stacked_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def reduce(self) -> None:
        """What calling or making anything comes to: opcodes REDUCE and NEWOBJ."""
        arguments, function = self.pop(), self.pop()
        self.make(function, arguments)

    def make_with_keywords(self) -> None:
        keywords, arguments, name = self.pop(), self.pop(), self.pop()
        if not isinstance(keywords, dict) or not isinstance(arguments, tuple):
            self.cursor.refuse(f"arguments in a {type(arguments).__name__}, keywords in a {type(keywords).__name__}")
        self.charge(len(arguments))
        self.make(name, (*arguments, keywords) if keywords else arguments)

    def make(self, name: object, arguments: object) -> None:
        if not isinstance(name, GlobalName) or not isinstance(arguments, tuple):
            self.cursor.refuse(
                f"a {type(name).__name__} is called with a {type(arguments).__name__}, expected a name and a tuple"
            )
        try:
            self.push(self.constructors.make(name.name, arguments, self.charge))
        except RefusedError as refusal:
            self.cursor.refuse(str(refusal))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Record) and target.state is None:
            target.state = state
        elif not isinstance(target, dict):  # whose attributes, such as the _metadata of a state dict, are dropped
            self.cursor.refuse(f"a state for {target!r}" if isinstance(target, Record) else "a state for a plain value")

    def push_persistent(self) -> None:
        self.push(self.constructors.persistent(self.pop()))


_PROTO, _STOP = b"\x80", b"."
_OPERATIONS: dict[bytes, Callable[[_PickleMachine], object]] = {
    b"(": lambda m: m.mark(),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_to_mark(),
    b"2": lambda m: m.push(m.top()),
    # Plain values.
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.cursor.unsigned(1)),
    b"M": lambda m: m.push(m.cursor.unsigned(2)),
    b"J": lambda m: m.push(m.cursor.signed(4)),
    b"\x8a": lambda m: m.push(m.cursor.signed(m.cursor.unsigned(1))),
    b"\x8b": lambda m: m.push(m.cursor.signed(m.cursor.unsigned(4))),
    b"G": lambda m: m.push(m.cursor.double()),
    b"U": lambda m: m.push(m.cursor.text(1)),
    b"T": lambda m: m.push(m.cursor.text(4)),
    b"\x8c": lambda m: m.push(m.cursor.text(1)),
    b"X": lambda m: m.push(m.cursor.text(4)),
    b"\x8d": lambda m: m.push(m.cursor.text(8)),
    b"C": lambda m: m.push(m.cursor.string(1)),
    b"B": lambda m: m.push(m.cursor.string(4)),
    b"\x8e": lambda m: m.push(m.cursor.string(8)),
    b"\x96": lambda m: m.push(m.cursor.string(8)),
    # Containers.
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_item(),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"\x8f": lambda m: m.push(set()),
    b"\x90": lambda m: m.add_items(),
    b"\x91": lambda m: m.push_frozen_set(),
    # The memo.
    b"q": lambda m: m.remember(m.cursor.unsigned(1)),
    b"r": lambda m: m.remember(m.cursor.unsigned(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.cursor.unsigned(1)),
    b"j": lambda m: m.recall(m.cursor.unsigned(4)),
    # Names, and what would be made or called by them.
    b"c": lambda m: m.push_global(m.cursor.line(), m.cursor.line()),
    b"\x93": lambda m: m.push_stacked_global(),
    b"R": lambda m: m.reduce(),
    b"\x81": lambda m: m.reduce(),
    b"\x92": lambda m: m.make_with_keywords(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.push_persistent(),
    b"\x95": lambda m: m.cursor.skip_frame(),
}
_REFUSED = {
    b"I": "INT", b"L": "LONG", b"F": "FLOAT", b"S": "STRING", b"V": "UNICODE", b"P": "PERSID", b"d": "DICT",
    b"l": "LIST", b"g": "GET", b"p": "PUT", b"i": "INST", b"o": "OBJ", b"\x80": "PROTO (again)", b"\x82": "EXT1",
    b"\x83": "EXT2", b"\x84": "EXT4", b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip

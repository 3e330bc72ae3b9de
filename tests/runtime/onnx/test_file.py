from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as make
import onnx.numpy_helper
import pytest
from onnx import TensorProto

from detseg.runtime.onnx import file as onnx_file
from detseg.runtime.onnx.file import KEY, OnnxFileError, read_onnx_file, with_property


def small_model(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    x, y = (make.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = make.make_graph(nodes or [make.make_node("Identity", ["x"], ["y"])], "g", [x], [y], tensors)
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 18)])


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A tensor whose values would be read from a file of the system."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def one_value() -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")


def if_node(depth: int, innermost: onnx.NodeProto) -> onnx.NodeProto:
    """``innermost`` within ``depth`` graphs, each inside a node of the one before."""
    node = innermost
    for _ in range(depth):
        output = make.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        branch = make.make_graph([node], "branch", [], [output])
        node = make.make_node("If", ["c"], ["y"], then_branch=branch)
    return node


def test_properties_and_content(tmp_path: Path) -> None:
    model = small_model(w=np.ones((3, 5), np.float32))
    make.set_model_props(model, {"detseg": '{"format": 1}', "größe": "ä\n" * 300, "empty": ""})
    path = write(tmp_path / "a.onnx", model)
    found = read_onnx_file(path)
    assert found.properties == {"detseg": '{"format": 1}', "größe": "ä\n" * 300, "empty": ""}
    assert found.content == path.read_bytes()


def test_the_metadata_may_come_before_the_graph(tmp_path: Path) -> None:
    only_properties = onnx.ModelProto()
    make.set_model_props(only_properties, {"detseg": "first"})
    path = tmp_path / "a.onnx"
    path.write_bytes(only_properties.SerializeToString() + small_model().SerializeToString())
    assert read_onnx_file(path).properties == {"detseg": "first"}


def constant(**attributes: object) -> onnx.NodeProto:
    return make.make_node("Constant", [], ["y"], **attributes)


def with_initializer() -> onnx.ModelProto:
    model = small_model()
    model.graph.initializer.append(external(one_value()))
    return model


def with_sparse_initializer() -> onnx.ModelProto:
    """One value that unpacks to four terabytes."""
    model = small_model()
    sparse = model.graph.sparse_initializer.add(dims=[10**12])
    sparse.values.CopyFrom(one_value())
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    return model


def with_list_of_tensors() -> onnx.ModelProto:
    node = make.make_node("Strange", [], ["y"])
    node.attribute.add(name="list", type=onnx.AttributeProto.TENSORS).tensors.append(external(one_value()))
    return small_model(node)


def with_list_of_sparse_tensors() -> onnx.ModelProto:
    node = make.make_node("Strange", [], ["y"])
    attribute = node.attribute.add(name="list", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.add().indices.CopyFrom(one_value())
    return small_model(node)


def with_sparse_attribute() -> onnx.ModelProto:
    node = make.make_node("Strange", [], ["y"])
    attribute = node.attribute.add(name="one", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(one_value())
    return small_model(node)


def with_list_of_graphs() -> onnx.ModelProto:
    node = make.make_node("Strange", [], ["y"])
    attribute = node.attribute.add(name="list", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.add().initializer.append(one_value())
    return small_model(node)


def with_training_graph() -> onnx.ModelProto:
    model = small_model()
    model.training_info.add().algorithm.initializer.append(external(one_value()))
    return model


def with_location_alone() -> onnx.ModelProto:
    model = small_model()
    tensor = one_value()
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.initializer.append(tensor)
    return model


def with_two_graphs() -> bytes:
    """Protobuf merges the second into the first."""
    return small_model().SerializeToString() + with_initializer().SerializeToString()


@pytest.mark.parametrize(
    "model",
    [
        with_initializer(),
        with_list_of_tensors(),
        with_training_graph(),
        with_location_alone(),
        small_model(constant(value=external(one_value()))),
    ],
    ids=["initializer", "list", "training", "location", "constant"],
)
def test_weights_in_other_files_are_refused(tmp_path: Path, model: onnx.ModelProto) -> None:
    with pytest.raises(OnnxFileError, match=r"a\.onnx: it keeps weights in other files .* save the model as one file"):
        read_onnx_file(write(tmp_path / "a.onnx", model))


def test_a_second_graph_is_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(with_two_graphs())
    with pytest.raises(OnnxFileError, match="weights in other files"):
        read_onnx_file(path)


def test_functions_are_refused(tmp_path: Path) -> None:
    model = small_model()
    model.functions.add(name="f", domain="local")
    with pytest.raises(OnnxFileError, match="has functions of its own"):
        read_onnx_file(write(tmp_path / "a.onnx", model))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (with_sparse_initializer(), "it has sparse tensors"),
        (with_list_of_sparse_tensors(), "it has sparse tensors"),
        (with_sparse_attribute(), "it has sparse tensors"),
        (with_list_of_graphs(), "it has graphs inside nodes"),
        (small_model(if_node(1, constant(value=one_value()))), "it has graphs inside nodes"),
        (small_model(if_node(20, constant(value=one_value()))), "it has graphs inside nodes"),
    ],
    ids=["sparse", "sparse list", "sparse one", "graphs", "branch", "deep"],
)
def test_what_may_loop_or_unpack_to_any_size_is_refused(tmp_path: Path, model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(OnnxFileError, match=words):
        read_onnx_file(write(tmp_path / "a.onnx", model))


def renumbered(field: bytes, high: int, num_bytes: int) -> bytes:
    """``field`` with its key, of up to two bytes, written in ``num_bytes`` bytes and with the bits ``high`` added."""
    size = 1 if field[0] < 0x80 else 2
    key = (field[0] & 0x7F) | (field[1] << 7 if size == 2 else 0) | high
    groups = [key >> 7 * index & 0x7F for index in range(num_bytes)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:]) + field[size:]


def functions_field() -> bytes:
    model = onnx.ModelProto()
    model.functions.add(name="f", domain="local")
    return model.SerializeToString()


def hidden_external() -> bytes:
    """A graph in whose tensor the mark of external data has a key with high bits."""
    mark = onnx.TensorProto(data_location=TensorProto.EXTERNAL).SerializeToString()
    tensor = one_value().SerializeToString() + renumbered(mark, 1 << 32, 5)
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (renumbered(functions_field(), 1 << 32, 5), "a number of more than 32 bits"),
        (renumbered(functions_field(), 0x7 << 32, 5), "a number of more than 32 bits"),
        (renumbered(functions_field(), 1 << 62, 10), "a number of more than 32 bits"),
        (renumbered(functions_field(), 0, 6), "a number of more than 32 bits"),
        (renumbered(functions_field(), 0, 5), "has functions of its own"),
        (hidden_external(), "a number of more than 32 bits"),
        (b"\x3a\x80\x80\x80\x80\x80\x00", "a number of more than 31 bits"),
        (b"\x3a\x80\x80\x80\x80\x10", "a number of more than 31 bits"),
        (b"\x38\x05", "wire type 0 where a message belongs"),
        (b"\x3d\x05\x00\x00\x00", "wire type 5 where a message belongs"),
        (b"\x70\x05", "wire type 0 where a message belongs"),
    ],
)
def test_fields_that_readers_take_for_others_are_damage(tmp_path: Path, hidden: bytes, words: str) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(small_model().SerializeToString() + hidden)
    with pytest.raises(OnnxFileError, match=words):
        read_onnx_file(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(OnnxFileError, match="cannot be read: not a regular file"):
        read_onnx_file(tmp_path / "a.onnx")


def test_the_number_of_fields_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.onnx", small_model())
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 5)
    with pytest.raises(OnnxFileError, match="it has more than 5 fields"):
        read_onnx_file(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "there is no graph in it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "no ONNX file, or damaged"),
        (b"PK\x03\x04" + bytes(30), "no ONNX file, or damaged"),
        (b"\x3b\x3c", "wire type 3"),  # groups, which ONNX never has
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than 64 bits"),
        (b"\x3a\xff\xff\xff\xff\x07", "does not fit"),
        (b"\x3a\x05ab", "does not fit"),
        (b"\x3a", "ends within a number"),
        (b"\x3a\x00\x72\x04\x0a\x02\xff\xfe", "a property is not text"),
        (b"\x02\x00", "does not fit"),  # field number 0
        (b"\x3d\x00", "does not fit"),  # 4 bytes of which there is one
        (b"\x39\x00", "does not fit"),  # 8 bytes of which there is one
    ],
)
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match=words) as caught:
        read_onnx_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match=r"b\.onnx: cannot be read: No such file"):
        read_onnx_file(tmp_path / "b.onnx")
    with pytest.raises(OnnxFileError, match="cannot be read: Is a directory"):
        read_onnx_file(tmp_path)


def test_damaged_files_raise_one_kind_of_error(tmp_path: Path) -> None:
    """Cut off anywhere, or with any bytes changed: read, or refused, nothing else."""
    model = small_model(constant(value=one_value()), w=np.arange(6, dtype=np.float32))
    make.set_model_props(model, {"detseg": "{}"})
    whole = model.SerializeToString()
    random = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(len(whole))]
    for _ in range(1500):
        bytes_of_it = np.frombuffer(whole, np.uint8).copy()
        bytes_of_it[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        damaged.append(bytes_of_it.tobytes())
    path = tmp_path / "a.onnx"
    num_refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_onnx_file(path)
        except OnnxFileError:
            num_refused += 1
    assert len(whole) * 0.9 < num_refused < len(damaged)


def test_a_property_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    model = small_model()
    onnx.helper.set_model_props(model, {KEY: '{"format": 1}', "names": "{}"})
    before = model.SerializeToString()
    long = "ä" * 100  # 200 bytes, a number that takes two
    changed = with_property(before, KEY, long)
    second = onnx.load_from_string(changed)
    assert (second.graph, second.opset_import, second.ir_version) == (model.graph, model.opset_import, model.ir_version)
    assert {one.key: one.value for one in second.metadata_props} == {KEY: long, "names": "{}"}
    (tmp_path / "x.onnx").write_bytes(changed)
    assert read_onnx_file(tmp_path / "x.onnx").properties == {KEY: long, "names": "{}"}
    added = onnx.load_from_string(with_property(before, "new", "x"))
    assert [one.key for one in added.metadata_props] == [KEY, "names", "new"]

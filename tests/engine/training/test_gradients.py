"""The gradient of a step does not depend on how its images are dealt out to micro-batches or processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine.distributed import Group, join_group, leave_group
from detseg.engine.evaluate import evaluate
from detseg.engine.run import build_trainer
from detseg.engine.settings import RunConfig
from detseg.engine.training import learner as learner_module
from detseg.engine.training.learner import Copies, Learner
from detseg.engine.training.trainer import NonFiniteLossError, Trainer
from detseg.losses import assigners, checks, detection
from detseg.tasks.model_file import ModelFileConfig

Tiny = Callable[..., RunConfig]
COMMON = ("train.clip_norm=null", "train.optimizer.name=sgd", "augment.mosaic=0", "train.num_threads=1")


def make_trainer(config: RunConfig, group: Group | None = None) -> Trainer:
    train_set = open_dataset(config.data.path, "train")
    package = ModelFileConfig(config.model, config.task, train_set.class_names, train_set.category_ids)
    val_set = open_dataset(config.data.path, "val")
    return build_trainer(config, package, train_set, val_set, Path("unused"), group or Group(), torch.device("cpu"))


def first_step(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradients and the loss parts of the first optimizer step."""
    trainer.model.train()
    if trainer.config.freeze_norms:
        trainer.model.eval()
    batches = list(islice(trainer.loader.epoch(0), trainer.config.accumulate))
    trainer._step(trainer.learner.joined(), batches)
    trainer.settle()
    named = trainer.model.named_parameters()
    gradients = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    return gradients, dict(trainer.progress.sums)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = theirs[name].abs().max().item() + 1e-6
        assert (gradient - theirs[name]).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize("loss", ["tal", "simota"])
def test_four_micro_batches_equal_one_batch(tiny: Tiny, loss: str) -> None:
    head = "dfl" if loss == "tal" else "yolox"
    common = (*COMMON, f"task.loss={loss}", f"model.head={head}", "train.freeze_norms=true")
    whole, whole_loss = first_step(make_trainer(tiny(*common, "train.batch_size=12")))
    parts, parts_loss = first_step(make_trainer(tiny(*common, "train.batch_size=3", "train.accumulate=4")))
    assert_same(parts, whole, 1e-4)
    assert parts_loss == pytest.approx(whole_loss, rel=1e-5)
    # The naive mean over micro-batches is something else, so this test can fail.
    naive: dict[str, Tensor] = {}
    trainer = make_trainer(tiny(*common, "train.batch_size=3"))
    trainer.model.eval()
    for batch in trainer.loader.epoch(0):
        trainer.optimizer.zero_grad()
        trainer._forward(trainer.model, batch).total().backward()
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                naive[name] = naive.get(name, torch.zeros_like(parameter)) + parameter.grad / 4
    with pytest.raises(AssertionError):
        assert_same(naive, whole, 1e-4)


def test_a_batch_without_objects_trains(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(*COMMON)
    (tmp_path / "shapes.yaml").write_text("{format: shapes, image_size: 64, num_train: 4, num_val: 4, min_objects: 0, "
                                          "max_objects: 0, min_side: 16, max_side: 30}")  # fmt: skip
    for loss, head in (("tal", "dfl"), ("simota", "yolox")):
        config = tiny(*COMMON, f"task.loss={loss}", f"model.head={head}")
        gradients, parts = first_step(make_trainer(config))
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0
        background = "cls" if loss == "tal" else "obj"
        assert parts[background] > 0
        assert all(value == 0 for name, value in parts.items() if name != background)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_nothing_is_learned_from_a_loss_that_is_not_finite(tiny: Tiny, optimizer: str) -> None:
    """The host learns of it one step later, but not before the next state is saved."""
    common = [setting for setting in COMMON if "optimizer" not in setting]
    trainer = make_trainer(tiny(*common, f"train.optimizer.name={optimizer}"))
    first, second = islice(trainer.loader.epoch(0), 2)
    next(weight for weight in trainer.model.head.parameters() if weight.requires_grad).data[0] = float("nan")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}

    def two_steps() -> None:
        for number, batch in enumerate((first, second)):
            trainer.progress.step = number
            trainer._step(trainer.model, [batch])

    with pytest.raises(NonFiniteLossError, match="the loss is not finite in step 0") as caught:
        two_steps()
    assert all(path in str(caught.value) for path in first.paths)
    for name, value in trainer.model.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert not trainer.progress.num_steps
    assert not trainer.progress.sums


def test_no_state_is_saved_after_a_loss_that_is_not_finite(tiny: Tiny, tmp_path: Path) -> None:
    trainer = make_trainer(tiny(*COMMON))
    trainer.run_dir = tmp_path / "run"
    next(weight for weight in trainer.model.head.parameters() if weight.requires_grad).data[0] = float("nan")
    trainer._step(trainer.model, [next(iter(trainer.loader.epoch(0)))])
    with pytest.raises(NonFiniteLossError, match="the loss is not finite"):
        trainer._save()
    assert not trainer.run_dir.exists()


def _in_process(rank: int, world_size: int, port: int, folder: str) -> None:
    import os

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    config = load_config(RunConfig, Path(folder) / "tiny.yaml", (*COMMON, "train.accumulate=2", "train.device=cpu"))
    group, device = join_group("cpu")
    trainer = make_trainer(config, group)
    gradients, parts = first_step(trainer)
    buffers = {name: value.clone() for name, value in trainer.model.named_buffers()}
    one_image = open_dataset(Path(folder) / "single.yaml", "val")
    evaluator: Any = evaluate(
        trainer.model, trainer.task, one_image, batch_size=4, device=device, group=group, bar=False
    )
    result = {"parts": parts, "metrics": dict(evaluator.compute()), "num_results": len(evaluator.results())}
    torch.save({"gradients": gradients, "buffers": buffers}, Path(folder) / f"rank_{rank}_of_{world_size}.pt")
    (Path(folder) / f"rank_{rank}_of_{world_size}.json").write_text(json.dumps(result))
    leave_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_equal_one(tiny: Tiny, tmp_path: Path) -> None:
    tiny()
    settings = (tmp_path / "shapes.yaml").read_text()
    (tmp_path / "single.yaml").write_text(settings.replace("num_val: 4", "num_val: 1"))
    for world_size in (1, 2):
        multiprocessing.spawn(_in_process, args=(world_size, _free_port(), str(tmp_path)), nprocs=world_size)
    ranks = ("rank_0_of_1", "rank_0_of_2", "rank_1_of_2")
    tensors = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ranks]
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ranks]
    assert_same(tensors[1]["gradients"], tensors[2]["gradients"], 0)
    # Sums of float32 in another order; unsynchronized norms are off by a hundred times as much.
    assert_same(tensors[1]["gradients"], tensors[0]["gradients"], 3e-3)
    for name, value in tensors[0]["buffers"].items():
        assert torch.allclose(tensors[1]["buffers"][name].float(), value.float(), rtol=1e-4, atol=1e-6), name
    assert results[1]["parts"] == pytest.approx(results[0]["parts"], rel=1e-5)
    # One image for two processes: one of them has nothing to evaluate, both know the result.
    assert results[1] == results[2]
    assert results[1]["num_results"] > 0
    assert results[1]["metrics"].keys() == results[0]["metrics"].keys()


def test_a_gradient_that_is_too_long_is_shortened_and_no_other(tiny: Tiny) -> None:
    free, _ = first_step(make_trainer(tiny(*COMMON)))
    length = torch.cat([gradient.flatten() for gradient in free.values()]).double().norm().item()
    for limit, factor in ((length / 3, 1 / 3), (length * 3, 1.0)):
        clipped, _ = first_step(make_trainer(tiny(*COMMON[1:], f"train.clip_norm={limit}")))
        assert_same(clipped, {name: gradient * factor for name, gradient in free.items()}, 1e-4)


def test_a_step_waits_for_the_device_no_more_than_its_loss(
    tiny: Tiny, waits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice per micro-batch, for the shapes of the assignment, and once for the numbers of the step before."""
    for module in (assigners, checks, detection):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    trainer = make_trainer(tiny(*COMMON[1:], "train.clip_norm=10", "train.batch_size=4", "train.accumulate=3"))
    batches = list(islice(trainer.loader.epoch(0), 3))
    trainer._step(trainer.learner.joined(), batches)
    with waits() as counted:
        trainer._step(trainer.learner.joined(), batches)
    assert sorted(counted.names) == ["aten::nonzero"] * 6 + ["tolist"]
    trainer.settle()
    assert trainer.progress.num_steps == 2


def test_gradients_in_memory_that_is_overwritten_are_added_up_elsewhere(tiny: Tiny) -> None:
    """A stand-in for a CUDA graph, which writes the gradients of each micro-batch to the same place."""
    place = torch.zeros(2)

    class Graph(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, weight: Tensor, factor: float) -> Tensor:
            context.factor = factor
            return weight.sum() * factor

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            place.fill_(context.factor)
            return place[:], None

    def gradient_of(**settings: Any) -> list[float]:
        model = torch.nn.Linear(2, 1, bias=False)
        model.weight = torch.nn.Parameter(torch.ones(2))
        learner = Learner(model, replace(tiny().train, accumulate=2, **settings), 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for _ in range(2):
            learner.begin(optimizer)
            for factor in (1.0, 10.0):
                Graph.apply(model.weight, factor).backward()
        assert model.weight.grad is not None
        return model.weight.grad.tolist()

    assert gradient_of(compile="reduce-overhead") == [11, 11]
    assert gradient_of(compile="none") == [20, 20], "the stand-in overwrites what it gave"


def test_graphs_in_several_processes_are_refused(tiny: Tiny) -> None:
    config = tiny("train.compile=reduce-overhead").train
    with pytest.raises(ValueError, match=r"there are 2 of them; take train\.compile=default"):
        Learner(torch.nn.Linear(1, 1), config, 2)


def test_the_processes_are_joined_once_as_long_as_the_same_parameters_learn(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    class Joined(torch.nn.Module):
        def __init__(self, module: torch.nn.Module, **settings: Any) -> None:
            super().__init__()
            made.append(settings)

    monkeypatch.setattr(learner_module, "DistributedDataParallel", Joined)
    model = torch.nn.Linear(2, 1)
    learner = Learner(model, tiny().train, 2)
    first = learner.joined()
    assert learner.joined() is first
    model.bias.requires_grad_(False)
    assert learner.joined() is not first
    assert made == [{"gradient_as_bucket_view": True, "broadcast_buffers": False}] * 2


def test_batches_are_copied_in_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for streams: what is put into which, and in what order."""
    done: list[str] = []
    current = SimpleNamespace(wait_stream=lambda other: done.append("waits for the copy"))

    class There:
        def record_stream(self, stream: Any) -> None:
            done.append("kept" if stream is current else "kept for another")

    class Given:
        def to(self, device: Any) -> Any:
            done.append("copied")
            return SimpleNamespace(images=There(), targets={"mask": There()})

    @contextmanager
    def within(stream: Any) -> Iterator[None]:
        done.append("aside")
        yield
        done.append("back")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "side")
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    Copies(torch.device("cuda", 1)).copied(Given())  # type: ignore[arg-type]
    assert done == ["aside", "copied", "back", "waits for the copy", "kept", "kept"]

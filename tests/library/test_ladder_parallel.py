"""Ladders in several processes: two with half of a batch each learn what one learns from all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from optional_packages import transformers_ready

if not transformers_ready():
    pytest.skip("transformers is not installed (the `nlp` extra)", allow_module_level=True)

from ladders import SHARED, batch, bert, build, ladder
from sideagents.core.base import FrozenBase
from sideagents.core.sidetuned import SideTuned
from sideagents.errors import SideAgentsError
from sideagents.ladder import LadderModel
from sideagents.storage.tensors import load_tensors, save_tensors

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


def learn(name: str, wrapped: nn.Module, model: LadderModel, rows: slice) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return the gradients of the first step and the losses of three."""
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.1)
    losses, gradients = [], {}
    for step in range(3):
        loss = wrapped(**{key: tensor[rows] for key, tensor in batch(name).items()}).loss
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        losses.append(loss.detach())
    return gradients, losses


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        for name in SHARED:
            model = build(name)
            wrapped = nn.parallel.DistributedDataParallel(model)
            gradients, losses = learn(name, wrapped, model, slice(2 * rank, 2 * rank + 2))
            for loss in losses:
                torch.distributed.all_reduce(loss)
            found = gradients | {"losses": torch.stack(losses) / 2}
            save_tensors(Path(folder) / f"{name}.{rank}.safetensors", found)
    finally:
        torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads can abort an ordinary exit


def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    for name in SHARED:
        model = build(name)
        gradients, losses = learn(name, model, model, slice(None))
        for rank in range(2):
            found = load_tensors(tmp_path / f"{name}.{rank}.safetensors")
            torch.testing.assert_close(found.pop("losses"), torch.stack(losses))
            torch.testing.assert_close(found, gradients)


def descend(wrapped: nn.Module, loss_of: Any, average: Any) -> Tensor:
    """Return the losses of three steps."""
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        loss = loss_of(wrapped)
        optimizer.zero_grad()
        loss.backward()
        average()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sharded_cases(rows: slice) -> dict[str, tuple[nn.Module, Any]]:
    """A ladder, and a side-tuned network with its alpha, with the loss of some rows of a batch."""
    inputs = {key: tensor[rows] for key, tensor in batch("bert").items()}
    torch.manual_seed(0)
    base = FrozenBase(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()), "grid", (8, 8))
    net = nn.Sequential(SideTuned(base, nn.Conv2d(3, 4, 3, 2, 1)), nn.Flatten(), nn.Linear(64, 3))
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(7))[rows]
    labels = torch.tensor([0, 1, 2, 0])[rows]
    return {
        "ladder": (build("bert"), lambda model: model(**inputs).loss),
        "side": (net, lambda model: nn.functional.cross_entropy(model(images), labels)),
    }


def work_sharded(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, (net, loss_of) in sharded_cases(slice(2 * rank, 2 * rank + 2)).items():
        scalars = [p for p in net.parameters() if p.dim() == 0]  # cannot be sharded: docs/ladder.md
        cpu = torch.device("cpu")
        wrapped = FullyShardedDataParallel(net, use_orig_params=True, ignored_states=scalars, device_id=cpu)

        def average(scalars: list[nn.Parameter] = scalars) -> None:
            for scalar in scalars:
                torch.distributed.all_reduce(scalar.grad)
                scalar.grad /= 2

        losses = descend(wrapped, loss_of, average)
        torch.distributed.all_reduce(losses)
        save_tensors(Path(folder) / f"{name}.{rank}.safetensors", {"losses": losses / 2})
    torch.distributed.barrier()
    os._exit(0)


def test_sharded_networks_learn_as_whole_ones(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work_sharded, (str(tmp_path),), nprocs=2)
    for name, (net, loss_of) in sharded_cases(slice(None)).items():
        expected = descend(net, loss_of, lambda: None)
        for rank in range(2):
            found = load_tensors(tmp_path / f"{name}.{rank}.safetensors")["losses"]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


SCRIPT = """
import json
import os
import sys

import torch
from accelerate import Accelerator
from ladders import batch, build

accelerator = Accelerator(cpu=True)
model = build("t5")
optimizer = torch.optim.SGD(model.trainable_parameters(), lr=0.1)
rows = [{key: tensor[i] for key, tensor in batch("t5").items()} for i in range(4)]
loader = torch.utils.data.DataLoader(rows, batch_size=4 // accelerator.num_processes)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
losses = []
for _ in range(3):
    for given in loader:
        loss = model(**given).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
if accelerator.is_main_process:
    with open(sys.argv[1], "w") as file:
        json.dump([accelerator.num_processes, losses], file)
accelerator.end_training()
os._exit(0)  # as above
"""


def test_torchrun_with_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed (the `nlp` extra)")
    script, out = tmp_path / "train.py", tmp_path / "losses.json"
    script.write_text(SCRIPT)
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(out),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*run, str(out)], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    processes, losses = json.loads(out.read_text())
    assert processes == 2
    model = build("t5")
    expected = learn("t5", model, model, slice(None))[1]
    assert losses == pytest.approx([loss.item() for loss in expected], rel=1e-5)


def test_data_parallel_is_refused() -> None:
    with pytest.raises(SideAgentsError, match=r"nn\.DataParallel cannot run a ladder: start one process for each"):
        ladder(bert)._replicate_for_data_parallel()

"""One training process of tests/test_parallel.py: `python parallel_worker.py OUT TOTAL_ENVS [MODE]`."""

import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from tiny_env import TinyVec, tiny_base

from sideagents.errors import SideAgentsError
from sideagents_policies import EncodeOnce, PerEnvNoise, SideTunedPolicy, SideTunedPPO, StackKeys, parallel

warnings.simplefilter("error")
STEPS, UPDATES = 8, 2


def make(total: int, **kwargs) -> SideTunedPPO:
    """Build the model of this process: its share of `total` environments, in full-batch mini-batches."""
    world = parallel.init("cpu", timeout_s=30.0)
    torch.set_num_threads(1)
    torch.manual_seed(0 if world.is_main else 1000)  # peers start from other weights and must get rank 0's
    n = total // world.size
    first = world.rank * n
    base = tiny_base()
    venv = StackKeys(EncodeOnce(TinyVec(n, first), base), {"goal": 2})
    settings = {
        "learning_rate": 0.003,
        "ent_coef": 0.01,
        "n_steps": STEPS,
        "batch_size": STEPS * n,
        "n_epochs": 20,
        "target_kl": 1e-3,
    }
    extractor = {"base": base, "hidden": 16}
    model = SideTunedPPO(
        SideTunedPolicy, venv, policy_kwargs={"features_extractor_kwargs": extractor}, **{**settings, **kwargs}
    )
    model.policy.action_noise = PerEnvNoise(7, range(first, first + n))
    return model


def main() -> None:
    out, total, mode = Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or ["train"])[0]
    rank = int(os.environ.get("RANK", "0"))
    (out / f"pid{rank}").write_text(str(os.getpid()))
    if mode == "hang":
        parallel.init("cpu")
        time.sleep(120)
    options = {"n_steps": STEPS * (1 + rank), "batch_size": 8} if mode == "uneven" else {}
    model = make(total, **options)
    if mode == "die":
        model.learn(STEPS * total)
        (out / f"ready{rank}").touch()
        if rank == 1:
            os._exit(7)
    model.learn(UPDATES * STEPS * total)
    result = {name: tensor.numpy() for name, tensor in model.policy.state_dict().items()}
    np.savez(out / f"rank{rank}.npz", frames=model.num_timesteps, updates=model._n_updates, **result)
    parallel.finish()


if __name__ == "__main__":
    try:
        main()
    except SideAgentsError as error:
        print(f"rank {os.environ.get('RANK')}: {error}", file=sys.stderr)
        sys.exit(2)

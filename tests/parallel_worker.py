"""One training process of tests/policies/test_parallel.py: `python parallel_worker.py OUT TOTAL_ENVS [MODE [DATASET]]`.

MODE `clone` takes one step of behaviour cloning instead.
"""

import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Discrete

from sideagents.errors import SideAgentsError
from sideagents_envs import make_vec
from sideagents_envs.config import CameraConfig, ScenesConfig, TaskConfig
from sideagents_policies import EncodeOnce, PerEnvNoise, SideTunedPolicy, SideTunedPPO, StackKeys, parallel
from sideagents_policies.config import AgentConfig, CloneConfig
from sideagents_policies.train.cloner import Cloner
from tiny_env import SIZE, TinyVec, tiny_base

warnings.simplefilter("error")
STEPS, UPDATES = 8, 2


def make(total: int, dataset: str | None = None, **options) -> SideTunedPPO:
    """Build the model of this process: its share of `total` environments, in full-batch mini-batches.

    The environments are those of tiny_env, or PointNav in the buildings of `dataset`.
    """
    world = parallel.init("cpu", timeout_s=60.0)
    torch.set_num_threads(1)
    torch.manual_seed(5 if world.is_main else 1000)  # peers start from other weights and must get rank 0's
    n = total // world.size
    first = world.rank * n
    venv = TinyVec(n, first)
    if dataset is not None:
        camera, scenes = CameraConfig(width=SIZE, height=SIZE), ScenesConfig(dataset=dataset)
        task = TaskConfig(max_steps=6)
        venv = make_vec(n, camera=camera, task=task, scenes=scenes, seed=3, first_env=first, total_envs=total)
    base = tiny_base()
    settings = {"learning_rate": 0.003, "ent_coef": 0.01, "target_kl": 1e-3, "n_epochs": 20}
    settings |= {"n_steps": STEPS, "batch_size": STEPS * n, **options}
    model = SideTunedPPO(
        SideTunedPolicy,
        StackKeys(EncodeOnce(venv, base), {"goal": 2}),
        policy_kwargs={"features_extractor_kwargs": {"base": base, "hidden": 16}},
        **settings,
    )
    model.policy.action_noise = PerEnvNoise(7, range(first, first + n))
    return model


class Frames:
    """Stands in for a FrameStore: this process's half of 16 labelled frames, or all of them; few of the last ones
    have a label."""

    def __init__(self, world: parallel.World) -> None:
        venv = StackKeys(EncodeOnce(TinyVec(16), tiny_base()), {"goal": 2})
        self.space = venv.observation_space
        mine = slice(world.rank * 16 // world.size, (world.rank + 1) * 16 // world.size)
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, -1, -1, -1, 2, -1, -1, -1, 1, -1])
        self.taken = {key: torch.from_numpy(array[mine]) for key, array in venv.reset().items()}
        self.labels, self.returns = labels[mine], torch.linspace(-1.0, 3.0, 16)[mine]

    def take(self, rows, device):
        return self.taken, self.labels, self.returns


def clone_step() -> tuple[SideTunedPolicy, np.ndarray]:
    """Take one step of cloning; return the policy and loss, accuracy, value loss and wishes over all processes."""
    cloner = Cloner.__new__(Cloner)  # the parts that a step reads, without demonstrations on disk
    cloner.world = parallel.init("cpu", timeout_s=60.0)
    torch.manual_seed(0)
    cloner.store = Frames(cloner.world)
    extractor = {"base": tiny_base(), "hidden": 16}
    cloner.policy = SideTunedPolicy(
        cloner.store.space, Discrete(3), lambda _: 1e-3, features_extractor_kwargs=extractor
    )
    critic = list(cloner.policy.value_net.parameters())
    cloner._critic = critic
    cloner._actor = [p for p in cloner.policy.parameters() if not any(p is c for c in critic)]
    cloner.optimizer = torch.optim.SGD([*cloner._actor, *critic], lr=0.1)
    cloner.config = AgentConfig(clone=CloneConfig(max_grad_norm=1e6))
    return cloner.policy, cloner._step(np.arange(1), False, cloner.world.is_main).numpy()


def main() -> None:
    out, total, mode = Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or ["train"])[0]
    rank = int(os.environ.get("RANK", "0"))
    (out / f"pid{rank}").write_text(str(os.getpid()))
    if mode == "hang":
        parallel.init("cpu")
        time.sleep(120)
    if mode == "wait":  # longer than a collective operation may take
        world = parallel.init("cpu", timeout_s=2.0)
        with parallel.others_wait(world, every_s=0.5):
            time.sleep(6.0 if world.is_main else 0.0)
        parallel.all_sum(torch.ones(1))
        parallel.finish()
        return
    if mode == "clone":
        policy, statistics = clone_step()
        tensors = {name: tensor.numpy() for name, tensor in policy.state_dict().items()}
        np.savez(out / f"rank{rank}.npz", statistics=statistics[:3], **tensors)
        parallel.finish()
        return
    options = {"n_steps": STEPS * (1 + rank), "batch_size": 8} if mode == "uneven" else {}
    if mode == "warmup":  # weights that get no gradient at first must not count steps of the optimizer
        options["critic_warmup"] = STEPS * total
    model = make(total, *sys.argv[4:], **options)
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
    code = 0
    try:
        main()
    except parallel.LostPeer:
        code = parallel.LOST
    except SideAgentsError as error:
        print(f"rank {os.environ.get('RANK')}: {error}", file=sys.stderr, flush=True)
        code = 2
    os._exit(code)  # as the training processes do: gloo's threads can abort an ordinary exit

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.utils import set_random_seed

from sideagents_policies.agent.rollout import DictRollout, Rollout

BOX = spaces.Box(0, 255, (2, 3), np.uint8)
STEPS, ENVS = 5, 3


def fill(buffer, seed):
    rng = np.random.default_rng(seed)
    buffer.reset()
    for step in range(STEPS):
        image = rng.integers(0, 256, (ENVS, 2, 3), dtype=np.uint8)
        buffer.add(
            {"rgb": image} if isinstance(buffer, DictRolloutBuffer) else image,
            rng.integers(0, 3, ENVS),
            rng.random(ENVS),
            np.full(ENVS, step == 0),
            torch.from_numpy(rng.random(ENVS)),
            torch.from_numpy(rng.random(ENVS)),
        )
    buffer.compute_returns_and_advantage(torch.from_numpy(rng.random(ENVS)), np.zeros(ENVS, bool))


def rows(buffer, batch_size):
    """Return all samples as one sorted table, and the sizes of the mini-batches."""
    tables, sizes = [], []
    for batch in buffer.get(batch_size):
        observations = batch.observations
        image = observations["rgb"] if isinstance(observations, dict) else observations
        assert image.dtype == torch.uint8
        columns = [image.reshape(len(image), -1).float(), batch.actions, batch.old_values[:, None]]
        columns += [batch.old_log_prob[:, None], batch.advantages[:, None], batch.returns[:, None]]
        tables.append(torch.cat(columns, dim=1))
        sizes.append(len(image))
    table = torch.cat(tables).numpy()
    return table[np.lexsort(table.T)], sizes


@pytest.mark.parametrize(
    ("ours", "theirs", "space"),
    [(Rollout, RolloutBuffer, BOX), (DictRollout, DictRolloutBuffer, spaces.Dict(rgb=BOX))],
)
def test_the_same_samples_as_sb3s_buffer_rollout_after_rollout(ours, theirs, space):
    one, two = (kind(STEPS, space, spaces.Discrete(3), "cpu", 0.95, 0.99, ENVS) for kind in (ours, theirs))
    memory = one.observations["rgb"] if isinstance(one.observations, dict) else one.observations
    for seed in range(3):
        fill(one, seed)
        fill(two, seed)
        expected, _ = rows(two, 4)
        for _ in range(2):
            table, sizes = rows(one, 4)
            assert sizes == [4, 4, 4, 3]
            assert np.array_equal(table, expected)
    now = one.observations["rgb"] if isinstance(one.observations, dict) else one.observations
    assert now is memory  # never allocated again


def fill_stacked(buffer, stacked, starts, seed):
    rng = np.random.default_rng(seed)
    buffer.reset()
    for observation, start in zip(stacked, starts, strict=True):
        numbers = [rng.random(ENVS) for _ in range(3)]
        buffer.add(dict(observation), rng.integers(0, 3, ENVS), numbers[0], start, *map(torch.from_numpy, numbers[1:]))


def test_stacks_are_kept_as_single_readings_and_come_back_whole():
    rng = np.random.default_rng(0)
    reach, total = 3, 4 * STEPS
    starts = rng.random((total, ENVS)) < 0.2
    starts[0] = True
    single = rng.integers(1, 256, (total, ENVS, 9, 9, 2), dtype=np.uint8)
    kept = np.zeros((reach + 1, ENVS, 9, 9, 2), np.uint8)
    stacked = []
    for reading, start in zip(single, starts, strict=True):
        kept = np.concatenate([kept[1:], reading[None]])
        kept[:-1, start] = 0
        stacked.append({"rgb": np.concatenate(kept, axis=-1), "goal": reading[..., 0, 0, :1].astype(np.float32)})
    goal = spaces.Box(0, 255, (1,), np.float32)
    space = spaces.Dict(rgb=spaces.Box(0, 255, (9, 9, 8), np.uint8), goal=goal)
    arguments = (STEPS, space, spaces.Discrete(3), "cpu", 0.95, 0.99, ENVS)
    one, two = DictRollout(*arguments, stacks={"rgb": 4}), DictRollout(*arguments)
    assert one.observations["rgb"].shape == (STEPS + reach, ENVS, 9, 9, 2)
    for rollout in range(4):
        part = slice(rollout * STEPS, (rollout + 1) * STEPS)
        for buffer in (one, two):
            fill_stacked(buffer, stacked[part], starts[part], rollout)
        for _ in range(2):
            orders = []
            for buffer in (one, two):
                set_random_seed(rollout)
                orders.append(list(buffer.get(4)))
            for mine, plain in zip(*orders, strict=True):
                assert torch.equal(mine.observations["rgb"], plain.observations["rgb"])
                assert torch.equal(mine.observations["goal"], plain.observations["goal"])
                assert torch.equal(mine.returns, plain.returns)


def test_the_order_comes_from_numpys_generator():
    buffer = Rollout(STEPS, BOX, spaces.Discrete(3), "cpu", 0.95, 0.99, ENVS)
    fill(buffer, 0)

    def epoch(seed):
        set_random_seed(seed)
        return next(buffer.get(None)).returns

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))

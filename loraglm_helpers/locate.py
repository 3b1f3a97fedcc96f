"""Where a checkpoint is: a folder, or a repository of the Hugging Face Hub fetched into its cache.

Only data files are fetched. The Python files that ChatGLM repositories carry are never needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from .config import ROOT, repo_path

SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]


class NotFoundHere(FileNotFoundError):
    """Neither a folder nor a repository that can be reached; the message says where was looked."""


def local_folder(path: str | Path, weights: bool = True) -> Path:
    """The folder of a path or hub name ("owner/name"), downloaded when it is not at hand.

    A relative path is looked up from the current folder, then from the project's root, so that
    ``data/tiny-chatglm2`` is found from a notebook as well. ``weights=False`` leaves the weight
    files out. Raises NotFoundHere.
    """
    folder = Path(repo_path(path))
    if folder.is_dir():
        return folder
    owner, _, name = str(path).partition("/")
    is_hub_name = re.fullmatch(r"[\w-][\w.-]*", owner) and re.fullmatch(r"[\w.-]+", name)
    if not is_hub_name or Path(repo_path(owner)).is_dir():
        raise NotFoundHere(f"{path}: no such folder (looked in {Path.cwd()} and {ROOT})")
    return _from_hub(str(path), weights)


def _from_hub(name: str, weights: bool) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=SMALL_FILES))
        if weights:
            snapshot_download(name, allow_patterns=_weight_patterns(folder))
        return folder
    except (OSError, ValueError, KeyError, HfHubHTTPError) as error:
        raise NotFoundHere(
            f"{name}: no such folder (looked in {Path.cwd()} and {ROOT}), and the Hugging Face Hub "
            f"did not give it ({type(error).__name__}); check the spelling and the network, or "
            "download the model and pass its folder"
        ) from error


def _weight_patterns(folder: Path) -> list[str]:
    """The files that an index names; safetensors first, so that no weights are fetched twice."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            content = json.loads((folder / index).read_text(encoding="utf-8"))
            return sorted(set(content["weight_map"].values()))
    return ["model.safetensors", "pytorch_model.bin"]

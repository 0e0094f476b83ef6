"""Writing state to a file and reading it back, without pickle: tensors as safetensors, all else as JSON in its header.

A state is a dict of objects with `state_dict` / `load_state_dict` (modules, optimisers), generators, or tensors that
are filled in place.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.system import files
from benchmark.system.files import write_tensors

State = dict[str, Any]


class CheckpointError(ValueError):
    """A file that does not hold the state it is asked for; the message names the file."""


def _capture(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.state_dict() if hasattr(value, "state_dict") else value


def _restore(target: Any, value: Any) -> None:
    if isinstance(target, torch.Generator):
        target.set_state(value.cpu())
    elif isinstance(target, Tensor):
        with torch.no_grad():
            target.copy_(value)
    else:
        target.load_state_dict(value)


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON with each tensor replaced by its number; keys are kept with their types, which JSON objects would lose."""
    if isinstance(value, Tensor):
        number = str(len(tensors))
        tensors[number] = value.detach().contiguous().clone()  # a clone: safetensors refuses tensors that share memory
        return {"tensor": number}
    if isinstance(value, dict):
        return {"items": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, tensors) for item in value]}
    return {"value": value}


def _unflatten(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "items" in node:
        return {key: _unflatten(item, tensors) for key, item in node["items"]}
    if "list" in node:
        return [_unflatten(item, tensors) for item in node["list"]]
    return node["value"]


def save_state(path: Path, state: State, header: dict[str, Any]) -> None:
    """Write a state atomically; `header` is small JSON that says what it belongs to."""
    tensors: dict[str, Tensor] = {}
    tree = _flatten({name: _capture(value) for name, value in state.items()}, tensors)
    texts = {"header": json.dumps(header), "tree": json.dumps(tree)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, texts)


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a saved state; None if the file is absent or, after a warning, damaged."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["header"])
        if isinstance(header, dict):
            return header
        reason: object = "its header is no object"
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        reason = error
    warnings.warn(f"{path} is damaged ({reason}); what it held is done again", stacklevel=2)
    return None


def load_state(path: Path, state: State) -> None:
    """Fill the objects of `state` from a file that `read_header` accepted. Raises CheckpointError if one cannot be
    filled; then none is."""
    before: dict[str, Tensor] = {}
    own = _flatten({name: _capture(value) for name, value in state.items()}, before)
    try:
        tensors, texts = files.read_tensors(path)
        saved = _unflatten(json.loads(texts["tree"]), tensors)
        for name, target in state.items():
            _restore(target, saved[name])
    except Exception as error:  # damage surfaces as whatever an object's loader stumbled over
        for name, value in _unflatten(own, before).items():
            _restore(state[name], value)
        raise CheckpointError(f"{path} does not hold this state ({type(error).__name__}: {error})") from error

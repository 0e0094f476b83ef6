"""State to a file and back, without pickle: tensors as safetensors, everything else as JSON in its header.

A state is a dict of objects with `state_dict` / `load_state_dict` (modules, optimisers), generators, or tensors that
are filled in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmark.store import write_atomically

State = dict[str, Any]


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


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON with each tensor replaced by its name; keys are kept with their types, which JSON objects would lose."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous().clone()  # a clone: safetensors refuses tensors that share memory
        return {"tensor": path}
    if isinstance(value, dict):
        return {"items": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_flatten(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
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
    tree = _flatten({name: _capture(value) for name, value in state.items()}, "", tensors)
    metadata = {"header": json.dumps(header), "tree": json.dumps(tree)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata))


def read_header(path: Path) -> dict[str, Any] | None:
    """The header of a saved state; None where the file is absent or damaged (then the phase starts anew)."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["header"])
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, OSError):
        return None


def load_state(path: Path, state: State) -> None:
    """Fill the objects of `state` from a file that `read_header` accepted."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        tree = json.loads(file.metadata()["tree"])
    saved = _unflatten(tree, tensors)
    for name, target in state.items():
        _restore(target, saved[name])

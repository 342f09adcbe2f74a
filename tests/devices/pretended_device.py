"""A device that there is not: its tensors are computed on the CPU, and refuse to meet tensors of the CPU.

Code that forgets to move a tensor works on the CPU and fails on a GPU. On a pretended device it fails everywhere. What
may meet is what CUDA lets meet: numbers (tensors without dimensions), copies, and indices on the CPU.

Registering it changes torch for the whole process, so it belongs into one of its own.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_aten = torch.ops.aten
_MAY_MIX = {
    _aten.copy_.default,
    _aten._to_copy.default,
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class PretendedTensor(torch.Tensor):
    """A tensor that says it is on the pretended device, around one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "PretendedTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """While this is entered, `torch.device("pretended")` can be used."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendedTensor) else value


def _pretended(value: Any) -> Any:
    return PretendedTensor(value) if type(value) is torch.Tensor else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    involved = any(isinstance(tensor, PretendedTensor) for tensor in tensors)
    if involved and func not in _MAY_MIX:
        strangers = [tuple(t.shape) for t in tensors if not isinstance(t, PretendedTensor) and t.dim()]
        if strangers:
            raise RuntimeError(f"{func} is given tensors of two devices; on the CPU are those of shape {strangers}")
    target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if target == NAME:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func is _aten.copy_.default:
        return args[0]
    if func is _aten._local_scalar_dense.default or not (target == NAME or (involved and target is None)):
        return result
    wrapped = tree_map(_pretended, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if involved else wrapped


# What torch calls below the level where a mode is asked.
def _empty(size: Any, dtype: Any = None, layout: Any = None, device: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    return PretendedTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    return PretendedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _held(target).copy_(_held(source))
    return target


_setup_privateuseone_for_python_backend(NAME)
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")
# A tensor made in inference mode cannot be one of these.
torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]

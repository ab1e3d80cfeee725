"""Networks built on the meta device: tensor names and shapes only, until weights are loaded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


class _Undrawn(TorchFunctionMode):
    """Skips random initialisation, whose values the checkpoint would replace.

    On the meta device torch initialises by way of its compiler, which takes seconds to load.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **kwargs)


@contextmanager
def blueprint() -> Iterator[None]:
    """Modules built inside allocate no memory, whatever sizes their options name.

    `load_state_dict(state, assign=True)` then gives them real tensors.
    """
    with torch.device("meta"), _Undrawn():
        yield


def filled(build: Callable[[], Network], state: Mapping[str, Tensor]) -> Network:
    """The network that `build` makes, with the weights `state` as float32.

    Nothing is allocated before names and shapes are compared; ValueError where they do not match.
    """
    with blueprint():
        network = build()
    if problem := misfit(network, state):
        raise ValueError(problem)
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network


def misfit(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The first difference in names or shapes between `state` and `network`; None if they match."""
    own = network.state_dict()
    for key in (*own, *state):
        if key not in state:
            return f"'{key}' is missing"
        if key not in own:
            return f"'{key}' belongs to no layer"
        if own[key].shape != state[key].shape:
            return f"'{key}' has the shape {list(state[key].shape)}, not {list(own[key].shape)}"
    return None

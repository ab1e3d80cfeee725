"""Networks built as their names and shapes alone, before their weights come from a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """Draws no initial values.

    They would be thrown away; and on the meta device torch draws by a detour that loads its
    compiler, for seconds.
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
    """Modules that are built inside hold no values: nothing is allocated, whatever options ask.

    `load_state_dict(state, assign=True)` makes them real.
    """
    with torch.device("meta"), _Undrawn():
        yield


def misfit(network: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the names and shapes of `state` as all that `network` holds; None if
    nothing is."""
    own = network.state_dict()
    for key in (*own, *state):
        if key not in state:
            return f"'{key}' is missing"
        if key not in own:
            return f"'{key}' belongs to no layer"
        if own[key].shape != state[key].shape:
            return f"'{key}' has the shape {list(state[key].shape)}, not {list(own[key].shape)}"
    return None

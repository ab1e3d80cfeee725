"""Import of the codec packages where torchaudio cannot be imported.

torchaudio's default Linux wheel is a CUDA build: next to a CPU torch, its native library misses its
dependencies and `import torchaudio` raises OSError. The codec packages import torchaudio, but the
parts used here call only its pure-Python code.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mssgen.extras import require

_EXTENSION = "torchaudio._extension"


def import_codec_package(name: str) -> Any:
    """Import the module `name`, such as "encodec.modules" or "dac.model.dac".

    Raises:
        UsageError: the package is not installed; names the extra that installs it.
    """
    _ensure_torchaudio()
    return require(name, "codecs", "this codec")


def _ensure_torchaudio() -> None:
    """Make `import torchaudio` work, if necessary without its native code."""
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError:
        # The codecs never call it.
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    except OSError:
        for module in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[module]
        sys.modules[_EXTENSION] = _no_extension()
        importlib.import_module("torchaudio")


def _no_extension() -> types.ModuleType:
    """Replacement for torchaudio's loader of native code that reports it as unavailable."""
    spec = importlib.util.find_spec("torchaudio")
    module = types.ModuleType(_EXTENSION)
    origin = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    module.__path__ = [str(origin / "_extension")]

    def fail_if_no_align(function: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> NoReturn:
            raise RuntimeError(f"torchaudio.{function.__name__} needs torchaudio's native code")

        return refuse

    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=fail_if_no_align,
        _check_cuda_version=lambda: None,
    )
    return module

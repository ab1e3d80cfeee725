"""Loading the codec packages where torchaudio does not load.

torchaudio's default Linux wheel is a CUDA build: beside a CPU torch its native library is missing
others, and `import torchaudio` raises OSError. The codec packages import torchaudio but, in what is
used here, call only what is plain Python in it.
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
    """Import `name` ("encodec", "dac.model"); UsageError names the extra where it is absent."""
    _ensure_torchaudio()
    return require(name, "codecs", "this codec")


def _ensure_torchaudio() -> None:
    """Make `import torchaudio` work, without its native code if need be."""
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError:
        # Nothing that the codecs do here needs it.
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    except OSError:
        for module in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[module]
        sys.modules[_EXTENSION] = _no_extension()
        importlib.import_module("torchaudio")


def _no_extension() -> types.ModuleType:
    """Stands for torchaudio's loader of native code, and says that there is none."""
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

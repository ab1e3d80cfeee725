"""mssgen separates a song into stems and enhances the stems with neural codecs.

    import mssgen

    stems = mssgen.separate("song.wav")                 # {"drums": [C, T], "bass": ..., ...}
    separator = mssgen.load_separator("htdemucs")       # load once, use for many songs
    bass = mssgen.enhance("bass.wav", mixture="song.wav", stem="bass")          # [C, T]
    enhancer = mssgen.load_enhancer("bass", blend="fill")

Importing this package loads neither torch nor numpy; its names load what they need.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Threads of torch that wait for one another spin by default, which beside busy programs takes up to
# a hundred times the time of the work. OpenMP reads these variables once, when torch is loaded.
_WAIT_POLICY = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
if "torch" not in sys.modules and not _WAIT_POLICY & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "passive"

if TYPE_CHECKING:
    from mssgen.errors import MssgenError as MssgenError
    from mssgen.jobs.batch import separate_files
    from mssgen.jobs.enhancing import enhance_files as enhance_files
    from mssgen.pipeline import enhance as enhance
    from mssgen.pipeline import load_enhancer as load_enhancer
    from mssgen.pipeline import load_separator as load_separator
    from mssgen.pipeline import separate as separate

_LAZY = {
    "MssgenError": "mssgen.errors",
    "enhance": "mssgen.pipeline",
    "enhance_files": "mssgen.jobs.enhancing",
    "load_enhancer": "mssgen.pipeline",
    "load_separator": "mssgen.pipeline",
    "separate": "mssgen.pipeline",
    "separate_files": "mssgen.jobs.batch",
}
__all__ = [
    "MssgenError",
    "__version__",
    "enhance",
    "enhance_files",
    "load_enhancer",
    "load_separator",
    "separate",
    "separate_files",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mssgen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Plays tracker modules by libopenmpt through ctypes, with any of their instruments muted."""

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_void_p
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mssgen.errors import AudioError, UsageError

_BLOCK_SAMPLES = 16384
# openmpt_module_render_param of libopenmpt.h.
_STEREO_SEPARATION, _INTERPOLATION = 2, 3
_NOTE, _INSTRUMENT = 0, 1
_MAX_ROWS = 1024


@dataclass(frozen=True)
class Style:
    """Playing style of a module; the defaults play it as it was written."""

    tempo: float = 1.0
    pitch: float = 1.0
    """Factor of all frequencies; the tempo stays."""
    separation_percent: int = 100
    """Width of the stereo image."""
    interpolation: int = 8
    """Taps of the resampling filter: 1 (none, as in old trackers), 2, 4 or 8."""


PLAIN = Style()


class _Interactive(ctypes.Structure):
    """openmpt_module_ext_interface_interactive of libopenmpt_ext.h: sixteen functions in order, of
    which three are used."""

    _fields_ = (
        ("_set_speed_and_tempo", c_void_p * 2),
        ("set_tempo_factor", CFUNCTYPE(c_int, c_void_p, c_double)),
        ("_get_tempo_factor", c_void_p),
        ("set_pitch_factor", CFUNCTYPE(c_int, c_void_p, c_double)),
        ("_pitch_volumes_and_channel_mutes", c_void_p * 7),
        ("set_instrument_mute_status", CFUNCTYPE(c_int, c_void_p, c_int32, c_int)),
        ("_instrument_mute_and_notes", c_void_p * 3),
    )


@cache
def library() -> ctypes.CDLL:
    """libopenmpt with typed functions; raises UsageError if it is not installed."""
    lib = None
    for name in ("libopenmpt.so.0", find_library("openmpt")):
        try:
            lib = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if lib is not None:
            break
    if lib is None:
        raise UsageError(
            "the library libopenmpt is needed to play tracker modules and is not installed; on "
            "Debian or Ubuntu `apt-get install libopenmpt0` installs it"
        )
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "openmpt_get_library_version": (ctypes.c_uint32, ()),
        "openmpt_free_string": (None, (c_void_p,)),
        "openmpt_module_ext_create_from_memory": (
            c_void_p,
            (c_char_p, ctypes.c_size_t, *[c_void_p] * 7),
        ),
        "openmpt_module_ext_get_module": (c_void_p, (c_void_p,)),
        "openmpt_module_ext_destroy": (None, (c_void_p,)),
        "openmpt_module_ext_get_interface": (
            c_int,
            (c_void_p, c_char_p, c_void_p, ctypes.c_size_t),
        ),
        "openmpt_module_set_repeat_count": (c_int, (c_void_p, c_int32)),
        "openmpt_module_set_render_param": (c_int, (c_void_p, c_int, c_int32)),
        "openmpt_module_read_interleaved_float_stereo": (
            ctypes.c_size_t,
            (c_void_p, c_int32, ctypes.c_size_t, POINTER(c_float)),
        ),
        "openmpt_module_get_duration_seconds": (c_double, (c_void_p,)),
        "openmpt_module_get_pattern_row_channel_command": (
            ctypes.c_uint8,
            (c_void_p, c_int32, c_int32, c_int32, c_int),
        ),
    }
    for count in ("instruments", "samples", "channels", "orders"):
        signatures[f"openmpt_module_get_num_{count}"] = (c_int32, (c_void_p,))
    for lookup in ("order_pattern", "pattern_num_rows"):
        signatures[f"openmpt_module_get_{lookup}"] = (c_int32, (c_void_p, c_int32))
    for text in ("instrument_name", "sample_name"):
        signatures[f"openmpt_module_get_{text}"] = (c_void_p, (c_void_p, c_int32))
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, list(arguments)
    return lib


def version() -> str:
    """Version of libopenmpt, such as "0.6.9"."""
    number = library().openmpt_get_library_version()
    return f"{number >> 24}.{number >> 16 & 255}.{number & 65535}"


@dataclass(frozen=True)
class Module:
    """A tracker module; its methods raise AudioError if libopenmpt cannot read it."""

    name: str
    """Name for messages."""
    data: bytes

    @cached_property
    def instruments(self) -> tuple[str, ...]:
        """Names of the instruments; of the samples if the format has no instruments."""
        with self._opened() as (_, module, _):
            lib, kind = library(), self._kind
            get = getattr(lib, f"openmpt_module_get_{kind}_name")
            n_names = getattr(lib, f"openmpt_module_get_num_{kind}s")(module)
            return tuple(_text(get(module, index)) for index in range(n_names))

    @cached_property
    def duration_s(self) -> float:
        """Duration at its own tempo, seconds, without repetition."""
        with self._opened() as (_, module, _):
            return float(library().openmpt_module_get_duration_seconds(module))

    @cached_property
    def n_channels(self) -> int:
        """Number of channels of the patterns."""
        with self._opened() as (_, module, _):
            return int(library().openmpt_module_get_num_channels(module))

    def notes(self) -> list[list[int]]:
        """Pitches of each instrument's notes (1 to 120, semitones) in playing order."""
        found: list[list[int]] = [[] for _ in self.instruments]
        lib = library()
        with self._opened() as (_, module, _):
            current = [0] * lib.openmpt_module_get_num_channels(module)
            for order in range(lib.openmpt_module_get_num_orders(module)):
                pattern = lib.openmpt_module_get_order_pattern(module, order)
                n_rows = lib.openmpt_module_get_pattern_num_rows(module, pattern)
                if not 0 < n_rows <= _MAX_ROWS:
                    continue
                command = lib.openmpt_module_get_pattern_row_channel_command
                for row in range(n_rows):
                    for channel in range(len(current)):
                        where = (module, pattern, row, channel)
                        current[channel] = command(*where, _INSTRUMENT) or current[channel]
                        note = command(*where, _NOTE)
                        if 1 <= note <= 120 and 1 <= current[channel] <= len(found):
                            found[current[channel] - 1].append(note)
        return found

    def play(
        self,
        instruments: Iterable[int] | None = None,
        *,
        sample_rate: int = 44100,
        max_duration_s: float = 600.0,
        style: Style = PLAIN,
    ) -> NDArray[np.float32]:
        """Play these instruments (None: all) once; returns [2, T], which may exceed full scale.

        Every call opens the module again: state of an earlier call (random numbers, envelopes)
        would make stems that do not sum to the mixture.
        """
        audible = range(len(self.instruments)) if instruments is None else set(instruments)
        n_left = round(max_duration_s * sample_rate)
        blocks = [np.zeros((0, 2), np.float32)]
        with self._opened() as (extended, module, interactive):
            lib = library()
            lib.openmpt_module_set_repeat_count(module, 0)
            lib.openmpt_module_set_render_param(
                module, _STEREO_SEPARATION, style.separation_percent
            )
            lib.openmpt_module_set_render_param(module, _INTERPOLATION, style.interpolation)
            interactive.set_tempo_factor(extended, style.tempo)
            interactive.set_pitch_factor(extended, style.pitch)
            for index in range(len(self.instruments)):
                interactive.set_instrument_mute_status(extended, index, int(index not in audible))
            buffer = np.empty((_BLOCK_SAMPLES, 2), np.float32)
            pointer = buffer.ctypes.data_as(POINTER(c_float))
            read = lib.openmpt_module_read_interleaved_float_stereo
            while n_left and (
                n_read := read(module, sample_rate, min(_BLOCK_SAMPLES, n_left), pointer)
            ):
                blocks.append(buffer[:n_read].copy())
                n_left -= n_read
        return np.ascontiguousarray(np.concatenate(blocks).T)

    @cached_property
    def _kind(self) -> str:
        with self._opened() as (_, module, _):
            has_any = library().openmpt_module_get_num_instruments(module)
            return "instrument" if has_any else "sample"

    @contextmanager
    def _opened(self) -> Iterator[tuple[int, int, Any]]:
        """(extended module, module, its interactive functions), newly opened."""
        lib, interactive = library(), _Interactive()
        extended = lib.openmpt_module_ext_create_from_memory(self.data, len(self.data), *[None] * 7)
        if not extended:
            raise AudioError(
                f"{self.name} is not a tracker module that libopenmpt reads; leave it out"
            )
        try:
            pointer, size = ctypes.byref(interactive), ctypes.sizeof(interactive)
            if not lib.openmpt_module_ext_get_interface(extended, b"interactive", pointer, size):
                raise AudioError("this libopenmpt cannot mute instruments; install a newer one")
            yield extended, lib.openmpt_module_ext_get_module(extended), interactive
        finally:
            lib.openmpt_module_ext_destroy(extended)


def _text(pointer: int) -> str:
    """The text of a string of libopenmpt, which is freed."""
    value = ctypes.cast(pointer, c_char_p).value or b""
    library().openmpt_free_string(pointer)
    return value.decode("utf-8", "replace").strip()

"""Constructor options of the demucs package's networks, with the ranges allowed in a file."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from mssgen.checkpoints.formats import Checkpoint
from mssgen.errors import CheckpointError
from mssgen.recipes.schema import Channels, SampleRate, Scale, Share, Width, checked_options
from mssgen.separators.htdemucs.state import (
    Depth,
    HTDemucsConfig,
    SegmentSeconds,
    StemNames,
    check_unet,
)

Count = Annotated[int, Field(ge=0, le=64)]
Positive = Annotated[int, Field(ge=1, le=64)]
Size = Annotated[int, Field(ge=1, le=2**20)]
Iterations = Annotated[int, Field(ge=-1, le=8)]
Bands = Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=8)]
Rate = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class HTDemucsOptions(HTDemucsConfig):
    """Options of `demucs.htdemucs.HTDemucs`, including those that only affect training."""

    channels_time: Width | None = None
    wiener_iters: Iterations = 0
    end_iters: Iterations = 0
    wiener_residual: bool = False
    cac: bool = True
    rewrite: bool = True
    multi_freqs: Bands | None = None
    multi_freqs_depth: Count = 3
    emb_smooth: bool = True
    time_stride: Positive = 2
    context: Annotated[int, Field(ge=0, le=8)] = 1
    context_enc: Annotated[int, Field(ge=0, le=8)] = 0
    norm_starts: Count = 4
    norm_groups: Positive = 4
    dconv_init: Scale = 1e-3
    t_emb: Literal["sin", "scaled", "cape"] = "sin"
    t_dropout: Rate = 0.0
    t_max_positions: Size = 10000
    t_norm_in: bool = True
    t_norm_in_group: bool | Count = False
    t_group_norm: bool | Count = False
    t_norm_first: bool = True
    t_norm_out: bool = True
    t_weight_decay: Scale = 0.0
    t_lr: Scale | None = None
    t_layer_scale: bool = True
    t_gelu: bool = True
    t_sin_random_shift: Count = 0
    t_cape_mean_normalize: bool = True
    t_cape_augment: bool = True
    t_cape_glob_loc_scale: Annotated[list[Scale], Field(min_length=3, max_length=3)] | None = None
    t_sparse_self_attn: Literal[False] = False
    t_sparse_cross_attn: Literal[False] = False
    t_mask_type: Annotated[str, Field(max_length=80)] = "diag"
    t_mask_random_seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    t_sparse_attn_window: Size = 500
    t_global_window: Size = 100
    t_sparsity: Share = 0.95
    t_auto_sparsity: bool = False
    t_cross_first: bool = False
    rescale: Scale | None = 0.1
    use_train_segment: bool = True
    # Leftovers in packages of trainings that began as an HDemucs; not arguments of the constructor.
    hybrid: Literal[True] = True
    hybrid_old: Literal[False] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_iterations(self)


@dataclass(frozen=True)
class HDemucsOptions:
    """Options of `demucs.hdemucs.HDemucs`; contradictions raise CheckpointError."""

    sources: StemNames
    samplerate: SampleRate = 44100
    segment: SegmentSeconds = 40
    audio_channels: Channels = 2
    channels: Width = 48
    channels_time: Width | None = None
    growth: Annotated[int, Field(ge=1, le=8)] = 2
    depth: Depth = 6
    nfft: Annotated[int, Field(ge=16, le=2**16)] = 4096
    wiener_iters: Iterations = 0
    end_iters: Iterations = 0
    wiener_residual: bool = False
    cac: bool = True
    rewrite: bool = True
    hybrid: bool = True
    hybrid_old: bool = False
    multi_freqs: Bands | None = None
    multi_freqs_depth: Count = 2
    freq_emb: Scale | None = 0.2
    emb_scale: Annotated[float, Field(ge=1e-6, le=1e6)] = 10
    emb_smooth: bool = True
    kernel_size: Annotated[int, Field(ge=1, le=64)] = 8
    time_stride: Positive = 2
    stride: Annotated[int, Field(ge=2, le=32)] = 4
    context: Annotated[int, Field(ge=0, le=8)] = 1
    context_enc: Annotated[int, Field(ge=0, le=8)] = 0
    norm_starts: Count = 4
    norm_groups: Positive = 4
    dconv_mode: Annotated[int, Field(ge=0, le=3)] = 1
    dconv_depth: Annotated[int, Field(ge=0, le=16)] = 2
    dconv_comp: Width = 4
    dconv_attn: Count = 4
    dconv_lstm: Count = 4
    dconv_init: Scale = 1e-4
    rescale: Scale | None = 0.1

    def __post_init__(self) -> None:
        check_unet(self)
        _check_iterations(self)


def _check_iterations(options: HTDemucsOptions | HDemucsOptions) -> None:
    if options.wiener_iters != options.end_iters:
        raise CheckpointError(
            f"the wiener_iters {options.wiener_iters} and end_iters {options.end_iters} must be "
            "equal: get the file again"
        )


DemucsOptions = HTDemucsOptions | HDemucsOptions
_LEFT_OVER = ("hybrid", "hybrid_old")
_KINDS: dict[str, type[Any]] = {"htdemucs": HTDemucsOptions, "hdemucs": HDemucsOptions}


def demucs_options(checkpoint: Checkpoint) -> tuple[DemucsOptions, dict[str, Any]]:
    """(all options including defaults, keyword arguments of the constructor) of a checkpoint.

    Raises CheckpointError for an option that is unknown, of the wrong type, out of range or
    contradicts another.
    """
    kind = _KINDS[checkpoint.architecture]
    given = checked_options(kind, checkpoint.options, "the checkpoint")
    options: DemucsOptions = kind(**given)
    if kind is HTDemucsOptions:
        given = {key: value for key, value in given.items() if key not in _LEFT_OVER}
    return options, given

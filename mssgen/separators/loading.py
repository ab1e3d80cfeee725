"""From the files of a model to its separator: which network each architecture is built from."""

from collections.abc import Iterator
from dataclasses import fields, replace

import torch

from mssgen.checkpoints.formats import Checkpoint, read_checkpoint
from mssgen.checkpoints.resolving import ResolvedModel
from mssgen.checkpoints.warned import check_origin
from mssgen.devices import DTYPES, choose_precision
from mssgen.errors import CheckpointError, UsageError
from mssgen.recipes.schema import checked_options
from mssgen.separators.base import Network, Separator
from mssgen.separators.demucs import DemucsSeparator, Member, SeparationOptions
from mssgen.separators.foreign import join
from mssgen.separators.htdemucs.network import HTDemucs
from mssgen.separators.htdemucs.state import HTDemucsConfig, check_unet
from mssgen.separators.mdx23c.network import MDX23C
from mssgen.separators.openunmix.network import OpenUnmix
from mssgen.separators.original import OriginalNetwork
from mssgen.separators.original_options import DemucsOptions, HTDemucsOptions, demucs_options
from mssgen.separators.roformer.network import BSRoFormer, MelRoFormer
from mssgen.separators.scnet.network import SCNet
from mssgen.separators.spleeter.network import Spleeter, SpleeterConfig
from mssgen.separators.spleeter.network import build_network as build_spleeter
from mssgen.separators.spleeter.separator import SpleeterSeparator
from mssgen.separators.state_dicts import StateDictNetwork, Trunk

# A new family is a row here and one in `checkpoints.families`; Spleeter has a separator of its own.
TRUNKS: dict[str, type[Trunk]] = {
    "bs_roformer": BSRoFormer,
    "mdx23c": MDX23C,
    "mel_roformer": MelRoFormer,
    "openunmix": OpenUnmix,
    "scnet": SCNet,
}

# Options that `htdemucs.network` assumes; with any other value the demucs package runs the network.
_ASSUMED = {
    "cac": True,
    "rewrite": True,
    "hybrid_old": False,
    "multi_freqs": None,  # or []
    "channels_time": None,
    "context": 1,
    "context_enc": 0,
    "kernel_size": 8,
    "stride": 4,
    "t_emb": "sin",
    "t_norm_in": True,
    "t_norm_in_group": False,
    "t_group_norm": False,
    "t_norm_first": True,
    "t_norm_out": True,
    "t_layer_scale": True,
    "t_gelu": True,
    "t_cross_first": False,
    "t_sin_random_shift": 0,
    "t_sparse_self_attn": False,
    "t_sparse_cross_attn": False,
    "use_train_segment": True,
}


def build_separator(
    model: ResolvedModel,
    device: torch.device,
    precision: str = "auto",
    options: SeparationOptions | None = None,
    accept_unlicensed: bool = False,
) -> Separator:
    """Read the checkpoints of a resolved model and build its separator.

    With precision "auto", networks whose quality was not measured in lower precision run in fp32,
    such as those of the demucs package. Raises CheckpointError if a file is damaged or does not
    fit, UsageError for the precision, for a missing demucs package, and for a file that needs
    `accept_unlicensed` (see `checkpoints.warned`).
    """
    chosen, options = choose_precision(precision, device), options or SeparationOptions()
    for path in model.paths:
        check_origin(path, accept_unlicensed=accept_unlicensed)
    members = []
    for checkpoint, stems in _checkpoints(model):
        path, checkpoint = checkpoint.path, _with_chosen(checkpoint, options)
        try:
            if checkpoint.architecture == "spleeter":
                chosen = "fp32" if precision == "auto" else chosen
                return _build_spleeter(checkpoint, model.name, device, chosen, options)
            if precision == "auto" and not _is_measured(checkpoint):
                chosen = "fp32"
            network = build_network(
                checkpoint, device=device, dtype=DTYPES[chosen], segment_s=model.segment_s
            )
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        members.append(Member(network, network.sources if stems is None else stems))
    return DemucsSeparator(
        members, name=model.name, device=str(device), precision=chosen, options=options
    )


def _checkpoints(model: ResolvedModel) -> Iterator[tuple[Checkpoint, tuple[str, ...] | None]]:
    """Yield each network's checkpoint, and the stems to take from it (None: all)."""
    if model.bundle is not None and model.bundle.is_joint and len(model.paths) > 1:
        yield join(model.paths), None
        return
    for path, stems in zip(model.paths, model.stems_of, strict=True):
        yield read_checkpoint(path), stems


def _with_chosen(checkpoint: Checkpoint, options: SeparationOptions) -> Checkpoint:
    """The checkpoint with the options of masks that the user chose instead of its own.

    Raises UsageError for an option that the network has not.
    """
    known: set[str] = set()
    if checkpoint.architecture == "spleeter":
        known = {field.name for field in fields(SpleeterConfig)}
    elif (trunk := TRUNKS.get(checkpoint.architecture)) is not None:
        known = {field.name for field in fields(trunk.Options)}
    if unknown := sorted(set(options.of_masks) - known):
        raise UsageError(f"{checkpoint.architecture} has no `{unknown[0]}`: leave it out")
    return replace(checkpoint, options={**checkpoint.options, **options.of_masks})


def _build_spleeter(
    checkpoint: Checkpoint,
    name: str,
    device: torch.device,
    precision: str,
    options: SeparationOptions,
) -> SpleeterSeparator:
    if options.shifts:
        raise UsageError("Spleeter's blocks are not shifted: leave out `shifts`")
    return SpleeterSeparator(
        _spleeter_network(checkpoint),
        name=name,
        device=device,
        precision=precision,
        dtype=DTYPES[precision],
        batch_size=options.batch_size,
    )


def _spleeter_network(checkpoint: Checkpoint) -> Spleeter:
    checked = checked_options(SpleeterConfig, checkpoint.options, "the checkpoint")
    return build_spleeter(SpleeterConfig(**checked), checkpoint.state)


def check_fits(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError, which names the file, unless its network can be built."""
    try:
        if checkpoint.architecture == "spleeter":
            _spleeter_network(checkpoint)
        else:
            build_network(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None


def build_network(
    checkpoint: Checkpoint,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    segment_s: float | None = None,
) -> Network:
    """Build the network of a checkpoint.

    A Demucs is mssgen's HTDemucs if that supports the checkpoint's options, else the demucs
    package's. Raises CheckpointError if the options or tensors do not fit.
    """
    if (trunk := TRUNKS.get(checkpoint.architecture)) is not None:
        return StateDictNetwork(
            trunk, checkpoint.options, checkpoint.state, device=device, dtype=dtype
        )
    options, given = demucs_options(checkpoint)
    if _is_covered(options):
        known = {field.name for field in fields(HTDemucsConfig)}
        given = {name: value for name, value in given.items() if name in known}
        config = HTDemucsConfig(**given)
        return HTDemucs(config, checkpoint.state, device=device, dtype=dtype)
    if segment_s is not None:
        check_unet(replace(options, segment=segment_s))
    return OriginalNetwork(
        checkpoint.architecture,
        given,
        checkpoint.state,
        device=device,
        dtype=dtype,
        segment_s=segment_s,
    )


def _is_measured(checkpoint: Checkpoint) -> bool:
    """Whether the quality of a checkpoint's network in lower precision is known."""
    if (trunk := TRUNKS.get(checkpoint.architecture)) is not None:
        return trunk.takes_bf16
    return _is_covered(demucs_options(checkpoint)[0])


def _is_covered(options: DemucsOptions) -> bool:
    """Whether mssgen's HTDemucs can run a checkpoint with these options."""
    if not isinstance(options, HTDemucsOptions):
        return False
    is_as_assumed = all(
        (getattr(options, name) or None) == (value or None) for name, value in _ASSUMED.items()
    )
    depth, n_bins = options.depth, options.nfft // 2
    # Its U-Net layers have no norms outside the residual branches, and never reach a single bin.
    is_shallow = depth <= options.norm_starts and n_bins // 4 ** (depth - 1) > 8
    has_all_parts = bool(options.freq_emb) and bool(options.t_layers)
    return is_as_assumed and is_shallow and has_all_parts

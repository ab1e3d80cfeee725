"""From the files of a model to its separator: which network each architecture is built from."""

from dataclasses import fields, replace

import torch

from mssgen.checkpoints.formats import Checkpoint, read_checkpoint
from mssgen.checkpoints.resolving import ResolvedModel
from mssgen.checkpoints.warned import check_origin
from mssgen.devices import DTYPES, choose_precision
from mssgen.errors import CheckpointError
from mssgen.separators.base import Network
from mssgen.separators.demucs import DemucsSeparator, Member, SeparationOptions
from mssgen.separators.htdemucs.network import HTDemucs
from mssgen.separators.htdemucs.state import HTDemucsConfig, check_unet
from mssgen.separators.mdx23c.network import MDX23C
from mssgen.separators.original import OriginalNetwork
from mssgen.separators.original_options import DemucsOptions, HTDemucsOptions, demucs_options
from mssgen.separators.roformer.network import BSRoFormer, MelRoFormer
from mssgen.separators.scnet.network import SCNet
from mssgen.separators.state_dicts import StateDictNetwork, Trunk

# A new family is a row here and one in `checkpoints.families`.
TRUNKS: dict[str, type[Trunk]] = {
    "bs_roformer": BSRoFormer,
    "mdx23c": MDX23C,
    "mel_roformer": MelRoFormer,
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
) -> DemucsSeparator:
    """Read the checkpoints of a resolved model and build its separator.

    With precision "auto", networks whose quality was not measured in lower precision run in fp32,
    such as those of the demucs package. Raises CheckpointError if a file is damaged or does not
    fit, UsageError for the precision, for a missing demucs package, and for a file that needs
    `accept_unlicensed` (see `checkpoints.warned`).
    """
    chosen = choose_precision(precision, device)
    members = []
    for path, stems in zip(model.paths, model.stems_of, strict=True):
        check_origin(path, accept_unlicensed=accept_unlicensed)
        checkpoint = read_checkpoint(path)
        try:
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

"""Naming layouts of codec checkpoints, and options inferred from shapes, for state dicts.

Files on the hub often follow the transformers library, which renamed the layers of EnCodec and DAC,
and none holds options for our constructors. Shapes determine all but a few of them, above all the
sample rate.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def to_native(state: State) -> dict[str, Tensor]:
    """Rename the tensors of `state` as in the encodec or descript-audio-codec package.

    Accepts the layouts of those packages and of transformers, with weight norm as a parametrization
    or folded into the weights.
    """
    state = {_old_weight_norm(key): value for key, value in state.items()}
    if any(key.startswith("quantizer.layers.") for key in state):
        upsampling = _upsampling_layers(state)
        return {_encodec_name(key, upsampling): value for key, value in state.items()}
    if any(key.startswith("encoder.conv1.") for key in state):
        depths = {part: 1 + _n_blocks(state, f"{part}.block.") for part in ("encoder", "decoder")}
        state = {_dac_name(key, depths): value for key, value in state.items()}
    if any(key.startswith("quantizer.quantizers.") for key in state):
        return _with_weight_norm(state)
    return state


def infer_options(state: State) -> tuple[str, dict[str, Any]]:
    """(architecture, constructor options) that the shapes of a native state determine.

    All options but name and sample rate and, for "seanet", causality, dilations, normalisation and
    segments.

    Raises:
        ValueError: it is not a plain EnCodec or DAC.
    """
    try:
        if "quantizer.vq.layers.0._codebook.embed" in state:
            return "seanet", _seanet_options(state)
        if "quantizer.quantizers.0.codebook.weight" in state:
            return "dac", _dac_options(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"the layer {error} is missing") from None
    raise ValueError("it has neither EnCodec's nor DAC's codebooks")


# Names of tensors


def _old_weight_norm(key: str) -> str:
    """Name in torch's old weight norm; parametrizations call g and v original0 and original1."""
    key = key.replace(".parametrizations.weight.original0", ".weight_g")
    return key.replace(".parametrizations.weight.original1", ".weight_v")


def _upsampling_layers(state: State) -> set[str]:
    """Indices of transposed convolutions in transformers' decoder, which calls all of them conv.

    All but the first and the last convolution are transposed.
    """
    names = [re.fullmatch(r"decoder\.layers\.(\d+)\.conv\.bias", key) for key in state]
    numbers = sorted((match[1] for match in names if match), key=int)
    return set(numbers[1:-1])


def _encodec_name(key: str, upsampling: set[str]) -> str:
    """Name in the encodec package of a tensor of transformers' EnCodec.

    `upsampling`: indices of the decoder's transposed convolutions.
    """
    key = re.sub(
        r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", key
    )
    key = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", key)
    match = re.fullmatch(r"((?:encoder|decoder)\.model\.(\d+).*)\.(conv|norm)\.(\w+)", key)
    if match is None:
        return key
    start, number, layer, kind = match.groups()
    if start == f"decoder.model.{number}" and number in upsampling:
        return f"{start}.convtr.{'convtr' if layer == 'conv' else 'norm'}.{kind}"
    return f"{start}.conv.{layer}.{kind}"


def _dac_name(key: str, depths: Mapping[str, int]) -> str:
    """Name in the descript-audio-codec package of a tensor of transformers' DAC.

    `depths`: for "encoder" and "decoder", the index of the layer after the last block.
    """
    part, _, rest = key.partition(".")
    if part not in depths:
        return key
    stem = "encoder.block" if part == "encoder" else "decoder.model"
    outer = {"conv1": 0, "snake1": depths[part], "conv2": depths[part] + 1}
    if match := re.fullmatch(r"(conv1|snake1|conv2)\.(\w+)", rest):
        return f"{stem}.{outer[match[1]]}.{match[2]}"
    if match := re.fullmatch(
        r"block\.(\d+)\.res_unit(\d)\.(snake1|conv1|snake2|conv2)\.(\w+)", rest
    ):
        # Residual units come before the stride in the encoder, after it in the decoder.
        unit = int(match[2]) + (-1 if part == "encoder" else 1)
        layer = ("snake1", "conv1", "snake2", "conv2").index(match[3])
        return f"{stem}.{int(match[1]) + 1}.block.{unit}.block.{layer}.{match[4]}"
    if match := re.fullmatch(r"block\.(\d+)\.(snake1|conv1|conv_t1)\.(\w+)", rest):
        first = 3 if part == "encoder" else 0
        layer = first + (match[2] != "snake1")
        return f"{stem}.{int(match[1]) + 1}.block.{layer}.{match[3]}"
    return key


def _with_weight_norm(state: State) -> dict[str, Tensor]:
    """Replace plain convolution weights W by v = W and g = ||W||, the norm over axes 1 and 2.

    As in torch.nn.utils.weight_norm, axis 0 is that of output channels, or of input channels for a
    transposed convolution.
    """
    native: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(".weight") and value.ndim == 3:
            native[f"{key}_g"] = torch.linalg.vector_norm(value.float(), dim=(1, 2), keepdim=True)
            native[f"{key}_v"] = value
        else:
            native[key] = value
    return native


# Options from shapes


def _seanet_options(state: State) -> dict[str, Any]:
    """Options of `SeanetCodec`; a strided convolution's kernel is twice its stride."""
    convolutions = list(_weights(state, r"encoder\.model\.(\d+)\.conv\.conv\.weight(?:_v)?"))
    first, strided, last = convolutions[0], convolutions[1:-1], convolutions[-1]
    n_units = _n_matches(state, r"encoder\.model\.(\d+)\.block\.1\.conv\.conv\.bias")
    n_codebooks = _n_blocks(state, "quantizer.vq.layers.")
    norm = "weight_norm" if any(key.endswith("weight_v") for key in state) else "none"
    if "encoder.model.0.conv.norm.weight" in state:
        norm = "time_group_norm"
    return {
        "n_channels": first.shape[1],
        "n_filters": first.shape[0],
        "ratios": [weight.shape[2] // 2 for weight in reversed(strided)],
        "latent_dim": last.shape[0],
        "n_residual_layers": n_units // len(strided),
        "n_lstm_layers": _n_matches(state, r"encoder\.model\.\d+\.lstm\.weight_ih_l(\d+)"),
        "norm": norm,
        "n_codebooks": n_codebooks,
        "codebook_size": state["quantizer.vq.layers.0._codebook.embed"].shape[0],
    }


def _dac_options(state: State) -> dict[str, Any]:
    """Options of `DacCodec`; a strided convolution's kernel is twice its stride."""
    outer = list(_weights(state, r"encoder\.block\.(\d+)\.weight_v"))
    down = list(_weights(state, r"encoder\.block\.(\d+)\.block\.4\.weight_v"))
    up = list(_weights(state, r"decoder\.model\.(\d+)\.block\.1\.weight_v"))
    n_codebooks = _n_blocks(state, "quantizer.quantizers.")
    books = [state[f"quantizer.quantizers.{k}.codebook.weight"] for k in range(n_codebooks)]
    widths = [book.shape[1] for book in books]
    return {
        "encoder_dim": outer[0].shape[0],
        "encoder_rates": [weight.shape[2] // 2 for weight in down],
        "latent_dim": outer[-1].shape[0],
        "decoder_dim": state["decoder.model.0.weight_v"].shape[0],
        "decoder_rates": [weight.shape[2] // 2 for weight in up],
        "decoder_kind": "mrf" if any(".mrf_blocks." in key for key in state) else "dac",
        "n_codebooks": n_codebooks,
        "codebook_size": books[0].shape[0],
        "codebook_dim": widths[0] if len(set(widths)) == 1 else widths,
    }


def _weights(state: State, pattern: str) -> Iterator[Tensor]:
    """Tensors whose names match, ordered by the number in the name.

    Raises:
        KeyError: one does not have three axes.
    """
    found = [(int(match[1]), key) for key in state if (match := re.fullmatch(pattern, key))]
    for _, key in sorted(found):
        if state[key].ndim != 3:
            raise KeyError(key)
        yield state[key]


def _n_matches(state: State, pattern: str) -> int:
    """Number of tensors whose names match `pattern`."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def _n_blocks(state: State, prefix: str) -> int:
    """Number of different indices that follow `prefix` in the names."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

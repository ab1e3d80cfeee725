"""The layers of Hybrid Transformer Demucs, built from a state dict, for inference only.

Activations: spectrogram branch [B, F, N, C] (bins, frames), waveform branch [B, T, C]. Weights have
the network's precision; statistics are computed in fp32. `network.py` explains the layout.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mssgen.separators.htdemucs.attention import attention

EPS = 1e-5  # in every norm of the network (torch's default)
_PIECE = 256  # a product over more terms is split among threads, which changes its rounding


class Weights:
    """A view of a state dict below one prefix, on `device`; layers compute in `dtype`."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        prefix: str = "",
    ) -> None:
        self.state, self.device, self.dtype, self.prefix = state, device, dtype, prefix

    def under(self, name: str) -> "Weights":
        """The view below the prefix extended by `name`."""
        return Weights(self.state, self.device, self.dtype, f"{self.prefix}{name}.")

    def in_fp32(self) -> "Weights":
        """The same view for layers that compute in fp32."""
        return Weights(self.state, self.device, torch.float32, self.prefix)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.state

    def __getitem__(self, name: str) -> Tensor:
        """The tensor `name` in fp32 on the device."""
        return self.state[self.prefix + name].to(self.device, torch.float32)


class Linear:
    """A linear layer or 1x1 convolution on the last axis; the output scale [C'] is folded in."""

    def __init__(self, w: Weights, scale: Tensor | None = None, name: str = "") -> None:
        weight, bias = w[f"{name}weight"].flatten(1), w[f"{name}bias"]
        if scale is not None:
            weight, bias = weight * scale[:, None], bias * scale
        self.weight, self.bias = weight.to(w.dtype), bias.to(w.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Norm:
    """Layer norm over the last axis, with fp32 computation and output."""

    def __init__(self, w: Weights) -> None:
        self.weight, self.bias = w["weight"], w["bias"]

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class Gated:
    """A linear layer with 2C outputs, followed by a gated linear unit.

    The halves are computed separately, so that each is contiguous: torch's `glu` on interleaved
    halves took four times as long as sigmoid and product.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.linear, self.gate = weight.chunk(2)
        self.linear_bias, self.gate_bias = bias.chunk(2)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        gate = F.linear(x, self.gate, self.gate_bias).sigmoid_()
        return torch.mul(F.linear(x, self.linear, self.linear_bias), gate, out=out)


def _global_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Group norm with one group of [R, N, C] fp32: statistics per R over N and C, affine per C."""
    shape = x.shape[1:]
    if len(x) > 1:
        return F.layer_norm(x, shape, weight.expand(shape), bias.expand(shape), EPS)
    # Torch norms one row on one core, and sums to one number in an order that depends on the number
    # of threads, which bf16 makes audible: sum each channel first (variance = E[x²] - E[x]²).
    mean = x.mean(1).mean()
    gain = (x.square().mean(1).mean() - mean.square() + EPS).rsqrt() * weight
    return torch.addcmul(bias - mean * gain, x, gain)


def _moments(x: Tensor) -> Tensor:
    """Second moments [R, C, C] over the N rows of [R, N, C] fp32, on any number of threads."""
    if len(x) > 1:
        return torch.bmm(x.mT, x) / x.shape[1]
    pieces = F.pad(x, (0, 0, 0, -x.shape[1] % _PIECE)).unflatten(1, (-1, _PIECE))[0]
    return torch.bmm(pieces.mT, pieces).sum(0, keepdim=True) / x.shape[1]


class Branch:
    """One residual branch of a layer: squeeze (dilated, 3 frames), gelu, expand, gate."""

    def __init__(self, w: Weights, dilation: int) -> None:
        self.dilation = dilation
        self.squeeze_weight = _channels_last(w["0.weight"][:, :, None], w.dtype)  # [H, C, 1, 3]
        self.squeeze_bias = w["0.bias"].to(w.dtype)
        self.norm_weight, self.norm_bias = w["1.weight"], w["1.bias"]
        self.weight, self.bias = w["3.weight"][..., 0], w["3.bias"]  # [2C, H], [2C]
        scale = w["6.scale"]
        gate_scale = torch.cat([scale, torch.ones_like(scale)])  # the gate itself is not scaled
        self.out_weight, self.out_bias = w["4.weight"] * gate_scale, w["4.bias"] * gate_scale
        # Means over the 2C outputs, for the statistics of y = W h + b in closed form.
        n_outputs = len(self.bias)
        self.mean_weight, self.mean_bias = self.weight.mean(0), self.bias.mean()
        self.gram = self.weight.T @ self.weight / n_outputs  # [H, H]
        self.cross = self.weight.T @ self.bias / n_outputs  # [H]
        self.power_bias = self.bias.square().mean()

    def __call__(self, x: Tensor) -> Tensor:
        """[R, N, C] -> [R, N, C]; each of the R rows is normalised separately."""
        hidden = F.conv2d(
            x.permute(2, 0, 1)[None],
            self.squeeze_weight,
            self.squeeze_bias,
            padding=(0, self.dilation),
            dilation=(1, self.dilation),
        )[0].permute(1, 2, 0)  # [R, N, H]
        hidden = F.gelu(_global_norm(hidden.float(), self.norm_weight, self.norm_bias))
        mean_h = hidden.mean(1)  # [R, H]
        moments = _moments(hidden)  # [R, H, H]
        mean = mean_h @ self.mean_weight + self.mean_bias  # [R]
        power = (moments * self.gram).sum((1, 2)) + 2 * (mean_h @ self.cross) + self.power_bias
        gain = (power - mean.square()).clamp_min(0).add(EPS).rsqrt()[:, None] * self.out_weight
        offset = ((self.bias - mean[:, None]) * gain + self.out_bias).to(x.dtype)[:, None]
        folded = (self.weight * gain[..., None]).to(x.dtype).mT  # [R, H, 2C]
        hidden = hidden.to(x.dtype)
        half = x.shape[-1]
        gate = torch.baddbmm(offset[..., half:], hidden, folded[..., half:]).sigmoid_()
        return torch.addcmul(x, torch.baddbmm(offset[..., :half], hidden, folded[..., :half]), gate)


class Residual:
    """The residual branches of one layer in sequence (absent in some decoders)."""

    def __init__(self, w: Weights, depth: int) -> None:
        present = "layers.0.0.weight" in w
        self.branches = [
            Branch(w.under(f"layers.{index}"), 2**index) for index in range(depth) if present
        ]

    def __call__(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = branch(x)
        return x


def _channels_last(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype).contiguous(memory_format=torch.channels_last)


def _conv(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, pad: int = 0) -> Tensor:
    """Convolve [B, F, N, C] over F and N; `stride` is along F, `pad` zero-pads the frames N."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=(stride, 1), padding=(0, pad))
    return y.permute(0, 2, 3, 1)


def _rows(x: Tensor, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of [B, F, N, C]; rows outside are zero."""
    before, after = max(0, -start), max(0, stop - x.shape[1])
    inner = x[:, max(0, start) : stop]
    return F.pad(inner, (0, 0, 0, 0, before, after)) if before or after else inner


class Encoder:
    """One downsampling layer of either branch."""

    def __init__(self, w: Weights, depth: int) -> None:
        weight = w["conv.weight"]  # [C', C, k] or [C', C, k, 1]
        self.kernel_size, self.stride = weight.shape[2], weight.shape[2] // 2
        if weight.dim() == 4:
            self.conv = _channels_last(weight, w.dtype)
        else:  # two products, with `stride` samples and channels as one axis: [C', stride * C]
            self.halves = [h.mT.flatten(1).to(w.dtype) for h in weight.chunk(2, dim=2)]
        self.conv_bias = w["conv.bias"].to(w.dtype)
        self.residual = Residual(w.under("dconv"), depth)
        rewrite = Linear(w.under("rewrite"))
        self.rewrite = Gated(rewrite.weight, rewrite.bias)

    def spectrogram(self, x: Tensor, n_block: Callable[[Tensor], int]) -> Tensor:
        """[B, F, N, C] -> [B, F/4, N, C']."""
        n_rows, pad = x.shape[1] // self.stride, self.kernel_size // 4
        result = x.new_empty(x.shape[0], n_rows, x.shape[2], len(self.conv_bias))
        step = n_block(result)
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            first = start * self.stride - pad
            block = _rows(x, first, first + (stop - start - 1) * self.stride + self.kernel_size)
            y = F.gelu(_conv(block, self.conv, self.conv_bias, stride=self.stride))
            y = self.residual(y.flatten(0, 1)).view_as(y)
            self.rewrite(y, out=result[:, start:stop])
        return result

    def waveform(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, ceil(T/4), C']."""
        pad, n_missing = self.kernel_size // 4, -x.shape[1] % self.stride
        hops = F.pad(x, (0, 0, pad, pad + n_missing)).unflatten(1, (-1, self.stride)).flatten(2)
        first, second = self.halves
        y = F.linear(hops[:, :-1], first, self.conv_bias) + F.linear(hops[:, 1:], second)
        return self.rewrite(self.residual(F.gelu(y)))


class Decoder:
    """One upsampling layer of either branch.

    The last layer computes in fp32 after its gate, whatever the precision: in quiet stems the two
    branches cancel each other, and rounding raised the noise floor by up to 21 dB.
    """

    def __init__(self, w: Weights, depth: int, *, is_last: bool) -> None:
        self.is_last = is_last
        rewrite = w["rewrite.weight"]
        rewrite = _channels_last(rewrite.reshape(*rewrite.shape[:3], -1), w.dtype)
        self.rewrite = rewrite.chunk(2)  # halves of the gated linear unit, as in `Gated`
        self.rewrite_bias = w["rewrite.bias"].to(w.dtype).chunk(2)
        w = w.in_fp32() if is_last else w
        self.dtype = w.dtype
        self.residual = Residual(w.under("dconv"), depth)
        weight = w["conv_tr.weight"]  # [C, C', k] or [C, C', k, 1]
        self.kernel_size, self.stride = weight.shape[2], weight.shape[2] // 2
        self.conv_bias = w["conv_tr.bias"].to(w.dtype)
        if weight.dim() == 4:
            self.conv = _channels_last(weight, w.dtype)
        else:  # two products, as in the encoder: [stride * C', C]
            self.halves = [h.permute(2, 1, 0).flatten(0, 1).to(w.dtype) for h in weight.chunk(2, 2)]
            self.hop_bias = self.conv_bias.repeat(self.stride)

    def _gated(self, x: Tensor, pad: int) -> Tensor:
        """Convolution of width 3 and gated linear unit: [B, F + 2, N, C] -> [B, F, N, C]."""
        linear, gate = (
            _conv(x, weight, bias, pad=pad)
            for weight, bias in zip(self.rewrite, self.rewrite_bias, strict=True)
        )
        return linear.mul_(gate.sigmoid_()).to(self.dtype)

    def spectrogram(
        self, x: Tensor, skip: Tensor, n_block: Callable[[Tensor], int], out: Tensor | None = None
    ) -> Tensor:
        """[B, F, N, C] -> [B, 4F, N, C'], written to `out` if given (complex: C'/2)."""
        batch, n_rows, n_frames, _ = x.shape
        stride, pad = self.stride, self.kernel_size // 4
        result = out
        if result is None:
            result = x.new_empty(batch, n_rows * stride, n_frames, len(self.conv_bias))
        step = n_block(x)
        carry: Tensor | None = None
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            block = _rows(x, start - 1, stop + 1) + _rows(skip, start - 1, stop + 1)
            y = self._gated(block, pad=1)
            y = self.residual(y.flatten(0, 1)).view_as(y)
            # An output row also depends on the input row before, which the last block may hold.
            is_end = stop == n_rows
            rows = y if carry is None else torch.cat([carry, y], dim=1)
            z = F.conv_transpose2d(
                rows.permute(0, 3, 1, 2), self.conv, self.conv_bias, stride=(stride, 1)
            ).permute(0, 2, 3, 1)
            if not self.is_last:
                z = F.gelu(z)
            if result.is_complex():
                z = torch.view_as_complex(z.unflatten(-1, (-1, 2)))
            skipped = pad if carry is None else stride
            first = start * stride - (0 if carry is None else pad)
            n_new = (n_rows * stride if is_end else stop * stride - pad) - first
            result[:, first : first + n_new] = z[:, skipped : skipped + n_new]
            carry = y[:, -1:]
        return result

    def waveform(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        """[B, T, C] -> [B, length, C']."""
        y = self._gated(F.pad(x + skip, (0, 0, 1, 1))[:, :, None], pad=0)[:, :, 0]
        y = self.residual(y)
        first, second = self.halves
        hops = F.pad(F.linear(y, first, self.hop_bias), (0, 0, 0, 1))  # [B, T + 1, stride * C']
        hops[:, 1:] += F.linear(y, second)
        hops[:, -1] += self.hop_bias
        z = hops.unflatten(2, (self.stride, -1)).flatten(1, 2)
        pad = self.kernel_size // 4
        z = z[:, pad : pad + length]
        return z if self.is_last else F.gelu(z)


class TransformerLayer:
    """Pre-norm transformer layer that attends to its own branch or to the other one."""

    def __init__(self, w: Weights, n_heads: int) -> None:
        self.n_heads, self.dtype = n_heads, w.dtype
        self.is_cross = "cross_attn.in_proj_weight" in w
        name = "cross_attn" if self.is_cross else "self_attn"
        in_weight = w[f"{name}.in_proj_weight"].to(w.dtype)
        self.in_weights = in_weight.chunk(3)
        self.in_biases = w[f"{name}.in_proj_bias"].to(w.dtype).chunk(3)
        self.out = Linear(w, w["gamma_1.scale"], f"{name}.out_proj.")
        self.norm_query = Norm(w.under("norm1"))
        self.norm_key = Norm(w.under("norm2")) if self.is_cross else self.norm_query
        self.norm_forward = Norm(w.under("norm3" if self.is_cross else "norm2"))
        self.widen = Linear(w.under("linear1"))
        self.narrow = Linear(w, w["gamma_2.scale"], "linear2.")
        self.norm_out = (w["norm_out.weight"], w["norm_out.bias"])

    def _heads(self, x: Tensor, index: int) -> Tensor:
        """Query (index 0), key (1) or value (2) by head: [B, N, D] -> [B, H, N, D/H]."""
        y = F.linear(x, self.in_weights[index], self.in_biases[index])
        return y.unflatten(-1, (self.n_heads, -1)).transpose(1, 2).contiguous()

    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """Own branch `x` [B, N, D] and `other` branch [B, M, D], both fp32 -> [B, N, D] fp32."""
        query = self.norm_query(x).to(self.dtype)
        key = self.norm_key(other).to(self.dtype) if self.is_cross else query
        y = attention(self._heads(query, 0), self._heads(key, 1), self._heads(key, 2))
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = F.gelu(self.widen(self.norm_forward(x).to(self.dtype)))
        return _global_norm(x + self.narrow(y), *self.norm_out)

"""FIT injects what the visible hand shows into the occluded cells; SET lets the result attend to itself.

B batch, C channels, H and W cells, N = H·W tokens (row by row), Q chosen query cells, M heads of d = C / M.
The correlation maps (N × N) exist only where they cannot be avoided: softmax attention runs on the fused
kernel, and the sigmoid branch is one number σ per query and head: (softmax(qk) ⊗ σ)·v = σ ⊙ (softmax(qk)·v).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import GatePool, ModelConfig
from model.handoccnet.blocks import ResidualBlock

SecondBranch = Literal["none", "softmax", "sigmoid"]
Residual = Literal["none", "query", "second_query", "input"]


class Correlation(NamedTuple):
    """How chosen query cells correlate with all key cells (B, M, Q, H, W); the paper's Figure 4."""

    raw: Tensor  # q·k
    softmax: Tensor  # C_soft, sums to 1 over the cells
    combined: Tensor  # C, what the values are weighted with


class SigmoidGate(nn.Module):
    """C_sig: σ(pool over the keys of q·kᵀ/√d), one number per query and head, in O(N).

    The pool moves inside the product, mean_k(q·k) = q·mean(k), and runs in float32 at least, because a sum
    over a thousand keys leaves little of half precision.
    """

    def __init__(self, pool: GatePool) -> None:
        super().__init__()
        self.pool = pool
        self.sigmoid = nn.Sigmoid()

    def forward(self, query_BMNd: Tensor, key_BMNd: Tensor) -> Tensor:
        """Return the gate (B, M, N, 1)."""
        exact = torch.promote_types(query_BMNd.dtype, torch.float32)
        key = key_BMNd.to(exact)
        pooled = key.sum(2, keepdim=True) if self.pool == "sum" else key.mean(2, keepdim=True)
        scale = query_BMNd.shape[-1] ** -0.5
        gate: Tensor = self.sigmoid((query_BMNd.to(exact) * pooled).sum(-1, keepdim=True) * scale)
        return gate.to(query_BMNd.dtype)


class AttentionBlock(nn.Module):
    """R = attention (+ residual), then R + MLP(LayerNorm(R)): the block of the paper's Algorithms 1 and 2.

    Queries, keys and values are 1×1 convolutions of the maps. A learned embedding, if any, is added to what
    queries and keys are made of, never to values. No norm stands before the attention, no projection after.
    """

    def __init__(self, config: ModelConfig, *, second: SecondBranch, residual: Residual) -> None:
        super().__init__()
        channels = config.channels
        self.heads = config.heads
        self.second = second
        self.residual = residual
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        if second != "none":
            self.second_query = nn.Conv2d(channels, channels, 1)
            self.second_key = nn.Conv2d(channels, channels, 1)
        if second == "sigmoid":
            self.gate = SigmoidGate(config.gate_pool)
        self.position_embedding = config.position_embedding
        if self.position_embedding:
            shape = (1, channels, config.feature_size, config.feature_size)
            self.query_embedding = nn.Parameter(torch.randn(shape))
            self.key_embedding = nn.Parameter(torch.randn(shape))
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.GELU() if config.mlp_activation == "gelu" else nn.Identity(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, query_BCHW: Tensor, key_BCHW: Tensor) -> Tensor:
        query_input, key_input = self._embed(query_BCHW, key_BCHW)
        residuals = {"input": query_BCHW, "query": self.query(query_input)}
        query_BMNd, key_BMNd = self._heads(residuals["query"]), self._heads(self.key(key_input))
        value_BMNd = self._heads(self.value(key_BCHW))
        if self.second == "none":
            attended_BMNd = _attend(query_BMNd, key_BMNd, value_BMNd)
        else:
            residuals["second_query"] = self.second_query(query_input)
            second_query_BMNd = self._heads(residuals["second_query"])
            second_key_BMNd = self._heads(self.second_key(key_input))
            if self.second == "sigmoid":
                attended_BMNd = _attend(query_BMNd, key_BMNd, value_BMNd)
                attended_BMNd = attended_BMNd * self.gate(second_query_BMNd, second_key_BMNd)
            else:
                soft = _softmax(query_BMNd, key_BMNd) * _softmax(second_query_BMNd, second_key_BMNd)
                attended_BMNd = soft @ value_BMNd

        tokens_BNC: Tensor = attended_BMNd.transpose(1, 2).flatten(2)
        if self.residual != "none":
            tokens_BNC = tokens_BNC + residuals[self.residual].flatten(2).transpose(1, 2)
        tokens_BNC = tokens_BNC + self.mlp(self.norm(tokens_BNC))
        return tokens_BNC.transpose(1, 2).reshape(query_BCHW.shape)

    def correlation(self, query_BCHW: Tensor, key_BCHW: Tensor, cells_Q: Tensor) -> Correlation:
        """Return the maps of the query cells numbered row by row (int64)."""
        query_input, key_input = self._embed(query_BCHW, key_BCHW)
        query_BMQd = self._heads(self.query(query_input))[:, :, cells_Q]
        key_BMNd = self._heads(self.key(key_input))
        combined = soft = _softmax(query_BMQd, key_BMNd)
        if self.second != "none":
            second_query_BMQd = self._heads(self.second_query(query_input))[:, :, cells_Q]
            second_key_BMNd = self._heads(self.second_key(key_input))
            second = self.gate if self.second == "sigmoid" else _softmax
            combined = soft * second(second_query_BMQd, second_key_BMNd)
        shape = (*soft.shape[:3], *key_BCHW.shape[-2:])
        raw = query_BMQd @ key_BMNd.transpose(2, 3)
        return Correlation(raw.view(shape), soft.view(shape), combined.view(shape))

    def _embed(self, query_BCHW: Tensor, key_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        if not self.position_embedding:
            return query_BCHW, key_BCHW
        return query_BCHW + self.query_embedding, key_BCHW + self.key_embedding

    def _heads(self, map_BCHW: Tensor) -> Tensor:
        """Return the map as (B, M, N, d); channels are split into heads in contiguous runs."""
        batch, channels, height, width = map_BCHW.shape
        return map_BCHW.view(batch, self.heads, channels // self.heads, height * width).transpose(2, 3)


def _attend(query_BMNd: Tensor, key_BMNd: Tensor, value_BMNd: Tensor) -> Tensor:
    # On CPUs the fused kernel's backward in bfloat16 takes three times as long as these products (256 and 1,024 cells).
    if query_BMNd.device.type == "cpu" and query_BMNd.requires_grad and query_BMNd.dtype == torch.bfloat16:
        return _softmax(query_BMNd, key_BMNd) @ value_BMNd
    return functional.scaled_dot_product_attention(query_BMNd, key_BMNd, value_BMNd)


def _softmax(query_BMQd: Tensor, key_BMNd: Tensor) -> Tensor:
    return torch.softmax(query_BMQd @ key_BMNd.transpose(2, 3) * query_BMQd.shape[-1] ** -0.5, dim=-1)


class AddFusion(nn.Module):
    """F_FIT = F_P + what was injected, the last line of the paper's Algorithm 1."""

    def forward(self, primary_BCHW: Tensor, injected_BCHW: Tensor) -> Tensor:
        return primary_BCHW + injected_BCHW


class ConvolutionFusion(nn.Module):
    """The published network's fusion of both maps: 3×3, ReLU, 3×3, plus a 1×1 of the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.conv2 = nn.Conv2d(2 * channels, channels, 1)

    def start_as_primary(self) -> None:
        """Make the fusion of untrained weights the primary map and a fifth of what it would be otherwise."""
        last, shortcut = self.conv1[2], self.conv2
        assert isinstance(last, nn.Conv2d)
        with torch.no_grad():
            last.weight.mul_(0.2)
            shortcut.weight.mul_(0.2)
            shortcut.weight[:, : len(shortcut.weight), 0, 0].add_(torch.eye(len(shortcut.weight)))

    def forward(self, primary_BCHW: Tensor, injected_BCHW: Tensor) -> Tensor:
        both = torch.cat((primary_BCHW, injected_BCHW), dim=1)
        return self.conv1(both) + self.conv2(both)  # type: ignore[no-any-return]


class FeatureInjection(nn.Module):
    """FIT: secondary cells ask, primary cells answer; a second block asks with what the first one made."""

    def __init__(self, blocks: list[AttentionBlock], fusion: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.fusion = fusion

    def forward(self, primary_BCHW: Tensor, secondary_BCHW: Tensor) -> Tensor:
        injected = secondary_BCHW
        for block in self.blocks:
            injected = block(injected, primary_BCHW)
        return self.fusion(primary_BCHW, injected)  # type: ignore[no-any-return]


class PrimaryOnly(nn.Module):
    """Stands where FIT is ablated: what the necessity map kept, and nothing of the rest (paper, Table 1)."""

    def forward(self, primary_BCHW: Tensor, secondary_BCHW: Tensor) -> Tensor:  # noqa: ARG002
        return primary_BCHW


class SelfEnhancement(nn.Module):
    """SET: every cell attends to all cells. A second block attends to the first one's output ("previous", an
    ordinary stack) or, as published, still to the first one's input ("first")."""

    def __init__(self, blocks: list[AttentionBlock], keys: Literal["previous", "first"]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.keys = keys

    def forward(self, features_BCHW: Tensor) -> Tensor:
        enhanced = features_BCHW
        for block in self.blocks:
            enhanced = block(enhanced, features_BCHW if self.keys == "first" else enhanced)
        return enhanced


def build_injection(config: ModelConfig) -> nn.Module:
    """Return FIT, or what stands in its place: a module of (primary, secondary)."""
    if not config.has_fit:
        return PrimaryOnly()
    seconds: dict[str, SecondBranch] = {
        "softmax": "none",
        "softmax_softmax": "softmax",
        "softmax_sigmoid": "sigmoid",
    }
    residuals: dict[str, Residual] = {"none": "none", "q_soft": "query", "q_sig": "second_query"}
    blocks = [
        AttentionBlock(config, second=seconds[config.fit_attention], residual=residuals[config.fit_residual])
        for _ in range(config.fit_depth)
    ]
    convolution = config.fit_fusion == "convolution"
    return FeatureInjection(blocks, ConvolutionFusion(config.channels) if convolution else AddFusion())


def build_enhancement(config: ModelConfig) -> nn.Module:
    """Return SET, or what stands in its place: a module of the features after FIT.

    The residual blocks of Tables 1 and 4 are the regressor's pre-activation bottlenecks; the paper does not
    say which, so that is our choice. A neck of SET alone takes the primary features, like the other rows.
    """
    if config.neck == "residual" or (config.has_set and config.set_block == "residual"):
        return nn.Sequential(
            *(ResidualBlock(config.channels, config.activation) for _ in range(config.residual_blocks))
        )
    if not config.has_set or config.set_block == "identity":
        return nn.Identity()
    residual: Residual = "query" if config.set_residual == "projected_query" else "input"
    blocks = [AttentionBlock(config, second="none", residual=residual) for _ in range(config.set_depth)]
    return SelfEnhancement(blocks, config.set_keys)

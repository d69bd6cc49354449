"""The paper's Algorithms 1 and 2, written out with every N × N map, against what runs."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import PRESETS, ModelConfig
from model.handoccnet.network import build_network
from model.handoccnet.transformers import AttentionBlock, build_enhancement, build_injection

SMALL = {"channels": 32, "input_size": 128}


def _config(preset: str, **changes: Any) -> ModelConfig:
    return dataclasses.replace(PRESETS[preset], **(SMALL | changes))


def _perturbed(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a size at which it matters; the initialisation makes many of them vanish."""
    generator = torch.Generator().manual_seed(1)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def _maps(config: ModelConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 2, config.channels, config.feature_size, config.feature_size)
    primary, secondary = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return primary, secondary


def _heads(x: Tensor, conv: torch.nn.Conv2d, heads: int) -> Tensor:
    """1×1 convolution as a matrix, flattened row by row, channels split into heads: (B, M, N, d)."""
    y = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]  # type: ignore[index]
    return torch.stack(y.flatten(2).chunk(heads, dim=1), dim=1).transpose(2, 3)


def _naive_correlation(block: AttentionBlock, query: Tensor, key: Tensor, config: ModelConfig) -> Tensor:
    """C (B, M, N, N), the whole of it."""
    scale = (config.channels / config.heads) ** -0.5
    if config.position_embedding:
        query, key = query + block.query_embedding, key + block.key_embedding

    def product(q: torch.nn.Conv2d, k: torch.nn.Conv2d) -> Tensor:
        q_heads, k_heads = _heads(query, q, config.heads), _heads(key, k, config.heads)
        return torch.einsum("bmqd,bmkd->bmqk", q_heads, k_heads) * scale

    soft = torch.softmax(product(block.query, block.key), dim=-1)
    if block.second == "none":
        return soft
    second = product(block.second_query, block.second_key)
    if block.second == "softmax":
        return soft * torch.softmax(second, dim=-1)
    pooled = second.sum(-1, keepdim=True) if config.gate_pool == "sum" else second.mean(-1, keepdim=True)
    return soft * torch.sigmoid(pooled)


def _naive_block(block: AttentionBlock, query: Tensor, key: Tensor, config: ModelConfig) -> Tensor:
    """ψ(R) + ψ(MLP(LN(R))) with R = C·v, plus the block's residual."""
    correlation = _naive_correlation(block, query, key, config)
    attended = torch.einsum("bmqk,bmkd->bmqd", correlation, _heads(key, block.value, config.heads))
    r = torch.cat(attended.unbind(1), dim=-1)
    embedded = query + block.query_embedding if config.position_embedding else query
    if block.residual == "query":
        r = r + torch.cat(_heads(embedded, block.query, config.heads).unbind(1), dim=-1)
    elif block.residual == "second_query":
        r = r + torch.cat(_heads(embedded, block.second_query, config.heads).unbind(1), dim=-1)
    elif block.residual == "input":
        r = r + query.flatten(2).transpose(1, 2)
    mean, variance = r.mean(-1, keepdim=True), r.var(-1, unbiased=False, keepdim=True)
    hidden = (r - mean) / torch.sqrt(variance + 1e-5) * block.norm.weight + block.norm.bias
    first, _, second = block.mlp
    hidden = hidden @ first.weight.T + first.bias
    if config.mlp_activation == "gelu":
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    out = r + hidden @ second.weight.T + second.bias
    return out.transpose(1, 2).unflatten(2, query.shape[-2:])  # type: ignore[no-any-return, no-untyped-call]


FIT_VARIANTS = [
    _config("paper"),
    _config("paper", fit_attention="softmax"),
    _config("paper", fit_attention="softmax_softmax"),
    _config("paper", fit_residual="q_soft"),
    _config("paper", fit_residual="q_sig"),
    _config("paper", gate_pool="sum", mlp_activation="gelu"),
    _config("paper", heads=4, position_embedding=True, fit_depth=2),
]


@pytest.mark.parametrize("config", FIT_VARIANTS, ids=str)
def test_fit_is_algorithm_1(config: ModelConfig) -> None:
    primary, secondary = _maps(config)
    fit: Any = _perturbed(build_injection(config))
    injected = secondary
    for block in fit.blocks:
        injected = _naive_block(block, injected, primary, config)
    torch.testing.assert_close(fit(primary, secondary), primary + injected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "config",
    [
        _config("paper"),
        _config("paper", set_residual="input", heads=4),
        _config("paper", set_depth=2),
        _config("release", input_size=256, feature_size=16),
    ],
    ids=str,
)
def test_set_is_algorithm_2(config: ModelConfig) -> None:
    features, _ = _maps(config)
    enhancement: Any = _perturbed(build_enhancement(config))
    enhanced = features
    for block in enhancement.blocks:
        enhanced = _naive_block(block, enhanced, features if config.set_keys == "first" else enhanced, config)
    torch.testing.assert_close(enhancement(features), enhanced, rtol=0, atol=1e-10)


def test_attention_that_learns_in_half_precision_is_that_of_inference() -> None:
    torch.manual_seed(0)
    enhancement = build_network(PRESETS["tiny"]).enhancement
    features = torch.randn(2, 96, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learning = enhancement(features)
        with torch.no_grad():
            inferring = enhancement(features)
    torch.testing.assert_close(learning, inferring, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("attention", ["softmax", "softmax_softmax", "softmax_sigmoid"])
def test_the_maps_of_figure_4_are_rows_of_the_naive_maps(attention: str) -> None:
    config = dataclasses.replace(PRESETS["tiny"], fit_attention=attention)  # type: ignore[arg-type]
    network: Any = _perturbed(build_network(config).eval())
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        maps = network.feature_maps(image)
        correlation = network.correlation(image, query_cells=[(0, 5), (15, 2)])
        naive = _naive_correlation(network.injection.blocks[0], maps.secondary, maps.primary, config)
    assert correlation.raw.shape == correlation.softmax.shape == (1, config.heads, 2, 16, 16)
    torch.testing.assert_close(
        correlation.combined.flatten(3), naive[:, :, [5, 15 * 16 + 2]], rtol=0, atol=1e-10
    )
    soft = torch.softmax(correlation.raw.flatten(3) * (config.channels / config.heads) ** -0.5, dim=-1)
    torch.testing.assert_close(correlation.softmax.flatten(3), soft, rtol=0, atol=1e-10)

"""Tiny, deterministic instances of the denoisers that have a bundled spec."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from devices import DEVICE

QUALIFIED = {
    "FluxTransformer2DModel": "diffusers.models.transformers.transformer_flux",
    "WanTransformer3DModel": "diffusers.models.transformers.transformer_wan",
    "QwenImageTransformer2DModel": "diffusers.models.transformers.transformer_qwenimage",
    "HunyuanVideoTransformer3DModel": "diffusers.models.transformers.transformer_hunyuan_video",
    "CogVideoXTransformer3DModel": "diffusers.models.transformers.cogvideox_transformer_3d",
    "DiTTransformer2DModel": "diffusers.models.transformers.dit_transformer_2d",
    "UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition",
}
NAMES = tuple(QUALIFIED)
UNETS = ("UNet2DConditionModel",)
STACKED = tuple(name for name in NAMES if name not in UNETS)
"""Those whose blocks are in stacks, at one resolution."""

FOR_LEVELS = {"deepcache"}
FOR_ALL = FOR_LEVELS | {
    "adastep",
    "attention",
    "auto",
    "easycache",
    "fora",
    "pab",
    "schedule",
    "taylorseer",
}
"""Strategies that UNets take: the levels' own, and those that act on sub-modules or whole calls."""

ON_BLOCKS = (
    "adacache",
    "customcache",
    "dbcache",
    "dicache",
    "dit_block",
    "fbcache",
    "magcache",
    "seacache",
    "teacache",
)
"""Strategies that skip blocks of stacks."""

CONFIGS: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 3,
        "num_single_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8),
    },
    "WanTransformer3DModel": {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 256,
        "ffn_dim": 32,
        "num_layers": 3,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    },
    "QwenImageTransformer2DModel": {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": 16,
        "guidance_embeds": False,
        "axes_dims_rope": (8, 4, 4),
    },
    "HunyuanVideoTransformer3DModel": {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 3,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
        "image_condition_type": None,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 8,
        "num_layers": 3,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 8,
        "patch_size": 2,
        "patch_size_t": None,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 8,
    },
    "DiTTransformer2DModel": {
        "in_channels": 4,
        "out_channels": 8,
        "activation_fn": "gelu-approximate",
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "attention_bias": True,
        "num_layers": 3,
        "norm_type": "ada_norm_zero",
        "num_embeds_ada_norm": 8,
        "patch_size": 2,
        "sample_size": 8,
    },
    "UNet2DConditionModel": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": (8, 12, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
    },
}

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "FluxTransformer2DModel": {
        "hidden_states": (1, 16, 4),
        "encoder_hidden_states": (1, 12, 32),
        "pooled_projections": (1, 32),
    },
    "WanTransformer3DModel": {
        "hidden_states": (1, 4, 2, 8, 8),
        "encoder_hidden_states": (1, 12, 16),
    },
    "QwenImageTransformer2DModel": {
        "hidden_states": (1, 16, 16),
        "encoder_hidden_states": (1, 8, 16),
    },
    "HunyuanVideoTransformer3DModel": {
        "hidden_states": (1, 4, 1, 8, 8),
        "encoder_hidden_states": (1, 12, 16),
        "pooled_projections": (1, 8),
    },
    "CogVideoXTransformer3DModel": {
        "hidden_states": (2, 1, 4, 8, 8),
        "encoder_hidden_states": (2, 8, 8),
    },
    "DiTTransformer2DModel": {"hidden_states": (2, 4, 8, 8)},
    "UNet2DConditionModel": {"sample": (2, 4, 8, 8), "encoder_hidden_states": (2, 6, 8)},
}

INTEGER_TIMESTEP = {"CogVideoXTransformer3DModel", "DiTTransformer2DModel"}


PACKED = {
    ("FluxTransformer2DModel", "seacache"),
    ("QwenImageTransformer2DModel", "seacache"),
}
"""Latents packed into tokens have no frequencies."""


def pairs(strategies: Iterable[str]) -> list[tuple[str, str]]:
    """Model and strategy, for every strategy that applies to the model."""
    return [
        (name, strategy)
        for strategy in strategies
        for name in NAMES
        if (strategy in FOR_ALL if name in UNETS else strategy not in FOR_LEVELS)
        and (name, strategy) not in PACKED
    ]


def build(
    name: str, *, seed: int = 0, **overrides: Any
) -> tuple[nn.Module, Callable[[float], dict[str, Any]]]:
    """A tiny denoiser and a function from timestep to its keyword arguments.

    The same name, seed and overrides (of the config) give the same weights and inputs. The
    timestep is passed on as the model expects it: Flux and Qwen-Image take 0..1, the others
    0..1000. Everything but the timestep is equal on every call. `return_dict` is False, so the
    model returns a tuple whose first item is the prediction.
    """
    cls = getattr(importlib.import_module(QUALIFIED[name]), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(**{**CONFIGS[name], **overrides}).eval().requires_grad_(False)
        for parameter in model.parameters():
            # Zero gates would make every block the identity and hide every mistake.
            if not parameter.any():
                parameter.normal_(std=0.2)
    model.to(DEVICE)
    fixed = _fixed_inputs(name, seed)
    batch = next(iter(fixed.values())).shape[0]
    dtype = torch.int64 if name in INTEGER_TIMESTEP else torch.float32

    def inputs(timestep: float) -> dict[str, Any]:
        step = torch.full((batch,), timestep, dtype=dtype, device=DEVICE)
        tensors = {
            k: v.clone().to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in fixed.items()
        }
        return {**tensors, "timestep": step, "return_dict": False}

    return model, inputs


def _fixed_inputs(name: str, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed + 1)
    inputs: dict[str, Any] = {
        key: torch.randn(shape, generator=generator) for key, shape in SHAPES[name].items()
    }
    if name == "FluxTransformer2DModel":
        grid = torch.cartesian_prod(torch.arange(1), torch.arange(4), torch.arange(4)).float()
        inputs |= {"img_ids": grid, "txt_ids": torch.zeros(12, 3)}
    elif name == "QwenImageTransformer2DModel":
        inputs |= {
            "encoder_hidden_states_mask": torch.ones(1, 8, dtype=torch.int64),
            "img_shapes": [(1, 4, 4)],
        }
    elif name == "HunyuanVideoTransformer3DModel":
        inputs |= {
            "encoder_attention_mask": torch.ones(1, 12),
            "guidance": torch.tensor([6000.0]),
        }
    elif name == "DiTTransformer2DModel":
        inputs["class_labels"] = torch.tensor([3, 5])
    return inputs


def choice(strategy: str) -> Any:
    """A strategy for a tiny model, which no table was fitted on and no schedule was found for: the
    change is taken as it is, and every other step."""
    needed = {
        "customcache": {"coefficients": (1.0, 0.0)},
        "schedule": {"steps": (0, 2, 4, 6), "total": 8},
        "teacache": {"coefficients": (1.0, 0.0)},
    }
    return (strategy, needed[strategy]) if strategy in needed else strategy

"""The Guidance Network and its injection into the denoiser (paper §4, equation 1).

The Guidance Network is a UNet of the denoiser's shape that reads the condition latents. What enters each of
its transformer blocks is a feature; the feature is added to what enters the same block of the denoiser,
before self-attention: h ← h + λ·g.

Features travel as an argument: the UNets hand `cross_attention_kwargs` down to every block, and a hook on the
block takes its own entry, by name, out of it. No feature is ever stored in a module, so nothing can be stale:
gradient checkpointing replays a block with the arguments it had, accumulation and nested passes cannot mix,
and torch.compile sees plain tensors in and out.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from models.diffusion.config import ConditionInit, GuidedBlocks, Injection, InstaFaceConfig

Features = dict[str, Tensor]
"""Block name → what the Guidance Network adds there: (B, tokens, width), or (B, width, h, w) for whole transformers."""

_COLLECTED, _ADDED = "instaface_collected", "instaface_added"
# The sixth argument of both classes is `cross_attention_kwargs`; checkpointing passes it by position.
_KWARGS_POSITION = 5


def guided_modules(unet: UNet2DConditionModel, injection: Injection, blocks: GuidedBlocks) -> dict[str, Any]:
    """The modules that exchange features, by name, in order of execution."""
    kind = Transformer2DModel if injection == "transformer_input" else BasicTransformerBlock
    found = {name: module for name, module in unet.named_modules() if isinstance(module, kind)}
    rank = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    ordered = sorted(found, key=lambda name: rank[name.split(".")[0]])  # stable: module order within each
    if blocks == "middle_and_up":
        ordered = [name for name in ordered if not name.startswith("down_blocks")]
    if not ordered:
        raise ValueError("this UNet has no transformer block to guide: give at least one resolution attention")
    return {name: found[name] for name in ordered}


def accept_features(unet: UNet2DConditionModel, injection: Injection, blocks: GuidedBlocks) -> list[str]:
    """Let a denoiser take features: `unet(z, t, tokens, cross_attention_kwargs=adding(features))`.

    Register before compiling. Returns the names of the blocks. Without features the UNet is untouched.
    """
    modules = guided_modules(unet, injection, blocks)
    for name, module in modules.items():
        module.register_forward_pre_hook(
            functools.partial(_add_feature, name=name, after_norm=injection == "after_norm"), with_kwargs=True
        )
        if injection == "after_norm":
            module.attn1.register_forward_pre_hook(_add_after_norm, with_kwargs=True)
            module.attn2.register_forward_pre_hook(_drop_feature, with_kwargs=True)
    _clear_elsewhere(unet, modules)
    return list(modules)


def adding(features: Mapping[str, Tensor] | None) -> dict[str, Any] | None:
    """The `cross_attention_kwargs` that hand features to a denoiser prepared by `accept_features`."""
    return None if features is None else {_ADDED: features}


class TokenLayout(nn.Module):
    """Tokens of a g×g grid, the last g² of (B, N, W), as channels of the latent grid: (B, channels, side, side).

    Each token fills its (side/g)² cells, linearly.
    """

    def __init__(self, *, grid: int, side: int, width: int, channels: int) -> None:
        super().__init__()
        self.grid, self.cells = grid, side // grid
        self.linear = nn.Linear(width, channels * self.cells**2)

    def forward(self, tokens_BNW: Tensor) -> Tensor:
        cells = self.linear(tokens_BNW[:, -(self.grid**2) :]).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return nn.functional.pixel_shuffle(cells, self.cells)


def token_layout(config: InstaFaceConfig) -> TokenLayout | None:
    """The layout of a configuration with an `identity_grid`. A face alone has no place."""
    if not config.identity_grid or config.identity == "face_only":
        return None
    return TokenLayout(
        grid=config.identity_grid, side=config.latent_size, width=config.token_width, channels=config.condition_channels
    )


class GuidanceNetwork(nn.Module):
    """Condition latents (B, 3C, h, w), identity tokens (B, N, W) → features by block name.

    With `identity_grid`, tokens that belong to places are added to the condition latents there.

    `unet` has the denoiser's configuration but for `in_channels`. What comes after the last guided block
    cannot influence any feature: those parameters are frozen and their modules skipped. To shard (FSDP) or
    compile, take this module, not its `unet`: features are its outputs.
    """

    def __init__(self, unet: UNet2DConditionModel, config: InstaFaceConfig) -> None:
        super().__init__()
        self.unet = unet
        modules = guided_modules(unet, config.injection, config.guided_blocks)
        self.names = list(modules)
        self.layout = token_layout(config)
        for name, module in modules.items():
            module.register_forward_pre_hook(
                functools.partial(_collect_feature, name=name, after_norm=config.injection == "after_norm"),
                with_kwargs=True,
            )
        _clear_elsewhere(unet, modules)
        self.gates = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(torch.zeros(())) for name in self.names} if config.gated else {}
        )
        for module in unreachable_modules(unet, self.names[-1]):
            _skip(module)
        if config.injection == "after_norm":  # the last feature is what this norm makes
            modules[self.names[-1]].norm1.requires_grad_(True)

    def forward(self, conditions_BChw: Tensor, tokens_BNW: Tensor, timesteps: Tensor | None = None) -> Features:
        """Timesteps (B,) int64; None means t = 0, the constant under which features are computed once an
        image."""
        if timesteps is None:
            timesteps = torch.zeros(len(conditions_BChw), dtype=torch.long, device=conditions_BChw.device)
        features: Features = {}
        if self.layout is not None:
            conditions_BChw = conditions_BChw + self.layout(tokens_BNW)
        self.unet(
            conditions_BChw,
            timesteps,
            tokens_BNW,
            cross_attention_kwargs={_COLLECTED: features},
            return_dict=False,
        )
        if self.gates:
            return {name: feature * self.gates[name.replace(".", "_")] for name, feature in features.items()}
        return features


def widen_conv_in(weight: Tensor, copies: int, rule: ConditionInit) -> Tensor:
    """Spread a conv_in kernel (O, C, k, k) over `copies` groups of C input channels: (O, copies·C, k, k).

    mean: W/copies each, so that equal maps give the response of one picture; root: W/√copies each, which
    keeps the variance of independent maps; last: W on the last group and zero elsewhere.
    """
    if rule == "last":
        return torch.cat([torch.zeros_like(weight)] * (copies - 1) + [weight], dim=1)
    scale = copies if rule == "mean" else copies**0.5
    return torch.cat([weight / scale] * copies, dim=1)


def mirror_denoiser(denoiser: UNet2DConditionModel, config: InstaFaceConfig) -> UNet2DConditionModel:
    """A UNet of the denoiser's shape and weights that reads condition latents: only conv_in is widened."""
    with torch.device("meta"):
        mirror = UNet2DConditionModel.from_config({**denoiser.config, "in_channels": config.condition_channels})
    state = {name: tensor.detach().clone() for name, tensor in denoiser.state_dict().items()}
    state["conv_in.weight"] = widen_conv_in(state["conv_in.weight"], len(config.maps), config.condition_init)
    mirror.load_state_dict(state, strict=True, assign=True)
    return mirror


def unreachable_modules(unet: UNet2DConditionModel, last: str) -> list[nn.Module]:
    """The modules that run only after the input of the block or transformer named `last`, outermost first."""
    path = last.split(".")
    after: list[nn.Module] = [unet.get_submodule(last)]
    if "transformer_blocks" in path:
        transformer = unet.get_submodule(last.rsplit(".", 2)[0])
        after += [*transformer.transformer_blocks[int(path[-1]) + 1 :], transformer.proj_out]
    layer = int(path[path.index("attentions") + 1])
    stage = unet.get_submodule(last.split(".attentions")[0])
    after += [
        *stage.resnets[layer + 1 :],
        *stage.attentions[layer + 1 :],
        *(getattr(stage, "upsamplers", None) or []),
    ]
    after += list(unet.up_blocks[int(path[1]) + 1 :] if path[0] == "up_blocks" else unet.up_blocks)
    after += [module for module in (unet.conv_norm_out, unet.conv_out) if module is not None]
    return after


def _skip(module: nn.Module) -> None:
    """Freeze a module and let its input through instead of computing; its weights stay where they are."""
    module.requires_grad_(False)
    module.forward = _first_in_tuple if isinstance(module, Transformer2DModel) else _first


def _first(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def _first_in_tuple(*args: Any, **kwargs: Any) -> Any:
    return (_first(*args, **kwargs),)


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _without_entries(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Call]:
    """The `cross_attention_kwargs` of a call, and the call without the entries that are ours."""
    positional = len(args) > _KWARGS_POSITION
    extra = args[_KWARGS_POSITION] if positional else kwargs.get("cross_attention_kwargs")
    if extra is None:
        return {}, (args, kwargs)
    return extra, _with_entries(args, kwargs, {key: extra[key] for key in extra if key not in (_COLLECTED, _ADDED)})


def _with_entries(args: tuple[Any, ...], kwargs: dict[str, Any], entries: dict[str, Any]) -> Call:
    value = entries or None
    if len(args) > _KWARGS_POSITION:
        return (*args[:_KWARGS_POSITION], value, *args[_KWARGS_POSITION + 1 :]), kwargs
    return args, {**kwargs, "cross_attention_kwargs": value}


def _collect_feature(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str, after_norm: bool
) -> Call:
    extra, call = _without_entries(args, kwargs)
    if _COLLECTED in extra:
        # Assignment by name: a replay under gradient checkpointing writes the same entry again.
        extra[_COLLECTED][name] = module.norm1(args[0]) if after_norm else args[0]
    return call


def _add_feature(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str, after_norm: bool
) -> Call:
    extra, (args, kwargs) = _without_entries(args, kwargs)
    if _ADDED not in extra:
        return args, kwargs
    feature = extra[_ADDED][name]
    if after_norm:  # on to the block's attentions, which see what norm1 made
        return _with_entries(args, kwargs, {_ADDED: feature})
    return (args[0] + feature, *args[1:]), kwargs


def _add_after_norm(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    feature = kwargs.pop(_ADDED, None)
    return (args if feature is None else (args[0] + feature, *args[1:])), kwargs


def _drop_feature(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    kwargs.pop(_ADDED, None)
    return args, kwargs


def _drop_entries(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return _without_entries(args, kwargs)[1]


def _clear_elsewhere(unet: UNet2DConditionModel, guided: Mapping[str, nn.Module]) -> None:
    """Blocks that exchange nothing must not hand our entries to their attention processors."""
    for name, module in unet.named_modules():
        if isinstance(module, BasicTransformerBlock) and name not in guided:
            module.register_forward_pre_hook(_drop_entries, with_kwargs=True)

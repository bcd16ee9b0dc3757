"""What a stage-2 fine-tune may change, and what of it is kept.

    full     the denoiser and the Identity Preserver (the paper)
    lora     low-rank updates of the denoiser's attention (arXiv:2106.09685), and the identity tokens
    tokens   the identity tokens alone: N×W numbers

One photograph only ever makes N×W numbers out of the projection, so training the tokens reaches as far as
training the projection and keeps kilobytes instead of megabytes.

Part of an adaptation can be used: base + scale · (adapted − base) keeps what the base can do that one photograph does not
show (WiSE-FT, arXiv:2109.01903).
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.diffusion.config import AdaptationConfig
from models.diffusion.editor import InstaFace
from models.rng import seed_of

__all__ = [
    "AdaptationConfig", "adapt", "adaptation_state", "load_adaptation", "remove_adaptation", "scaled",
    "train_stage_one",
]  # fmt: skip

_ADAPTER = "identity"
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")


def train_stage_one(model: InstaFace) -> list[nn.Parameter]:
    """Stage 1 trains everything the loss reaches. Returns the trainable parameters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapt(
    model: InstaFace,
    config: AdaptationConfig,
    *,
    semantic: Tensor | None = None,
    face: Tensor | None = None,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Prepare stage 2, in place, and return the parameters to train; every other one is frozen.

    `lora` and `tokens` start from the tokens of the photograph: give its `semantic` (1, L, D) and `face`
    (1, F). Low-rank updates start at zero, so an adapted model first computes what the base model did.
    """
    model.requires_grad_(False)
    if config.split_projection:
        model.split_projection()
    if config.kind == "full":
        model.denoiser.requires_grad_(True)
        model.identity.requires_grad_(True)
    else:
        if semantic is None or face is None:
            raise ValueError(
                f"a {config.kind!r} adaptation starts from the photograph's features: give semantic and face"
            )
        with torch.no_grad():
            model.own_tokens = nn.Parameter(model.tokens(semantic[:1], face[:1]).clone())
    if config.kind == "lora":
        _add_low_rank(model, config, seed)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adaptation_state(
    model: InstaFace, config: AdaptationConfig, *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """What an adapted model has beyond its base, by name, on the CPU, in `dtype` where given."""
    state: dict[str, Tensor] = {}
    if config.kind == "full":
        state |= {f"denoiser.{key}": tensor for key, tensor in model.denoiser.state_dict().items()}
        state |= {f"identity.{key}": tensor for key, tensor in model.identity.state_dict().items()}
    elif model.own_tokens is not None:
        state["tokens"] = model.own_tokens
    if config.kind == "lora":
        from peft.utils import get_peft_model_state_dict  # seconds to import: only where it is used

        low_rank = get_peft_model_state_dict(model.denoiser, adapter_name=_ADAPTER)
        state |= {f"lora.{key}": tensor for key, tensor in low_rank.items()}
    return {key: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous() for key, tensor in state.items()}


@torch.no_grad()
def load_adaptation(
    model: InstaFace,
    config: AdaptationConfig,
    state: Mapping[str, Tensor],
    *,
    scale: float = 1.0,
    semantic: Tensor | None = None,
    face: Tensor | None = None,
) -> None:
    """Put `scale` of what `adaptation_state` gave onto a base model, in place.

    Part of tuned tokens lies between them and the base's own: give the photograph's `semantic` (1, L, D) and `face` (1, F).

    Raises:
        ValueError: tensors are missing or unknown, or the scale is not in [0, 1].
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"scale={scale}: choose one from 0, the base model, to 1, all of the adaptation")
    if config.split_projection:
        model.split_projection()
    if config.kind == "full":
        for part in ("denoiser", "identity"):
            module, tuned = model.get_submodule(part), _under(state, f"{part}.")
            if scale < 1:
                known = module.state_dict()
                tuned = {key: _between(known[key], one, scale) if key in known else one for key, one in tuned.items()}
            module.load_state_dict(tuned, strict=True)
        return
    if "tokens" not in state:
        raise ValueError(f"a {config.kind!r} adaptation has `tokens`; this one has {sorted(state)[:3]}")
    tokens = state["tokens"]
    if scale < 1:
        if semantic is None or face is None:
            raise ValueError(f"scale={scale} of a {config.kind!r} adaptation: give the photograph's semantic and face")
        tokens = _between(model.tokens(semantic[:1], face[:1]), tokens, scale)
    model.own_tokens = nn.Parameter(tokens.to(model.device, model.dtype).clone())
    if config.kind == "lora":
        from peft.utils import set_peft_model_state_dict

        _add_low_rank(model, config, seed=0)
        # W + B·A: a scaled B is a scaled update
        low_rank = {key: one * scale if "lora_B" in key else one for key, one in _under(state, "lora.").items()}
        problems = set_peft_model_state_dict(model.denoiser, low_rank, adapter_name=_ADAPTER)
        missing = [key for key in problems.missing_keys if "lora_" in key]
        if missing or problems.unexpected_keys:
            raise ValueError(
                f"the low-rank tensors are not of this model and rank: {len(missing)} missing, "
                f"{len(problems.unexpected_keys)} unknown"
            )


def scaled(
    base: InstaFace, adapted: InstaFace, config: AdaptationConfig, scale: float, *, semantic: Tensor, face: Tensor
) -> InstaFace:
    """A copy of `base` with `scale` of what `adapted` learned from the photograph of these features; `adapted` itself for 1."""
    if scale == 1:
        return adapted
    model = copy.deepcopy(base)
    load_adaptation(model, config, adaptation_state(adapted, config), scale=scale, semantic=semantic, face=face)
    return model.eval()


def remove_adaptation(model: InstaFace) -> None:
    """Back to the base model, after a `lora` or `tokens` adaptation (a `full` one has overwritten it)."""
    model.own_tokens = model.guidance_identity = None
    if _ADAPTER in getattr(model.denoiser, "peft_config", {}):
        model.denoiser.delete_adapters(_ADAPTER)


def _add_low_rank(model: InstaFace, config: AdaptationConfig, seed: int) -> None:
    from peft import LoraConfig

    targets = [*_ATTENTION, *(_FEED_FORWARD if config.feed_forward else ())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "low-rank"))
        model.denoiser.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, init_lora_weights=True, target_modules=targets),
            _ADAPTER,
        )


def _between(base: Tensor, adapted: Tensor, scale: float) -> Tensor:
    return torch.lerp(base.float(), adapted.to(base.device).float(), scale).to(base.dtype)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}

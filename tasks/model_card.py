"""README.md of an exported model: where it comes from, what it may be used for, how good it was."""

from collections.abc import Mapping
from typing import Any

from models.diffusion.config import InstaFaceConfig

_FREE = "Features come from encoders that this project ships or that pip packages embed, under free licences."
_ENCODERS = {
    "tiny": _FREE,
    "debug": _FREE,
    "open": (
        "Starts from Stable Diffusion 1.5 (CreativeML OpenRAIL-M: use restrictions pass on to this model). Features come "
        "from sd-vae-ft-mse (MIT), CLIP ViT-L/14 (MIT) and dlib's recogniser (public domain)."
    ),
    "paper": (
        "Starts from Stable Diffusion 1.5 (CreativeML OpenRAIL-M: use restrictions pass on to this model). Features come "
        "from sd-vae-ft-mse (MIT), CLIP ViT-L/14 (MIT), insightface ArcFace (non-commercial research only) and DECA with "
        "FLAME (non-commercial research only): do not use this model commercially."
    ),
}


def model_card(facts: Mapping[str, Any], networks: InstaFaceConfig, parameters: int) -> str:
    """Markdown with a metadata header. `facts` are those of the model's record."""
    config, lineage, best = facts["config"], facts["lineage"], facts["best"]
    losses = facts["losses"]
    tail = losses[-max(1, len(losses) // 10) :]
    changed = "\n".join(f"| {name} | {value} |" for name, value in sorted(facts["decisive"].items()))
    card = f"""---
library_name: diffusers
tags: [instaface, face-editing, diffusion]
---
# InstaFace, stage 1 ({config["model"]})

Guidance Network, denoiser and identity projection, trained for {facts["step"]:,} steps of {config["batch"]} photographs.
{parameters:,} parameters, latents {networks.latent_channels}×{networks.latent_size}×{networks.latent_size},
{networks.prediction} prediction. Load it with `InstaFace.from_pretrained(folder)`; `unet/` is a plain diffusers UNet.
"""
    if config["ema_decay"] is not None:
        card += (
            f"\nThese are the averaged weights (decay {config['ema_decay']}); the weights themselves lie in `raw/`.\n"
        )
    card += f"""
| figure | value |
|---|---|
| training loss, last tenth of the steps | {sum(tail) / len(tail):.4f} |
"""
    if best is not None:
        card += f"| best validation loss (step {best['step']:,}) | {best['loss']:.4f} |\n"
    card += f"""
## Where it comes from

| what | which |
|---|---|
| features manifest | {facts["features"]} |
| start | {lineage.get("start") or "random weights"} |
| code | instaface {lineage.get("version", "?")}, commit {lineage.get("commit") or "unknown"} |

## Configuration (what differs from the defaults)

| field | value |
|---|---|
{changed}

## Licences and limits

{_ENCODERS[config["model"]]}
The photographs it was trained on have licences of their own (FFHQ: non-commercial, by image). It makes pictures of real
people: use it only with the consent of whoever is shown, and mark what it makes as generated.
"""
    return card

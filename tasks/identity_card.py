"""The model card of an identity: what it is, what it was made from, how good it is, what it may be used for."""

from collections.abc import Mapping
from typing import Any


def identity_card(facts: Mapping[str, Any], *, weight_bytes: int) -> str:
    """Markdown from a record's facts."""
    lineage, metrics, config = facts["lineage"], facts["metrics"], facts["lineage"]["config"]
    figures = "\n".join(f"| {name} | {shown(value)} |" for name, value in sorted(metrics.items()))
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["seconds"].items())
    consent = lineage["consent"] or "none was given"
    training = f"{config['copies']} noisy copies each, learning rate {config['learning_rate']:g}"
    photograph = "kept (the aligned crop)" if config["keep_photograph"] else "not kept"
    return f"""# Identity {facts["identity_id"]}

Weights that let InstaFace show one person under another pose, expression or light. Personal data: `erase-identity`
removes all of it, with the edits made from it.

| | |
|---|---|
| method | {config["method"]}{f", rank {config['rank']}" if config["method"] == "lora" else ""} |
| steps | {len(facts["losses"])} of {config["steps"]}, {training} |
| weights | {weight_bytes / 2**20:.1f} MiB |
| base model | {lineage["base_digest"]} |
| frozen encoders | {lineage["encoders"]} |
| photograph | sha256 {lineage["image_sha256"]}, {photograph} |
| preset, code | {lineage["preset"]}, {lineage["code"]} |
| consent | {consent} |
| time | {phases} |

| figure | value |
|---|---|
{figures}

`reconstruction_psnr_db` and `reid_distance` (dlib; below 0.6 counts as the same person) compare the photograph with the
picture generated from its own maps; `codec_psnr_db` is what the autoencoder alone reaches. Pictures made with these
weights say so in their metadata (`instaface verify-image`). Use them only for the person who agreed to it.
"""


def shown(value: float | None) -> str:
    return "not available (no face was found)" if value is None else f"{value:.4g}"

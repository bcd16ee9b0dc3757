"""Complete configurations, one function each."""

from models.diffusion.config import InstaFaceConfig

_TINY_DEVIATIONS = (
    3.59, 1.89, 1.60, 1.92, 1.98, 1.38, 1.30, 1.39, 0.99, 1.08, 0.96, 0.87, 1.08, 1.11, 0.89, 0.88,
    0.73, 0.82, 0.86, 0.89, 0.90, 0.77, 0.64, 0.75, 0.70, 0.56, 0.73, 0.70, 0.71, 0.74, 0.56, 0.63,
    0.63, 0.62, 0.63, 0.57, 0.63, 0.57, 0.49, 0.64, 0.57, 0.46, 0.46, 0.55, 0.52, 0.51, 0.51, 0.49,
    0.53, 0.49, 0.48, 0.54, 0.48, 0.48, 0.54, 0.45, 0.46, 0.46, 0.46, 0.45, 0.45, 0.46, 0.43, 0.41,
)  # fmt: skip
"""Of the trained patch codec's channels over portraits."""


def paper_config(*, face_width: int = 512) -> InstaFaceConfig:
    """The paper: Stable Diffusion 1.5 at 256², CLIP ViT-L/14 and ArcFace (512 numbers)."""
    return InstaFaceConfig(face_width=face_width)


def open_config() -> InstaFaceConfig:
    """The same networks without non-commercial weights: dlib's recogniser (128 numbers) for ArcFace."""
    return paper_config(face_width=128)


def tiny_config(*, semantic_width: int = 268, face_width: int = 128) -> InstaFaceConfig:
    """The small networks whose trained weights ship: 256² portraits over the trained patch codec (64 channels, factor
    16), 64 tokens of the source's latent grid handed to cross-attention beside the identity tokens.

    Velocity prediction with zero terminal SNR: small networks trained briefly get brightness right that way.
    """
    return InstaFaceConfig(
        latent_channels=64,
        latent_size=16,
        widths=(64, 128, 192),
        attention=(True, True, True),
        layers=1,
        heads=2,
        groups=8,
        token_width=192,
        tokens=8,
        semantic_width=semantic_width,
        face_width=face_width,
        identity_depth=2,
        identity_context=True,
        latent_deviations=_TINY_DEVIATIONS,
        prediction="velocity",
        zero_terminal_snr=True,
        spacing="trailing",
        min_snr_gamma=5.0,
    )


def debug_config(*, latent_size: int = 32, semantic_width: int = 320, face_width: int = 128) -> InstaFaceConfig:
    """Smaller networks, never trained for long, over the weight-free patch codec (16 channels, factor 8).

    Velocity prediction with zero terminal SNR: small networks trained briefly get brightness right that way.
    The finest resolution has no attention, whose 1024×1024 maps would double the time of a step on a CPU.
    """
    return InstaFaceConfig(
        latent_channels=16,
        latent_size=latent_size,
        widths=(32, 64, 128),
        attention=(False, True, True),
        layers=1,
        heads=2,
        groups=8,
        token_width=128,
        tokens=8,
        semantic_width=semantic_width,
        face_width=face_width,
        identity_depth=2,
        prediction="velocity",
        zero_terminal_snr=True,
        spacing="trailing",
        min_snr_gamma=5.0,
    )

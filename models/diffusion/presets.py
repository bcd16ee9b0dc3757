"""Complete configurations, one function each."""

from models.diffusion.config import InstaFaceConfig

_TINY_GAINS = (
    1.793, 1.261, 0.961, 0.950, 0.868, 0.724, 0.676, 0.662, 0.627, 0.610, 0.581, 0.578, 0.564, 0.556, 0.535, 0.512,
    0.506, 0.504, 0.500, 0.493, 0.485, 0.481, 0.472, 0.464, 0.451, 0.448, 0.443, 0.438, 0.438, 0.432, 0.429, 0.427,
    0.416, 0.409, 0.403, 0.401, 0.398, 0.396, 0.395, 0.391, 0.388, 0.386, 0.383, 0.381, 0.375, 0.373, 0.371, 0.371,
    0.369, 0.365, 0.364, 0.363, 0.361, 0.359, 0.356, 0.354, 0.352, 0.349, 0.348, 0.348, 0.346, 0.343, 0.340, 0.340,
)  # fmt: skip
"""Three quarters of the way from the trained patch codec's scales to those of pixels."""
_TINY_DEVIATIONS = (
    6.432, 2.381, 1.540, 1.825, 1.717, 0.997, 0.881, 0.923, 0.622, 0.657, 0.557, 0.500, 0.608, 0.617, 0.477, 0.448,
    0.371, 0.414, 0.428, 0.438, 0.438, 0.370, 0.300, 0.350, 0.317, 0.252, 0.323, 0.307, 0.310, 0.320, 0.238, 0.269,
    0.264, 0.252, 0.253, 0.229, 0.252, 0.224, 0.192, 0.251, 0.219, 0.178, 0.174, 0.209, 0.196, 0.190, 0.191, 0.183,
    0.195, 0.180, 0.173, 0.194, 0.173, 0.174, 0.191, 0.160, 0.163, 0.161, 0.159, 0.157, 0.157, 0.157, 0.146, 0.140,
)  # fmt: skip
"""Of the trained patch codec's channels over portraits, with these gains."""


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
        identity_shortcut=1.0,  # without, training let the resampler come out the same for everybody (docs/log.md)
        identity_context=True,
        identity_grid=8,
        latent_gains=_TINY_GAINS,
        latent_deviations=_TINY_DEVIATIONS,
        prediction="velocity",
        zero_terminal_snr=True,
        spacing="trailing",
        sampling_shift=8.0,
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

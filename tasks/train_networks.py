"""Which networks a training gets: the configuration of its model, the sizes of its features, its losses."""

from dataclasses import fields, replace
from typing import Any

from models.diffusion.config import InstaFaceConfig
from models.diffusion.presets import debug_config, open_config, paper_config, tiny_config
from tasks.array_bytes import from_npy
from tasks.generation import Generation
from tasks.train_config import TrainConfig
from tasks.train_data import FEATURES


def networks_for(config: TrainConfig, features: Generation) -> InstaFaceConfig:
    """Raises: ValueError for features of another preset, or none at all."""
    reader = features.reader([f"{name}.npy" for name in FEATURES])
    if len(reader) == 0:
        raise ValueError(
            f"the features generation {features.uri} is empty: run preprocess-ffhq on photographs with faces first"
        )
    sample = reader[0][1]
    moments, face, semantic = (from_npy(sample[f"{name}.npy"]) for name in ("moments", "face", "semantic"))
    if config.model == "debug":
        networks = debug_config(
            latent_size=moments.shape[1], semantic_width=semantic.shape[1], face_width=face.shape[0]
        )
    else:
        networks = {"tiny": tiny_config, "open": open_config, "paper": paper_config}[config.model]()
    found = (moments.shape[0] // 2, moments.shape[1], semantic.shape[1], face.shape[0])
    wanted = (networks.latent_channels, networks.latent_size, networks.semantic_width, networks.face_width)
    if found != wanted:
        raise ValueError(
            f"the features of {features.uri} have (latent channels, latent size, semantic width, face width) = {found} and "
            f"model={config.model!r} needs {wanted}: preprocess with the same preset"
        )
    return with_choices(config, networks)


def with_choices(config: TrainConfig, networks: InstaFaceConfig) -> InstaFaceConfig:
    """The networks of a model name with what the training chooses otherwise."""
    if config.conditioning is not None:
        networks = replace(networks, conditioning=config.conditioning)
    if config.identity is not None:
        networks = replace(networks, identity=config.identity)
    if config.min_snr_gamma is not None:
        networks = replace(networks, min_snr_gamma=config.min_snr_gamma or None)
    if config.noise_offset is not None:
        networks = replace(networks, noise_offset=config.noise_offset)
    if config.condition_dropout is not None:
        networks = replace(networks, condition_dropout=config.condition_dropout)
    return networks


def distinctive(networks: InstaFaceConfig) -> dict[str, Any]:
    """The fields that differ from their defaults: equal networks have equal names in versions with more options."""
    defaults = {field.name: field.default for field in fields(networks)}
    return {name: value for name, value in networks.to_json().items() if getattr(networks, name) != defaults[name]}

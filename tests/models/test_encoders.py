import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from small_networks import SMALL_VAE
from torch import Tensor

from models.encoders.codec import (
    KLCodec,
    TinyAutoencoderCodec,
    load_kl_codec,
    load_tiny_codec,
    mode,
    posterior_sample,
)
from models.encoders.efficientnet import load_efficientnet_lite0
from models.encoders.face_recognition import ArcFaceEncoder, DlibEncoder, arcface_crop, dlib_chip, similarity, warp
from models.encoders.patch_codec import PatchCosineCodec, cosine_basis, opponent_colours
from models.encoders.semantic import EfficientNetEncoder, load_clip_encoder, resized
from models.encoders.weight_files import dlib_weights, efficientnet_weights


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    """The public-domain portrait of scikit-image, (1, 3, 256, 256) in [-1, 1]."""
    picture = Image.fromarray(data.astronaut()).resize((256, 256), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


# --- Codecs ---


def test_patch_codec_is_an_orthonormal_projection(portrait: Tensor) -> None:
    codec = PatchCosineCodec()
    torch.testing.assert_close(cosine_basis() @ cosine_basis().T, torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(opponent_colours() @ opponent_colours().T, torch.eye(3, dtype=torch.float64))
    latents = mode(codec.moments(portrait))
    assert latents.shape == (1, 16, 32, 32)
    picture = codec.decode(latents)
    # What is kept is kept exactly, and what is lost is orthogonal to it: the best least-squares picture.
    torch.testing.assert_close(mode(codec.moments(picture)), latents, atol=1e-5, rtol=0)
    lost = portrait - picture
    assert abs((lost * picture).sum() / (lost.norm() * picture.norm())) < 1e-4
    assert 10 * torch.log10(4 / lost.square().mean()) > 24
    assert 0.5 < latents.square().mean() < 2


def test_patch_codec_draws_are_its_mean_and_black_decodes_to_black(portrait: Tensor) -> None:
    codec = PatchCosineCodec()
    moments = codec.moments(portrait)
    torch.testing.assert_close(posterior_sample(moments, torch.randn(1, 16, 32, 32)), mode(moments), atol=1e-5, rtol=0)
    black = torch.full((1, 3, 16, 16), -1.0)
    torch.testing.assert_close(codec.decode(mode(codec.moments(black))), black, atol=1e-5, rtol=0)
    assert codec.digest == PatchCosineCodec().digest


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (3, 64, 64), (1, 4, 64, 64)])
def test_codecs_name_what_is_wrong_with_a_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pictures of shape|multiples of 8"):
        PatchCosineCodec().moments(torch.zeros(shape))


def test_kl_codec_applies_the_scaling_inside(portrait: Tensor) -> None:
    vae = AutoencoderKL(**SMALL_VAE)
    codec = KLCodec(vae)
    assert (codec.channels, codec.factor) == (4, 2)
    with torch.no_grad():
        posterior = vae.encode(portrait).latent_dist
        expected = posterior.mean * 0.18215
        moments = codec.moments(portrait)
        torch.testing.assert_close(mode(moments), expected)
        # A draw in diffusion units is 0.18215 times the draw in the autoencoder's units.
        noise = torch.randn_like(expected)
        draw = posterior_sample(moments, noise)
        torch.testing.assert_close(draw, (posterior.mean + posterior.std * noise) * 0.18215, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(codec.decode(expected), vae.decode(posterior.mean).sample, atol=1e-5, rtol=1e-4)


def test_kl_codec_loads_from_folder_and_single_files(tmp_path: Path, portrait: Tensor) -> None:
    codec = KLCodec(AutoencoderKL(**SMALL_VAE))
    expected = codec.moments(portrait)
    codec.vae.save_pretrained(tmp_path / "model" / "vae")
    state = codec.vae.state_dict()
    save_file(state, tmp_path / "diffusers.safetensors")
    ldm = {f"first_stage_model.{_original_vae_name(key)}": value for key, value in state.items()}
    # Original files keep attention's linear maps as 1×1 convolutions.
    ldm = {k: v[..., None, None] if ".attn_1." in k and v.ndim == 2 else v for k, v in ldm.items()}
    save_file({k: v.contiguous() for k, v in ldm.items()}, tmp_path / "original.safetensors")
    for source in ("model", "model/vae", "diffusers.safetensors", "original.safetensors"):
        loaded = load_kl_codec(tmp_path / source, configuration=SMALL_VAE)
        assert torch.equal(loaded.moments(portrait), expected), source
        assert loaded.digest == codec.digest


def _original_vae_name(key: str) -> str:
    """diffusers' key → the key of the original latent-diffusion code, for the small autoencoder."""
    import re

    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    key = key.replace("mid_block.attentions.0", "mid.attn_1")
    for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = re.sub(rf"attn_1\.{ours}\.", f"attn_1.{theirs}.", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", key)
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def test_tiny_autoencoder_round_trip(tmp_path: Path, portrait: Tensor) -> None:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    codec = TinyAutoencoderCodec(vae)
    moments = codec.moments(portrait)
    assert moments.shape == (1, 8, 256 // codec.factor, 256 // codec.factor)
    assert codec.decode(mode(moments)).shape == portrait.shape
    vae.save_pretrained(tmp_path / "vae")
    assert torch.equal(load_tiny_codec(tmp_path).moments(portrait), moments)


def test_sources_that_cannot_be_loaded_say_why(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="pickled weights can run code"):
        load_kl_codec(tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_kl_codec(tmp_path)
    with pytest.raises(ValueError, match="neither a folder"):
        load_kl_codec(tmp_path / "absent")
    save_file({"decoder.conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="tensors of this configuration, first"):
        load_kl_codec(tmp_path / "other.safetensors", configuration=SMALL_VAE)


# --- Semantics ---


def test_efficientnet_recognises_a_cat_and_a_cup() -> None:
    network = load_efficientnet_lite0(str(efficientnet_weights()))
    for picture, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {967, 968, 504})):
        side = min(picture.shape[:2])
        x0 = (picture.shape[1] - side) // 2
        logits = network(resized([picture[:side, x0 : x0 + side]], 224) * 2 - 1)
        assert int(logits.argmax()) in classes


def test_efficientnet_tokens() -> None:
    encoder = EfficientNetEncoder()
    pictures = [data.astronaut()[:256, :256], data.coffee()[:256, :256]]
    tokens = encoder.encode(pictures)
    assert tokens.shape == (2, encoder.tokens, encoder.width)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(encoder.encode(pictures[1:])[0], tokens[1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="uint8 picture"):
        encoder.encode([np.zeros((8, 8), np.uint8)])
    with pytest.raises(ValueError, match="at least one"):
        encoder.encode([])


SMALL_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def test_clip_tokens_are_the_penultimate_states_from_every_form(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=SMALL_CLIP, text_config=text)).eval()
    whole.save_pretrained(tmp_path / "whole")
    model = CLIPVisionModel.from_pretrained(tmp_path / "whole").eval()
    model.save_pretrained(tmp_path / "model" / "image_encoder")
    picture = data.astronaut()[:56, :56]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        states = model((resized([picture], 28) - mean) / deviation, output_hidden_states=True).hidden_states
    assert len(states) == 4
    for source in ("whole", "model", "whole/model.safetensors", "model/image_encoder/model.safetensors"):
        encoder = load_clip_encoder(tmp_path / source, configuration=SMALL_CLIP)
        assert (encoder.tokens, encoder.width) == (5, 16)
        tokens = encoder.encode([picture])
        assert tokens.shape == (1, 5, 16)
        torch.testing.assert_close(tokens, states[2], msg=source)


# --- Face recognition ---


def test_similarity_recovers_a_similarity() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 2)) * 50
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    moved = 1.7 * points @ turn.T + np.array([4.0, -9.0])
    matrix = similarity(points, moved, weights=(6, 6, 3, 1, 1))
    np.testing.assert_allclose(matrix, np.hstack([1.7 * turn, [[4.0], [-9.0]]]), atol=1e-9)
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), moved)
    with pytest.raises(ValueError, match="equal"):
        similarity(points[:3], moved)


def test_dlib_chip_is_close_to_dlibs_own() -> None:
    """Where dlib's 68-landmark alignment puts the points of a real face, and what its recogniser makes of both."""
    import dlib

    image = data.astronaut()
    box = dlib.get_frontal_face_detector()(image, 1)[0]
    shape = dlib.shape_predictor(str(dlib_weights().with_name("shape_predictor_68_face_landmarks.dat")))(image, box)
    marks = np.array([[shape.part(i).x, shape.part(i).y] for i in range(68)], np.float64)
    five = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
    x, y = np.meshgrid(np.arange(512) / 2, np.arange(512) / 2)
    coordinates = np.ascontiguousarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))
    theirs = np.asarray(dlib.get_face_chip(coordinates, shape, 150, 0.25)).astype(float)
    ours = dlib_chip(coordinates, five).astype(float)
    assert 2 * np.abs(ours - theirs)[30:120, 30:120, :2].max() < 6  # pixels of the picture; the face is 90 wide
    encoder = DlibEncoder()
    chip = np.ascontiguousarray(np.asarray(dlib.get_face_chip(image, shape, 150, 0.25)))
    reference = np.asarray(encoder.network.compute_face_descriptor(chip))
    assert np.linalg.norm(encoder.embed(image, five) - reference) < 0.25


def test_dlib_embedding_knows_a_person_under_another_light() -> None:
    image = data.astronaut()
    # Landmarks of the portrait, read off the picture: eyes, nose tip, mouth corners.
    five = np.array([[204.0, 112.0], [247.0, 110.0], [226.0, 138.0], [206.0, 157.0], [247.0, 156.0]])
    encoder = DlibEncoder()
    vector = encoder.embed(image, five)
    assert vector.shape == (encoder.width,)
    assert vector.dtype == np.float32
    darker = (image * 0.6).astype(np.uint8)
    assert np.linalg.norm(vector - encoder.embed(darker, five)) < 0.3
    assert np.linalg.norm(vector - encoder.embed(data.coffee(), five)) > 0.6
    again = pickle.loads(pickle.dumps(encoder))  # noqa: S301
    np.testing.assert_array_equal(again.embed(image, five), vector)
    assert again.digest == encoder.digest


def test_warp_keeps_a_picture_under_the_identity() -> None:
    picture = np.ascontiguousarray(data.astronaut()[:64, :64])
    np.testing.assert_array_equal(warp(picture, np.array([[1.0, 0, 0], [0, 1, 0]]), 64), picture)


def test_arcface_embeds_the_aligned_face_through_insightface(tmp_path: Path) -> None:
    """A hand-made network in insightface's format: means of 28×28 tiles, mixed by a matrix."""
    onnx = pytest.importorskip("onnx")
    matrix = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    make = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            make("AveragePool", ["input"], ["tiles"], kernel_shape=[28, 28], strides=[28, 28]),
            make("Flatten", ["tiles"], ["row"]),
            make("MatMul", ["row", "matrix"], ["output"]),
        ],
        "recognition",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 3, 112, 112])],
        [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["N", 16])],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "recognition.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    encoder = ArcFaceEncoder(path)
    assert (encoder.width, encoder.size) == (16, 112)
    image = data.astronaut()
    five = np.array([[204.0, 112.0], [247.0, 110.0], [226.0, 138.0], [206.0, 157.0], [247.0, 156.0]])
    pixels = arcface_crop(image, five).astype(np.float32).transpose(2, 0, 1)  # RGB, (x − 127.5)/127.5
    tiles = ((pixels - 127.5) / 127.5).reshape(3, 4, 28, 4, 28).mean(axis=(2, 4)).reshape(-1)
    expected = tiles @ matrix
    np.testing.assert_allclose(encoder.embed(image, five), expected / np.linalg.norm(expected), atol=1e-5)
    again = pickle.loads(pickle.dumps(encoder))  # noqa: S301
    assert again.digest == encoder.digest
    with pytest.raises(ValueError, match="no ArcFace model"):
        ArcFaceEncoder(tmp_path / "absent.onnx")

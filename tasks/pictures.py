"""Pictures of results: tensors to PNG, contact sheets, PSNR."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from models.images import encode_png


def to_pixels(image_CHW: Tensor) -> NDArray[np.uint8]:
    """float in [0, 1], (3, H, W) → uint8 (H, W, 3)."""
    pixels: NDArray[np.uint8] = (image_CHW.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels)


def picture_bytes(image_CHW: Tensor) -> bytes:
    return encode_png(to_pixels(image_CHW))


def psnr(image: Tensor, reference: Tensor) -> float:
    """10·log10(1/MSE) in dB for pictures in [0, 1]; 99 where they are equal."""
    error = float((image.detach().cpu() - reference.cpu()).square().mean())
    return 99.0 if error == 0 else float(-10 * np.log10(error))


def contact_sheet(pictures: Sequence[tuple[str, NDArray[np.uint8]]], *, columns: int, side: int = 192) -> bytes:
    """Named pictures (H, W, 3) in rows, as PNG."""
    label = 18
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * (side + 6) + 6, rows * (side + label + 6) + 6), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, pixels) in enumerate(pictures):
        x, y = 6 + (number % columns) * (side + 6), 6 + (number // columns) * (side + label + 6)
        picture = ImageOps.contain(Image.fromarray(pixels), (side, side), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        draw.text((x + 2, y + side + 3), name, fill="black")
    return encode_png(np.asarray(sheet))


def stack(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """uint8 pictures (H, W, 3) → float (B, 3, H, W) in [0, 1]."""
    return torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]).float() / 255


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

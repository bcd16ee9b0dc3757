"""The Identity Preserver: semantic tokens and a face embedding → N identity tokens (paper §4, equation 2).

Attention and feed-forward layers in the structure of IP-Adapter's FaceID-Plus projection (arXiv:2308.06721):
N query tokens made from the face embedding attend to the semantic tokens and to one another. Nothing is kept
between calls.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.diffusion.config import InstaFaceConfig


class TokenAttention(nn.Module):
    """Perceiver attention (Alayrac et al. 2022, §3.1): queries attend to the context and to themselves,
    together."""

    def __init__(self, width: int, head_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = head_width * heads
        self.context_norm = nn.LayerNorm(width)
        self.query_norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, inner, bias=False)
        self.to_key_value = nn.Linear(width, 2 * inner, bias=False)
        self.to_output = nn.Linear(inner, width, bias=False)

    def forward(self, queries_BNW: Tensor, context_BLW: Tensor) -> Tensor:
        queries, context = self.query_norm(queries_BNW), self.context_norm(context_BLW)
        keys, values = self.to_key_value(torch.cat([context, queries], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_query(queries), keys, values))
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        output: Tensor = self.to_output(attended.transpose(1, 2).flatten(2))
        return output


class ResamplerLayer(nn.Module):
    """x ← x + attention(x, context); x ← x + feed-forward(x)."""

    def __init__(self, width: int, head_width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention = TokenAttention(width, head_width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, expansion * width, bias=False),
            nn.GELU(),
            nn.Linear(expansion * width, width, bias=False),
        )

    def forward(self, x_BNW: Tensor, context_BLW: Tensor) -> Tensor:
        attended = x_BNW + self.attention(x_BNW, context_BLW)
        output: Tensor = attended + self.feed_forward(attended)
        return output


class Resampler(nn.Module):
    """A stack of layers between two linear maps: context (B, L, D) and queries (B, N, W) → (B, N, output)."""

    def __init__(
        self, *, context_width: int, width: int, output_width: int, depth: int, heads: int, head_width: int,
        expansion: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input = nn.Linear(context_width, width)
        self.layers = nn.ModuleList(ResamplerLayer(width, head_width, heads, expansion) for _ in range(depth))
        self.output = nn.Linear(width, output_width)
        self.output_norm = nn.LayerNorm(output_width)

    def forward(self, queries_BNW: Tensor, context_BLD: Tensor) -> Tensor:
        context, x = self.input(context_BLD), queries_BNW
        for layer in self.layers:
            x = layer(x, context)
        output: Tensor = self.output_norm(self.output(x))
        return output


class LearnedQueryResampler(nn.Module):
    """A resampler whose queries are learned (IP-Adapter Plus): context (B, L, D) → (B, N, output).

    positions: a learned embedding for each of up to `positions` context tokens, added first. pooled: that
    many more queries, made from the mean of the context, come before the learned ones.
    """

    def __init__(
        self, *, context_width: int, width: int, output_width: int, depth: int, heads: int, head_width: int,
        queries: int, expansion: int = 4, positions: int = 0, pooled: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width) / width**0.5)
        self.positions = nn.Embedding(positions, context_width) if positions else None
        self.pooled = pooled
        self.pooled_queries = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width * pooled)) if pooled else None
        self.resampler = Resampler(
            context_width=context_width, width=width, output_width=output_width, depth=depth, heads=heads,
            head_width=head_width, expansion=expansion,
        )  # fmt: skip

    def forward(self, context_BLD: Tensor) -> Tensor:
        context = context_BLD
        if self.positions is not None:
            context = context + self.positions.weight[: context.shape[1]]
        queries = self.queries.expand(len(context), -1, -1)
        if self.pooled_queries is not None:
            mean = self.resampler.input(context).mean(dim=1)
            queries = torch.cat([self.pooled_queries(mean).unflatten(-1, (self.pooled, -1)), queries], dim=1)
        output: Tensor = self.resampler(queries, context)
        return output


class ImageProjection(nn.Module):
    """One linear map of a pooled image embedding (IP-Adapter): (B, D) → (B, N, W), normalised."""

    def __init__(self, *, width: int, token_width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.linear = nn.Linear(width, tokens * token_width)
        self.norm = nn.LayerNorm(token_width)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.linear(embedding_BD).unflatten(-1, (self.tokens, -1)))
        return tokens


class FaceProjection(nn.Module):
    """Two linear maps of a face embedding (IP-Adapter FaceID): (B, D) → (B, N, W), normalised."""

    def __init__(self, *, face_width: int, token_width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.layers = nn.Sequential(
            nn.Linear(face_width, face_width * 2), nn.GELU(), nn.Linear(face_width * 2, tokens * token_width)
        )
        self.norm = nn.LayerNorm(token_width)

    def forward(self, face_BD: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.layers(face_BD).unflatten(-1, (self.tokens, -1)))
        return tokens


class ContextProjection(nn.Module):
    """Semantic tokens one by one: (B, L, D) → (B, L, W), normalised."""

    def __init__(self, *, semantic_width: int, token_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(semantic_width, token_width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(token_width),
            nn.Linear(token_width, 4 * token_width),
            nn.GELU(),
            nn.Linear(4 * token_width, token_width),
        )
        self.norm = nn.LayerNorm(token_width)

    def forward(self, semantic_BLD: Tensor) -> Tensor:
        x = self.linear(semantic_BLD)
        tokens: Tensor = self.norm(x + self.feed_forward(x))
        return tokens


class IdentityPreserver(nn.Module):
    """Semantic tokens (B, L, D), face embedding (B, F) → identity tokens (B, N, W).

    `identity="both"` is FaceID-Plus; "semantic_only" uses learned queries and no face, "face_only" no
    semantics. With `identity_context` (and semantics) L more tokens follow: (B, N+L, W).
    """

    def __init__(self, config: InstaFaceConfig) -> None:
        super().__init__()
        self.shortcut = config.identity_shortcut
        heads = config.token_width // config.identity_head_width
        self.face: FaceProjection | None = None
        self.resampler: Resampler | LearnedQueryResampler | None = None
        sizes = {
            "context_width": config.semantic_width,
            "width": config.token_width,
            "output_width": config.token_width,
            "depth": config.identity_depth,
            "heads": heads,
            "head_width": config.identity_head_width,
        }
        if config.identity != "semantic_only":
            self.face = FaceProjection(
                face_width=config.face_width, token_width=config.token_width, tokens=config.tokens
            )
        if config.identity == "both":
            self.resampler = Resampler(**sizes)
        elif config.identity == "semantic_only":
            self.resampler = LearnedQueryResampler(**sizes, queries=config.tokens)
        self.context: ContextProjection | None = None
        if config.identity_context and config.identity != "face_only":
            self.context = ContextProjection(semantic_width=config.semantic_width, token_width=config.token_width)

    def forward(self, semantic_BLD: Tensor, face_BD: Tensor) -> Tensor:
        tokens = self._identity_tokens(semantic_BLD, face_BD)
        return tokens if self.context is None else torch.cat([tokens, self.context(semantic_BLD)], dim=1)

    def _identity_tokens(self, semantic_BLD: Tensor, face_BD: Tensor) -> Tensor:
        if isinstance(self.resampler, LearnedQueryResampler):
            semantic_tokens: Tensor = self.resampler(semantic_BLD)
            return semantic_tokens
        assert self.face is not None
        face_tokens: Tensor = self.face(face_BD)
        if self.resampler is None:
            return face_tokens
        tokens: Tensor = self.resampler(face_tokens, semantic_BLD)
        return face_tokens + self.shortcut * tokens if self.shortcut else tokens


# IP-Adapter's names: `proj`, `norm`, `perceiver_resampler.…` for FaceID-Plus, the bare resampler for Plus.
_RESAMPLER_NAMES = (
    ("input.", "proj_in."),
    ("output.", "proj_out."),
    ("output_norm.", "norm_out."),
)
_LAYER_NAMES = (
    ("attention.context_norm.", "0.norm1."),
    ("attention.query_norm.", "0.norm2."),
    ("attention.to_query.", "0.to_q."),
    ("attention.to_key_value.", "0.to_kv."),
    ("attention.to_output.", "0.to_out."),
    ("feed_forward.0.", "1.0."),
    ("feed_forward.1.", "1.1."),
    ("feed_forward.3.", "1.3."),
)
_FACE_NAMES = (("layers.0.", "proj.0."), ("layers.2.", "proj.2."), ("norm.", "norm."))
_LEARNED_NAMES = (
    ("pooled_queries.0.", "to_latents_from_mean_pooled_seq.0."),
    ("pooled_queries.1.", "to_latents_from_mean_pooled_seq.1."),
    ("positions.", "pos_emb."),
)


def ip_adapter_name(key: str) -> str:
    """The IP-Adapter key of one of our keys. ValueError for a key that has none."""
    if key.startswith("face."):
        return _renamed(key.removeprefix("face."), _FACE_NAMES)
    if key.startswith("resampler.") and not key.startswith(("resampler.queries", "resampler.resampler.")):
        return "perceiver_resampler." + _resampler_name(key.removeprefix("resampler."))
    raise ValueError(f"{key} has no counterpart in an IP-Adapter FaceID-Plus checkpoint")


def learned_query_name(key: str) -> str:
    """The IP-Adapter Plus key of a key of LearnedQueryResampler."""
    if key == "queries":
        return "latents"
    if key.startswith("resampler."):
        return _resampler_name(key.removeprefix("resampler."))
    return _renamed(key, _LEARNED_NAMES)


def to_ip_adapter(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An IdentityPreserver's state ("both" or "face_only") under IP-Adapter FaceID-Plus names."""
    return {ip_adapter_name(key): tensor for key, tensor in state.items()}


def from_ip_adapter(state: Mapping[str, Tensor], model: IdentityPreserver) -> None:
    """Load an IP-Adapter FaceID-Plus projection into `model`, strictly.

    `state` holds the projection's tensors, bare or as `image_proj.…` of a whole adapter file. Raises
    ValueError when a tensor is missing, unknown or of another shape, naming it.
    """
    if any(key.startswith("image_proj.") for key in state):
        state = {k.removeprefix("image_proj."): v for k, v in state.items() if k.startswith("image_proj.")}
    wanted = {key: ip_adapter_name(key) for key in model.state_dict()}
    missing, unknown = set(wanted.values()) - set(state), set(state) - set(wanted.values())
    if missing or unknown:
        raise ValueError(
            f"not a FaceID-Plus projection of this depth: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}"
        )
    for key, tensor in model.state_dict().items():
        if state[wanted[key]].shape != tensor.shape:
            raise ValueError(
                f"{wanted[key]} is {tuple(state[wanted[key]].shape)} in the file, {tuple(tensor.shape)} in the model"
            )
    model.load_state_dict({key: state[name] for key, name in wanted.items()}, strict=True)


def _resampler_name(key: str) -> str:
    if key.startswith("layers."):
        _, index, rest = key.split(".", 2)
        return f"layers.{index}.{_renamed(rest, _LAYER_NAMES)}"
    return _renamed(key, _RESAMPLER_NAMES)


def _renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in names:
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ValueError(f"{key} has no counterpart in IP-Adapter")

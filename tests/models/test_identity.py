"""The Identity Preserver: what its tokens may and may not depend on. Numbers are in tests/parity."""

from typing import Any

import pytest
import torch
from small_networks import batch_of, small_config

from models.diffusion.identity import IdentityPreserver, LearnedQueryResampler, from_ip_adapter, to_ip_adapter


def _preserver(**changes: Any) -> IdentityPreserver:
    torch.manual_seed(0)
    return IdentityPreserver(small_config(**changes))


@pytest.mark.parametrize(
    ("kind", "uses_semantics", "uses_face"),
    [("both", True, True), ("semantic_only", True, False), ("face_only", False, True)],
)
def test_each_variant_sees_what_it_is_named_for(kind: str, uses_semantics: bool, uses_face: bool) -> None:
    model = _preserver(identity=kind)
    one, other = batch_of(small_config(), 3), batch_of(small_config(), 3, "other")
    with torch.no_grad():
        tokens = model(one["semantic"], one["face"])
        assert tokens.shape == (3, 4, 64)
        assert torch.equal(model(other["semantic"], one["face"]), tokens) != uses_semantics
        assert torch.equal(model(one["semantic"], other["face"]), tokens) != uses_face


@pytest.mark.parametrize("kind", ["both", "semantic_only", "face_only"])
def test_every_parameter_of_every_variant_receives_gradient(kind: str) -> None:
    model, batch = _preserver(identity=kind), batch_of(small_config(), 2)
    model(batch["semantic"], batch["face"]).square().mul(torch.arange(64.0)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_order_of_semantic_tokens_does_not_matter_and_rows_do_not_mix() -> None:
    model, batch = _preserver(), batch_of(small_config(), 3)
    with torch.no_grad():
        tokens = model(batch["semantic"], batch["face"])
        shuffled = model(batch["semantic"].flip(1), batch["face"])
        torch.testing.assert_close(shuffled, tokens, atol=1e-5, rtol=1e-5)
        alone = model(batch["semantic"][1:2], batch["face"][1:2])
        torch.testing.assert_close(alone, tokens[1:2], atol=1e-5, rtol=1e-5)


def test_nothing_is_kept_between_calls() -> None:
    model, batch = _preserver(), batch_of(small_config(), 2)
    before = {key: id(value) for key, value in vars(model).items()}
    with torch.no_grad():
        first = model(batch["semantic"], batch["face"])
        model(batch["semantic"].flip(0), batch["face"])
        assert torch.equal(model(batch["semantic"], batch["face"]), first)
    assert {key: id(value) for key, value in vars(model).items()} == before


def test_the_shortcut_adds_the_face_tokens() -> None:
    plain, short = _preserver(), _preserver(identity_shortcut=0.7)
    short.load_state_dict(plain.state_dict())
    batch = batch_of(small_config(), 2)
    with torch.no_grad():
        assert plain.face is not None
        expected = plain.face(batch["face"]) + 0.7 * plain(batch["semantic"], batch["face"])
        torch.testing.assert_close(short(batch["semantic"], batch["face"]), expected)


def test_ip_adapter_names_round_trip_and_have_no_counterpart_for_learned_queries() -> None:
    model, other = _preserver(), _preserver(tokens=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    from_ip_adapter(to_ip_adapter(model.state_dict()), other)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="no counterpart"):
        to_ip_adapter(_preserver(identity="semantic_only").state_dict())


def test_pooled_queries_come_first() -> None:
    torch.manual_seed(0)
    model = LearnedQueryResampler(
        context_width=8, width=16, output_width=12, depth=1, heads=2, head_width=8, queries=3, positions=10, pooled=2
    )
    with torch.no_grad():
        assert model(torch.randn(2, 7, 8)).shape == (2, 5, 12)

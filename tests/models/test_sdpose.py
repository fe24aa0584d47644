from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdpose.losses import JointsMSELoss, MaskedTokenDistilLoss, PoseLoss
from sdpose.models import MODELS, SDPose
from sdpose.models.hrnet import HRNet3Stage
from sdpose.models.layers import Attention, patches
from sdpose.models.stemnet import StemNet


def small(**changes: Any) -> SDPose:
    """For images of 96x128: 8 x 8 vision tokens."""
    numbers: dict[str, Any] = {
        "feature_size": (32, 24),
        "heatmap_size": (32, 24),
        "patch_size": (4, 3),
        "dim": 32,
        "depth": 2,
        "heads": 4,
        "cycle_num": 2,
    }
    return SDPose(backbone=StemNet(width=8, num_blocks=1), **numbers | changes)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))


def test_initialisation_has_the_official_moments() -> None:
    """N(0, 0.001) in the backbone, N(0, 0.02) in the head; every bias 0, every norm 1."""
    model = MODELS["sdpose_b"]()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            std = 0.001 if isinstance(module, nn.Conv2d) else 0.02
            weight = module.weight.detach().double() / std
            # 5 sigma of each sample moment of a normal distribution.
            sigma = weight.numel() ** -0.5
            assert abs(weight.mean()) < 5 * sigma, name
            assert abs(weight.square().mean() - 1) < 5 * 2**0.5 * sigma, name
            assert abs(weight.pow(4).mean() - 3) < 5 * 96**0.5 * sigma, name
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert module.eps == 1e-5
    assert model.keypoint_tokens.std().item() == pytest.approx(0.02, rel=0.1)
    assert small(pos_embedding_type="learnable").position_embedding.std().item() == pytest.approx(
        0.02, rel=0.1
    )


def test_patches_are_cut_row_by_row_with_channels_fastest() -> None:
    feature = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    expected = torch.stack(
        [
            torch.cat([feature[:, :, y + p, x + q] for p in range(2) for q in range(3)], dim=1)
            for y in (0, 2)
            for x in (0, 3)
        ],
        dim=1,
    )
    assert torch.equal(patches(feature, (2, 3)), expected)


@pytest.mark.parametrize("kind", ["sine-full", "sine", "learnable"])
def test_where_positions_are_added(images: Tensor, kind: str) -> None:
    """The plain definition, layer by layer, against the model's one addition per layer."""
    model = small(pos_embedding_type=kind, depth=3).eval()
    nn.init.normal_(model.position_embedding)
    positions = model.position_embedding
    with torch.no_grad():
        vision = model.patch_embedding(patches(model.backbone(images), model.patch_size))
        keypoints = model.keypoint_tokens.expand(2, -1, -1)
        if kind == "learnable":
            x = torch.cat((keypoints, vision), dim=1) + positions
        else:
            x = torch.cat((keypoints, vision + positions), dim=1)
        expected = []
        for _ in range(2):
            for index, layer in enumerate(model.layers):
                if kind == "sine-full" and index > 0:
                    x = torch.cat((x[:, :17], x[:, 17:] + positions), dim=1)
                x = layer(x)
            expected.append(x)
        for output, tokens in zip(model(images), expected, strict=True):
            assert torch.equal(output.keypoint_tokens, tokens[:, :17])
            assert torch.equal(output.vision_tokens, tokens[:, 17:])
    assert (kind == "learnable") == isinstance(positions, nn.Parameter)


def test_predict_runs_the_first_cycle_only(images: Tensor) -> None:
    model = small(cycle_num=3).eval()
    calls = []
    model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        heatmaps = model.predict(images)
        assert len(calls) == 1
        outputs = model(images)
    assert len(calls) == 4
    assert len(outputs) == 3
    assert torch.equal(heatmaps, outputs[0].heatmaps)
    assert heatmaps.shape == (2, 17, 32, 24)


def test_attention_maps_are_those_that_attend(images: Tensor) -> None:
    attention = Attention(dim=32, heads=4).eval()
    x = torch.randn(2, 9, 32)
    values = attention.qkv(x)[..., 64:].unflatten(-1, (4, 8)).transpose(1, 2)
    mixed = attention.out((attention.weights(x) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, attention(x))

    model = small().eval()
    with torch.no_grad():
        plain, with_maps = model(images), model(images, return_attention=True)
    for without, output in zip(plain, with_maps, strict=True):
        assert without.attention is None
        assert output.attention.shape == (2, 4, 17 + 64, 17 + 64)
        torch.testing.assert_close(output.attention.sum(-1), torch.ones(2, 4, 81))
        assert torch.equal(output.heatmaps, without.heatmaps)


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_the_training_step_is_one_graph(images: Tensor, autocast: bool) -> None:
    """No branch depends on data, so that torch.compile needs no break (`fullgraph`).
    test_export.py traces the backbone of SDPose-B."""
    torch.manual_seed(0)
    model = small(depth=1).eval()
    loss = PoseLoss(
        keypoint=JointsMSELoss(),
        vision_tokens=MaskedTokenDistilLoss(mask_strategy="random"),
        keypoint_tokens=MaskedTokenDistilLoss(mask_strategy="importance"),
    )
    targets, weights, sample_keys = torch.rand(2, 17, 32, 24), torch.ones(2, 17), torch.arange(2)

    def step(images: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return loss(model(images), targets, weights, sample_keys)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert compiled(images) == step(images)


@pytest.mark.parametrize("backbone", [StemNet, HRNet3Stage])
def test_channels_last_gives_the_same(images: Tensor, backbone: type[StemNet]) -> None:
    torch.manual_seed(0)
    features = backbone(width=8, num_blocks=2).eval()
    channels_last = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = features(images)
        actual = features.to(memory_format=torch.channels_last)(channels_last)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(patches(actual, (4, 3)), patches(actual.contiguous(), (4, 3)))

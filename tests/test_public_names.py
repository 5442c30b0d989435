"""Every name that the course promises, called as its readers call it: arguments by name and by place,
on inputs so small that only the call is tested, not what comes of it.
"""

import numpy as np
import pytest
import torch
from explorer_model import small_clips, small_explorer
from torch import nn

from course_lib.data import OpticalFlowComputer, OpticalFlowSequenceLoader
from course_lib.explorer import (
    AttentionExplorer,
    ImbalanceAwareAttentionExplorer,
    PersonalityExplorer,
)
from course_lib.lessons import check, hint, progress, reveal
from course_lib.looking import get_model_summary, get_param_count
from course_lib.models import (
    I3D,
    CompletePersonalityModel,
    CrossAttention,
    DynamicFeatureExtractor,
    FeatureFusionModule,
    PersonalityPredictionHead,
    StaticFeatureExtractor,
    TokenCrossAttention,
    TokenPersonalityModel,
    VisualizableCrossAttention,
    inflate,
)
from course_lib.pictures import compare_models, plot_attention_map, visualize_feature_maps
from course_lib.recorder import (
    AttentionRecorder,
    AttentionVisualizer,
    get_attention_weights,
    visualize_during_inference,
)
from course_lib.training import FocalLoss, ModelSerializer, calculate_aggressive_pos_weights

WEIGHTS = torch.randn(1, 4, 8, 8).softmax(-1)


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def test_complete_personality_model():
    model = CompletePersonalityModel(
        static_dim=512, dynamic_dim=256, fusion_dim=128, num_heads=4, dropout_rate=0.3
    )
    assert get_param_count(model) == get_param_count(CompletePersonalityModel()) == 371_717
    assert sum(parameter.numel() for parameter in model.parameters()) == 371_461
    assert "371,717" in get_model_summary(model)
    assert model(torch.randn(2, 512), torch.randn(2, 256)).shape == (2, 5)
    assert CompletePersonalityModel(20, 12, 16, 2, 0.1).eval()(
        torch.randn(1, 20), torch.randn(1, 12)
    ).shape == (1, 5)


def test_token_personality_model():
    model = TokenPersonalityModel(
        static_dim=20, dynamic_dim=12, fusion_dim=16, num_heads=2, dropout_rate=0.3
    )
    assert model(torch.randn(2, 49, 20), torch.randn(2, 8, 12)).shape == (2, 5)


def test_visualizable_cross_attention():
    attention = VisualizableCrossAttention(16, 12, 10, heads=2)
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 5, 12), torch.randn(2, 5, 10)
    assert attention(query, key, value).shape == (2, 3, 16)
    assert attention.last_attn_weights.shape == (2, 2, 3, 5)
    assert VisualizableCrossAttention(query_dim=16, key_dim=16, value_dim=16).heads == 8


def test_cross_attention():
    assert CrossAttention()(torch.randn(2, 512), torch.randn(2, 256)).shape == (2, 128)
    tokens = TokenCrossAttention(24, 12, dim=16, heads=2)
    assert tokens(torch.randn(2, 49, 24), torch.randn(2, 8, 12)).shape == (2, 16)


def test_fusion_and_head():
    fused = FeatureFusionModule(128)(torch.randn(4, 128))
    assert PersonalityPredictionHead(128)(fused).shape == (4, 5)


def test_static_feature_extractor():
    extractor = StaticFeatureExtractor(weights=None).eval()
    image = torch.rand(1, 3, 112, 112)
    assert extractor(image).shape == (1, 2048)
    assert extractor.tokens(image).shape == (1, 49, 2048)


def test_dynamic_feature_extractor():
    extractor = DynamicFeatureExtractor(weights=None).eval()
    flow = torch.randn(1, 8, 32, 32, 2)
    assert extractor(flow).shape == (1, 1024)
    assert extractor.tokens(flow).shape == (1, 2, 1024)
    assert isinstance(extractor.backbone, I3D)


def test_i3d_and_inflate():
    assert I3D()(torch.randn(1, 2, 8, 32, 32)).shape == (1, 1024, 2, 1, 1)
    assert I3D(channels=3).conv1.conv.in_channels == 3
    assert inflate(nn.Conv2d(3, 4, 3, padding=1)).weight.shape == (4, 3, 3, 3, 3)


def test_optical_flow_computer():
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 40, 3), np.uint8)
    computer = OpticalFlowComputer(method="dis", preset="medium")
    assert computer.between(frames[0], frames[1]).shape == (32, 40, 2)
    assert computer(frames).shape == (2, 32, 40, 2)


def test_optical_flow_sequence_loader(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 40, 3), np.uint8)
    loader = OpticalFlowSequenceLoader([frames], frames=4, stride=4, size=32, method="dis")
    assert loader[0]["flow"].shape == (4, 32, 32, 2)


def test_model_serializer(tmp_path):
    sizes = {"static_dim": 20, "dynamic_dim": 12, "fusion_dim": 16, "num_heads": 2}
    model, serializer = CompletePersonalityModel(**sizes), ModelSerializer(tmp_path)
    assert serializer.save(model, "small", sizes, scores={"ccc": 0.5}) == 1
    loaded, metadata = serializer.load(CompletePersonalityModel, "small")
    assert metadata["scores"] == {"ccc": 0.5}
    assert torch.equal(loaded.head.layers[0].weight, model.head.layers[0].weight)


def test_compare_models(tmp_path):
    small, large = CompletePersonalityModel(20, 12, 8, 2), CompletePersonalityModel(20, 12, 16, 2)
    comparison = compare_models(
        model_a=small,
        model_b=large,
        name_a="small",
        name_b="large",
        save_path=tmp_path / "both.png",
    )
    assert (tmp_path / "both.png").exists()
    assert "small" in str(comparison)
    compare_models(small, large, "small", "large", tmp_path / "again.png", rounds=1)
    assert (tmp_path / "again.png").exists()


def test_visualize_feature_maps(tmp_path):
    network, images = nn.Sequential(nn.Conv2d(3, 6, 3)), torch.rand(2, 3, 16, 16)
    visualize_feature_maps(
        model=network, layer_name="0", input_data=images, save_dir=tmp_path, max_maps=4
    )
    assert len(list(tmp_path.iterdir())) == 1
    assert visualize_feature_maps(network, "0", images, tmp_path, 4).description


def test_attention_weights_and_their_map(tmp_path):
    block = TokenCrossAttention(24, 12, dim=16, heads=2)
    weights = get_attention_weights(block, torch.randn(2, 6, 24), torch.randn(2, 8, 12))
    assert weights.shape == (2, 2, 6, 8)
    plot_attention_map(weights, tmp_path / "map.png")
    assert (tmp_path / "map.png").exists()


def test_focal_loss_and_its_weights(capsys):
    weights = calculate_aggressive_pos_weights([0.5, 0.01], cap=50.0, names=["Smiling", "Bald"])
    assert weights.tolist() == pytest.approx([1 / 0.501, 50])
    assert "Bald" in capsys.readouterr().out
    loss = FocalLoss(gamma=2, pos_weight=weights)
    assert loss(torch.randn(4, 2), torch.ones(4, 2)) > 0
    assert FocalLoss()(torch.randn(4, 2), torch.ones(4, 2)).ndim == 0


def test_attention_visualizer(tmp_path):
    model, tokens = encoder(), torch.randn(1, 5, 16)
    visualizer = AttentionVisualizer()
    visualizer.register_hooks(model)
    model(tokens)
    visualizer.clear_hooks()
    assert len(visualizer.sequence) == 1
    assert len(visualizer.extract_attention_weights(model, tokens)) == 2
    assert len(visualizer.extract_attention_weights(model, tokens, layer_idx=-1)) == 1
    visualizer.visualize_attention_heatmap(WEIGHTS, tmp_path / "map.png", title="Layer 0")
    visualizer.visualize_multi_head_attention(WEIGHTS, tmp_path / "heads.png")
    visualizer.visualize_part_attention(WEIGHTS, 4, tmp_path / "parts.png")
    visualizer.create_attention_animation([WEIGHTS, WEIGHTS], tmp_path / "film.gif", fps=4)
    assert len(list(tmp_path.iterdir())) == 4


def test_visualize_during_inference(tmp_path):
    model = encoder()

    def pipeline(image, num_inference_steps, callback, callback_steps=1):
        for step in range(num_inference_steps):
            model(image * step)
            callback(step, step / num_inference_steps, image)

    steps = visualize_during_inference(
        pipeline, model, torch.randn(1, 5, 16), tmp_path, num_inference_steps=2
    )
    assert [len(step) for step in steps] == [2, 2]
    assert len(list(tmp_path.iterdir())) == 4


def test_attention_recorder():
    model = encoder()
    with AttentionRecorder(model) as recording:
        model(torch.randn(1, 5, 16))
    assert [record.shape for record in recording.records] == [(1, 2, 5, 5)] * 2


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: small_explorer(n=2, aware=False), AttentionExplorer),
        (lambda: small_explorer(n=2), ImbalanceAwareAttentionExplorer),
        (lambda: small_clips(n=2), PersonalityExplorer),
    ],
)
def test_explorers(make, kind):
    explorer = make()
    assert type(explorer) is kind
    assert explorer.create_interactive_viewer(sample=1).sample == 1


def test_exercises(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert check("mean_accuracy", lambda prediction, target: ...) is not None
    hint("mean_accuracy")
    reveal("mean_accuracy")
    progress()
    assert "mean_accuracy" in capsys.readouterr().out

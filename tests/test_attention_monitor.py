"""Attention watched while a model learns: what is recorded, that watching changes nothing, and that
it resumes.
"""

import math

import numpy as np
import pytest
import torch
from test_fit import Killed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib.models import CompletePersonalityModel, TokenPersonalityModel
from course_lib.recorder import AttentionMonitor
from course_lib.training import Checkpoints, MetricLog, fit

FACE, MOTION = torch.randn(32, 3, 6), torch.randn(32, 5, 4)


def token_model() -> nn.Module:
    torch.manual_seed(2)
    return TokenPersonalityModel(6, 4, fusion_dim=8, num_heads=2)


def train(model, *callbacks, epochs=3, inputs=(FACE, MOTION)):
    data = TensorDataset(*inputs, torch.rand(32, 5, generator=torch.Generator().manual_seed(0)))
    return fit(
        model,
        DataLoader(data, 8, shuffle=True),
        DataLoader(data, 16),
        epochs=epochs,
        callbacks=callbacks,
        optimizer=torch.optim.Adam(model.parameters(), 0.02),
    )


def test_each_epoch_is_recorded_as_the_model_itself_shows_it():
    model, seen = token_model(), []

    class Look:
        def start(self, run):
            self.after_epoch(run)

        def after_epoch(self, run):
            layer = run.model.eval().cross_attention.attention
            layer.record = True
            with torch.no_grad():
                run.model(FACE[:4], MOTION[:4])
            seen.append(layer.last_attn_weights)
            layer.record = False

    monitor = AttentionMonitor(FACE[:4], MOTION[:4])
    run = train(model, Look(), monitor)
    assert len(monitor.rows) == len(monitor.maps) == len(seen) == 4
    for row, values, weights in zip(monitor.rows, monitor.maps, seen, strict=True):
        torch.testing.assert_close(values, weights.mean((0, 1)))
        entropy = -(weights * weights.log()).sum(-1)
        assert row["entropy"] == pytest.approx(entropy.mean().item(), rel=1e-5)
        assert row["support"] == pytest.approx(entropy.exp().mean().item(), rel=1e-5)
        assert row["sink"] == pytest.approx(weights.mean(2).amax(-1).mean().item(), rel=1e-5)
    assert run.log["attention_entropy"] == monitor.rows[-1]["entropy"]


def test_watching_changes_nothing():
    plain, watched = token_model(), token_model()
    train(plain)
    train(watched, AttentionMonitor(FACE[:4], MOTION[:4]))
    for one, other in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("watcher_first", [True, False])
def test_it_goes_on_after_a_cut(tmp_path, watcher_first):
    class Cut:
        def after_step(self, run):
            if run.step == 6:
                raise Killed

    def callbacks(folder):
        pair = [AttentionMonitor(FACE[:4], MOTION[:4]), Checkpoints(folder, minutes=0)]
        return [*(pair if watcher_first else pair[::-1]), MetricLog(folder)]

    whole = train(token_model(), *callbacks(tmp_path / "whole"))
    with pytest.raises(Killed):
        train(token_model(), *callbacks(tmp_path / "cut"), Cut())
    resumed = train(token_model(), *callbacks(tmp_path / "cut"))
    first, second = (
        next(callback for callback in run.callbacks if isinstance(callback, AttentionMonitor))
        for run in (whole, resumed)
    )
    assert first.rows == second.rows
    assert torch.equal(first.maps, second.maps)
    assert (tmp_path / "whole" / "log.csv").read_text() == (
        tmp_path / "cut" / "log.csv"
    ).read_text()


def test_a_collapse_is_noticed_in_the_epoch_it_happens():
    model = token_model()

    class Collapse:
        def after_epoch(self, run):
            if run.epoch == 2:  # every query now looks at the first moment
                with torch.no_grad():
                    run.model.cross_attention.key_norm.weight.zero_()
                    run.model.cross_attention.key_norm.bias.fill_(1)

    monitor = AttentionMonitor(FACE[:4], MOTION[:4])
    train(model, Collapse(), monitor)
    assert "same for every input" not in " ".join(
        " ".join(row["found"]) for row in monitor.rows[:2]
    )
    assert "the same for every input" in monitor.rows[2]["found"]
    names = [text.get_text() for text in monitor.plot().figure.axes[0].get_legend().get_texts()]
    assert any("the same for every input" in name for name in names)


def test_one_key_is_always_ill():
    inputs = torch.randn(32, 6), torch.randn(32, 4)
    monitor = AttentionMonitor(*(values[:4] for values in inputs))
    train(
        CompletePersonalityModel(6, 4, fusion_dim=8, num_heads=2), monitor, epochs=1, inputs=inputs
    )
    assert [row["found"] for row in monitor.rows] == [["one key only"]] * 2
    monitor.plot()
    monitor.animate()


def test_the_picture_shows_every_epoch_and_the_uniform_line():
    monitor = AttentionMonitor(FACE[:4], MOTION[:4])
    train(token_model(), monitor)
    picture = monitor.plot()
    lines = {line.get_label(): line.get_ydata() for line in picture.figure.axes[0].lines}
    assert list(lines["this model"]) == [row["entropy"] for row in monitor.rows]
    assert set(lines["uniform attention"]) == {math.log(5)}
    assert f"to {monitor.rows[-1]['entropy']:.2f} (uniform: 1.61)" in picture.description
    assert "over 3 epochs" in picture.description
    assert all(row["low"] <= row["entropy"] <= row["high"] for row in monitor.rows)
    (band,) = picture.figure.axes[0].collections
    heights = set(band.get_paths()[0].vertices[:, 1].tolist())
    assert {row[side] for row in monitor.rows for side in ("low", "high")} <= heights


def test_the_animation_has_a_frame_for_each_epoch_on_one_scale(tmp_path):
    monitor = AttentionMonitor(FACE[:4], MOTION[:4])
    monitor.rows = [
        {"entropy": 1.5, "low": 1.4, "high": 1.6, "support": 4.0, "sink": 0.3, "found": []}
        for _ in range(3)
    ]
    monitor.maps = torch.stack([torch.full((3, 5), 0.2), torch.full((3, 5), 0.2), torch.eye(5)[:3]])
    animation = monitor.animate()
    assert len(animation.frames) == 3
    assert (
        "largest weight goes from 0.20 untrained to 1.00 (uniform: 0.20)" in animation.description
    )
    middle = [frame[:, : frame.shape[1] // 2] for frame in animation.frames]
    darker = np.percentile(middle[0].mean(2), 30) < np.percentile(middle[2].max(2), 99)
    assert darker
    assert (middle[0] == middle[1]).mean() > 0.98  # only the title differs
    assert animation.save(tmp_path / "maps.gif").stat().st_size > 1000


def test_an_unknown_layer_or_a_model_without_attention_is_refused():
    with pytest.raises(
        ValueError, match=r"no attention 'encoder' in TokenPersonalityModel; it has cross_at"
    ):
        train(token_model(), AttentionMonitor(FACE[:4], MOTION[:4], layer="encoder"))
    train(
        token_model(),
        AttentionMonitor(FACE[:4], MOTION[:4], layer="cross_attention.attention"),
        epochs=1,
    )
    data = TensorDataset(torch.randn(8, 4), torch.randn(8, 2))
    with (
        pytest.warns(UserWarning, match="has no attention"),
        pytest.raises(ValueError, match="in Linear; it has none that a recorder sees"),
    ):
        fit(
            nn.Linear(4, 2),
            DataLoader(data, 4),
            epochs=1,
            callbacks=[AttentionMonitor(torch.randn(2, 4))],
        )

"""Training cut off anywhere goes on exactly."""

import pytest
import torch
from torch import nn

from course_lib.training.fit import fit_steps


def a_run(checkpoint, cut_at: int | None) -> tuple[nn.Module, int]:
    """Train a small model for 12 steps; `cut_at` stops it there."""
    torch.manual_seed(0)
    model, data, calls = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), torch.randn(64, 4), 0

    def loss_at(step: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if step == cut_at:
            raise KeyboardInterrupt
        return model(data[torch.randint(0, 64, (8,))]).square().mean()

    fit_steps(model, loss_at, 12, 1e-2, checkpoint, checkpoint_seconds=-1)
    return model, calls


@pytest.mark.parametrize("cut_at", [1, 7, 11])
def test_a_cut_off_run_goes_on_exactly(tmp_path, cut_at):
    whole, _ = a_run(tmp_path / "whole.pt", None)
    with pytest.raises(KeyboardInterrupt):
        a_run(tmp_path / "cut.pt", cut_at)
    resumed, calls = a_run(tmp_path / "cut.pt", None)
    assert calls == 12 - cut_at
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pt", "whole.pt"]


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state_kept(tmp_path):
    model = nn.Linear(2, 1)

    def loss_at(step: int) -> torch.Tensor:
        return model(torch.ones(1, 2)).sum() * (float("nan") if step == 3 else 1)

    with pytest.raises(ValueError, match="loss of step 3 is nan"):
        fit_steps(model, loss_at, 5, 1e-2, tmp_path / "x.pt", checkpoint_seconds=-1)
    assert torch.load(tmp_path / "x.pt", weights_only=True)["step"] == 3

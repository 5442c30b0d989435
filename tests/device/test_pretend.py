"""The pretend device refuses what a GPU refuses, computes what the CPU computes, and its work is
counted.
"""

import json
import os

import nbformat
import pretend_device
import pytest
import run_device as run
import torch
import torch.nn.functional as F
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from course_lib import runtime

DEVICE = runtime.default_device()
if DEVICE.type != "pretend":
    pytest.skip("not on the pretend device", allow_module_level=True)

HERE, THERE = torch.rand(4, 4), torch.rand(4, 4, device=DEVICE)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: HERE + THERE,
        lambda: THERE @ HERE,
        lambda: THERE.mul_(HERE),
        lambda: torch.cat([THERE, HERE]),
        lambda: torch.where(HERE > 0.5, THERE, 0.0),
        lambda: F.linear(HERE, THERE),
        lambda: F.embedding(torch.tensor([1]), THERE),
        lambda: F.conv2d(HERE[None, None], THERE[None, None]),
        lambda: F.conv2d(THERE[None, None], HERE[None, None]),
        lambda: F.batch_norm(THERE, torch.zeros(4), torch.ones(4)),
        lambda: F.scaled_dot_product_attention(THERE[None], HERE[None], THERE[None]),
        lambda: HERE[torch.tensor([0], device=DEVICE)],
        lambda: torch.nn.Linear(4, 4)(THERE),
        lambda: torch.rand(2, device=DEVICE, generator=torch.Generator()),
    ],
)
def test_two_devices_do_not_meet(operation):
    with pytest.raises(RuntimeError, match=r"same device|'pretend' device type for generator"):
        operation()


@pytest.mark.parametrize(
    "read", [lambda: THERE.numpy(), lambda: torch.rand(2, device=DEVICE).__array__()]
)
def test_numpy_cannot_read_it(read):
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\)"):
        read()


@pytest.mark.parametrize(
    "operation",
    [
        lambda: THERE + 1,
        lambda: THERE * torch.tensor(2.0),
        lambda: THERE[torch.tensor([1, 2])],
        lambda: THERE[torch.tensor([True, False, True, False])],
        lambda: THERE.copy_(HERE),
        lambda: F.mse_loss(THERE, THERE),
        lambda: THERE.sum().item(),
        lambda: f"{THERE.mean():.2f}",
    ],
)
def test_numbers_and_indices_are_welcome(operation):
    operation()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vit_b_32"])
def test_a_training_step_is_that_of_the_cpu(name):
    """Gradients, and the running statistics of batch norms, to the bit."""
    options = {"googlenet": {"aux_logits": False, "init_weights": False}}.get(name, {})
    size = 224 if "vit" in name else 64
    images, states = torch.rand(2, 3, size, size), []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, **options).to(device)
        model(images.to(device)).square().mean().backward()
        states.append(
            [*model.state_dict().values(), *(parameter.grad for parameter in model.parameters())]
        )
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(other.cpu(), one, atol=1e-5, rtol=1e-4)


def test_its_work_is_counted_as_pytorch_counts():
    model, images = (
        torchvision.models.resnet18().to(DEVICE),
        torch.rand(2, 3, 64, 64, device=DEVICE),
    )
    cpu, device = pretend_device.work()
    model(images).mean().backward()
    torch.nn.Linear(8, 16)(torch.rand(4, 8))
    on_cpu, on_device = (
        now - before for now, before in zip(pretend_device.work(), (cpu, device), strict=True)
    )
    with FlopCounterMode(display=False) as counter:
        model(images).mean().backward()
    assert on_device == counter.get_total_flops()
    assert on_cpu == 2 * 4 * 8 * 16


# ---- the run over all notebooks turns red --------------------------------------------------------

SETUP = (
    "import torch; from course_lib import setup; rt = setup(quiet=True)\nmodel ="
    " torch.nn.Linear(64, 64)"
)
FAULTS = {
    "a model is left on the device and called with CPU tensors": (
        "model.to(rt.device)\nmodel(torch.rand(2, 64))",
        "same device",
    ),
    "numpy reads a tensor of the device": (
        "model.to(rt.device)\nmodel(torch.rand(2, 64).to(rt.device)).detach().numpy()",
        "numpy",
    ),
    "the work is done on the CPU": (
        "for _ in range(9): model(torch.rand(64, 64))",
        "less than 80%",
    ),
}


@pytest.fixture
def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(run.AUTOLOAD), str(run.ROOT)])}


def notebook(tmp_path, *cells):
    path = tmp_path / "04_planted.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path
    )
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_the_run_red(fault, tmp_path, environment):
    cell, words = FAULTS[fault]
    result = run.run_notebook(notebook(tmp_path, SETUP, cell), environment)
    assert words in run.describe(result)
    assert not run.passed(result)


def test_a_checked_cell_prints_what_it_prints_on_the_cpu(tmp_path, environment):
    path = notebook(tmp_path, SETUP, "print(torch.zeros(1).to(rt.device))")
    sheet = nbformat.read(path, 4)
    sheet.cells[1].metadata["tags"] = ["nbval-check-output"]
    sheet.cells[1].outputs = [nbformat.v4.new_output("stream", text="tensor([0.])\n")]
    nbformat.write(sheet, path)
    result = run.run_notebook(path, environment)
    assert "prints something else" in run.describe(result)
    assert not run.passed(result)


def test_a_sound_notebook_passes(tmp_path, environment):
    cell = "model = model.to(rt.device)\nprint(model(torch.rand(2, 64).to(rt.device)).cpu().sum())"
    result = run.run_notebook(notebook(tmp_path, SETUP, cell), environment)
    assert run.passed(result), json.dumps(result)
    assert result["device"] == 2 * 2 * 64 * 64

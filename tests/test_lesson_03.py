"""The exercises of lesson 03: right answers pass however they are written, wrong ones read their
mistake.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import nn

from course_lib.lessons import check, lesson_03
from course_lib.lessons.lesson_03 import EXERCISES, ConvNorm
from course_lib.models import I3D
from course_lib.models import inflate as library_inflate


def stacked(kernel, time):
    return torch.stack([kernel / time] * time, dim=2)


def looped(flat, inflated, image, frames):
    expected = flat(image)
    video = inflated(torch.stack([image] * frames, dim=2))
    return (
        torch.stack([(video[:, :, step] - expected).abs().max() for step in range(video.shape[2])])
        / expected.abs().max()
    )


def still(image, frames):
    return repeat(
        image, "batch channels height width -> batch channels frames height width", frames=frames
    )


def difference(flat, inflated, image, frames):
    return inflated(still(image, frames)) - flat(image)[:, :, None]


def largest(flat, image):
    return flat(image).abs().max()


class Block(nn.Module):
    """An Inception block whose subclasses make one mistake each."""

    def __init__(self, channels, one, reduce3, three, reduce5, five, pooled):
        super().__init__()
        self.branch1 = ConvNorm(channels, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(channels, reduce3, 1), ConvNorm(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvNorm(channels, reduce5, 1), ConvNorm(reduce5, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(channels, pooled, 1))

    def branches(self, x):
        return [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]

    def forward(self, x):
        return torch.cat(self.branches(x), 1)


class Lazy(Block):
    """The pool in `forward`, and the branches in a loop."""

    def forward(self, x):
        pooled = self.branch4[1](F.max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([*(getattr(self, f"branch{k}")(x) for k in (1, 2, 3)), pooled], dim=-3)


class Added(Block):
    def forward(self, x):
        return sum(self.branches(x))


class AlongTheBatch(Block):
    def forward(self, x):
        return torch.cat(self.branches(x))


class AlongTheWidth(Block):
    def forward(self, x):
        return torch.cat(self.branches(x), -1)


class Backwards(Block):
    def forward(self, x):
        return torch.cat(self.branches(x)[::-1], 1)


class WithoutPool(Block):
    def forward(self, x):
        return torch.cat(self.branches(x)[:3], 1)


class InARow(Block):
    def forward(self, x):
        return self.branch4(self.branch3(self.branch2(self.branch1(x))))


class Striding(Block):
    def __init__(self, *widths):
        super().__init__(*widths)
        self.branch4[0] = nn.MaxPool2d(3, padding=1)


class Averaging(Block):
    def __init__(self, *widths):
        super().__init__(*widths)
        self.branch4[0] = nn.AvgPool2d(3, 1, 1)


class AsInThePaper(Block):
    def __init__(self, *widths):
        super().__init__(*widths)
        self.branch3[1] = ConvNorm(widths[4], widths[5], 5)


class WithoutReduction(Block):
    def __init__(self, channels, one, reduce3, three, reduce5, five, pooled):
        super().__init__(channels, one, reduce3, three, reduce5, five, pooled)
        self.branch2 = ConvNorm(channels, three, 3)


class PooledLast(Block):
    def __init__(self, *widths):
        super().__init__(*widths)
        self.branch4 = nn.Sequential(self.branch4[1], self.branch4[0])


class WidthsSwapped(Block):
    def __init__(self, channels, one, reduce3, three, reduce5, five, pooled):
        super().__init__(channels, one, three, reduce3, reduce5, five, pooled)


class Listed(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        self.branches = nn.ModuleList(Block(*widths).children())

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


def by_type(module, convolution):
    """Another right `inflate`: a table of rules, and children first."""

    def convolved(layer):
        side = layer.kernel_size[0]
        twin = convolution(
            layer.in_channels,
            layer.out_channels,
            side,
            layer.stride[0],
            layer.padding[0],
            bias=False,
        )
        twin.weight.data = stacked(layer.weight.detach(), side)
        return twin

    def normed(layer):
        twin = nn.BatchNorm3d(layer.num_features, eps=layer.eps)
        twin.load_state_dict(layer.state_dict())
        return twin

    def pooled(layer):
        return nn.MaxPool3d(*(3 * (size,) for size in sizes(layer)), ceil_mode=layer.ceil_mode)

    def sizes(layer):
        return layer.kernel_size, layer.stride, layer.padding

    rules = {nn.Conv2d: convolved, nn.BatchNorm2d: normed, nn.MaxPool2d: pooled}
    if type(module) in rules:
        return rules[type(module)](module)
    copy = deepcopy(module)
    for name, child in module.named_children():
        setattr(copy, name, by_type(child, convolution))
    return copy


def spoilt(kind, change):
    """An `inflate` that is right but for what `change` does to the twin of each `kind` of layer."""

    def inflate(module, convolution):
        if isinstance(module, kind):
            return change(module, convolution)
        if not any(module.children()):
            return lesson_03.inflate(module, convolution)
        copy = deepcopy(module)
        for name, child in module.named_children():
            setattr(copy, name, inflate(child, convolution))
        return copy

    return inflate


def convolved(module, convolution, **changes):
    settings = {
        "side": module.kernel_size[0],
        "stride": module.stride[0],
        "padding": module.padding[0],
        "bias": False,
        "weight": stacked(module.weight.detach(), module.kernel_size[0]),
    } | changes
    weight, bias = settings.pop("weight"), settings.pop("bias")
    twin = convolution(module.in_channels, module.out_channels, *settings.values(), bias=bias)
    if weight is not None:
        twin.weight = nn.Parameter(weight)
    return twin


def in_place(module, convolution):
    for name, child in module.named_children():
        setattr(module, name, in_place(child, convolution))
    return module if any(module.children()) else lesson_03.inflate(module, convolution)


def one_level(module, convolution):
    copy = deepcopy(module)
    for name, child in module.named_children():
        if not any(child.children()):
            setattr(copy, name, lesson_03.inflate(child, convolution))
    return copy if any(module.children()) else lesson_03.inflate(module, convolution)


def renamed(module, convolution):
    if any(module.children()):
        return nn.Sequential(*(renamed(child, convolution) for child in module.children()))
    return lesson_03.inflate(module, convolution)


def scaled(flow):
    return (flow.clamp(-20, 20) / 20).movedim(-1, 1)


def tokens(network, video):
    return network(video).mean((3, 4)).mT


def smallest_to_largest(network, flow):
    video = flow.movedim(-1, 1)
    low, high = video.min(), video.max()
    return tokens(network, 2 * (video - low) / (high - low) - 1)


def einops_tokens(network, flow):
    video = rearrange(flow / 20, "batch frames height width uv -> batch uv frames height width")
    volume = network(video.clamp(-1, 1))
    return reduce(volume, "batch channels steps height width -> batch steps channels", "mean")


RIGHT = {
    "inflate_kernel": [
        stacked,
        lambda kernel, time: kernel[:, :, None].expand(-1, -1, time, -1, -1) / time,
    ],
    "Inception": [Block, Lazy],
    "inflate": [by_type],
    "boring_video_errors": [looped],
    "motion_tokens": [
        einops_tokens,
        lambda network, flow: network(scaled(flow)).flatten(3).mean(-1).transpose(1, 2),
    ],
}


def middle_only(kernel, time):
    inflated = kernel.new_zeros(*kernel.shape[:2], time, *kernel.shape[2:])
    inflated[:, :, time // 2] = kernel
    return inflated


def scaled_frames(flat, inflated, image, frames):
    return (inflated(still(image, frames) / frames) - flat(image)[:, :, None]).abs().amax(
        (0, 1, 3, 4)
    ) / largest(flat, image)


WRONG = {
    "inflate_kernel": {
        "divide by `time`": lambda k, t: k[:, :, None].repeat(1, 1, t, 1, 1),
        "you divide by 3": lambda k, t: k[:, :, None].repeat(1, 1, t, 1, 1) / k.shape[-1],
        "one more side": lambda k, t: k[:, :, None].repeat(1, 1, t, 1, 1) / t / k.shape[-1],
        "one frame at a time": middle_only,
        "time axis comes last": lambda k, t: k[..., None].repeat(1, 1, 1, 1, t) / t,
        "before the channels": lambda k, t: k[:, None].repeat(1, t, 1, 1, 1) / t,
        "makes more channels": lambda k, t: k.repeat(1, t, 1, 1) / t,
        "no gradient reaches": lambda k, t: stacked(k.detach(), t),
        "dtype": lambda k, t: stacked(k, t).float(),
    },
    "Inception": {
        "you add the four branches": Added,
        "concatenate along the batch": AlongTheBatch,
        "concatenate along the width": AlongTheWidth,
        "in another order": Backwards,
        "left out of your `forward`": WithoutPool,
        "one after another": InARow,
        "changes height and width": Striding,
        "your pool takes means": Averaging,
        "5 × 5, as in the paper": AsInThePaper,
        "branch2 is a single convolution": WithoutReduction,
        "the pool comes first": PooledLast,
        "has the shape": WidthsSwapped,
        "there is no `branch": Listed,
        "inherits from nn.Module": lambda *widths: lambda x: Block(*widths)(x),
    },
    "inflate": {
        "comes back as it is": lambda module, convolution: deepcopy(module),
        "your convolution is always nn.Conv3d": lambda module, convolution: lesson_03.inflate(
            module, nn.Conv3d
        ),
        "the stride of your convolution is (1, 1, 1)": spoilt(
            nn.Conv2d, lambda module, convolution: convolved(module, convolution, stride=1)
        ),
        "the padding of your convolution": spoilt(
            nn.Conv2d, lambda module, convolution: convolved(module, convolution, padding=0)
        ),
        "has a bias": spoilt(
            nn.Conv2d, lambda module, convolution: convolved(module, convolution, bias=True)
        ),
        "keeps its random weights": spoilt(
            nn.Conv2d, lambda module, convolution: convolved(module, convolution, weight=None)
        ),
        "repeated and not divided": spoilt(
            nn.Conv2d,
            lambda module, convolution: convolved(
                module, convolution, weight=5 * stacked(module.weight.detach(), 5)
            ),
        ),
        "refuse a video's five axes": spoilt(nn.BatchNorm2d, lambda module, _: deepcopy(module)),
        "the eps of your norm": spoilt(
            nn.BatchNorm2d, lambda module, _: nn.BatchNorm3d(module.num_features)
        ),
        "of your norm is not that": spoilt(
            nn.BatchNorm2d, lambda module, _: nn.BatchNorm3d(module.num_features, module.eps)
        ),
        "expected an nn.MaxPool3d": spoilt(nn.MaxPool2d, lambda module, _: deepcopy(module)),
        "ceil_mode of your pool": spoilt(
            nn.MaxPool2d,
            lambda module, _: nn.MaxPool3d(module.kernel_size, module.stride, module.padding),
        ),
        "padding of your pool": spoilt(
            nn.MaxPool2d,
            lambda module, _: nn.MaxPool3d(
                module.kernel_size, module.stride, ceil_mode=module.ceil_mode
            ),
        ),
        "changes the 2-D network itself": in_place,
        "on every child": one_level,
        "names of the weights have changed": renamed,
    },
    "boring_video_errors": {
        "as a share of": lambda f, i, x, n: difference(f, i, x, n).abs().amax((0, 1, 3, 4)),
        "for each time": lambda f, i, x, n: difference(f, i, x, n).abs().max() / largest(f, x),
        "cancel": lambda f, i, x, n: difference(f, i, x, n).mean((0, 1, 3, 4)) / largest(f, x),
        "no place can hide": lambda f, i, x, n: (
            difference(f, i, x, n).abs().mean((0, 1, 3, 4)) / largest(f, x)
        ),
        "may be too small": lambda f, i, x, n: (
            difference(f, i, x, n).amax((0, 1, 3, 4)) / largest(f, x)
        ),
        "*signed* value": lambda f, i, x, n: (
            difference(f, i, x, n).abs().amax((0, 1, 3, 4)) / f(x).max()
        ),
        "you reduce over time": lambda f, i, x, n: (
            difference(f, i, x, n).abs().amax((0, 1, 2, 3)) / largest(f, x)
        ),
        "fewer steps than the video has frames": lambda f, i, x, n: torch.stack(
            [difference(f, i, x, n)[:, :, step].abs().max() / largest(f, x) for step in range(n)]
        ),
        "numbers are not": scaled_frames,
        "for 12 frames, expected the shape (6,)": lambda f, i, x, n: looped(f, i, x, 16),
        "got a list": lambda f, i, x, n: looped(f, i, x, n).tolist(),
    },
    "motion_tokens": {
        "you do not clip": lambda n, f: tokens(n, f.movedim(-1, 1) / 20),
        "you clip and do not scale": lambda n, f: tokens(n, f.clamp(-20, 20).movedim(-1, 1)),
        "you give flow in pixels": lambda n, f: tokens(n, f.movedim(-1, 1)),
        "largest value of these flows": lambda n, f: tokens(n, f.movedim(-1, 1) / f.abs().max()),
        "from smallest to largest": smallest_to_largest,
        "moves left or up": lambda n, f: tokens(n, f.clamp(0, 20).movedim(-1, 1) / 20),
        "move u and v to axis 1": lambda n, f: tokens(
            n, (f.clamp(-20, 20) / 20).reshape(len(f), 2, *f.shape[1:4])
        ),
        "you swap time with u and v": lambda n, f: tokens(
            n, (f.clamp(-20, 20) / 20).transpose(1, -1)
        ),
        "channels come before your steps": lambda n, f: n(scaled(f)).mean((3, 4)),
        "swap channels and steps": lambda n, f: (
            n(scaled(f)).mean((3, 4)).reshape(len(f), f.shape[1], -1)
        ),
        "keep the time steps": lambda n, f: n(scaled(f)).mean((2, 3, 4)),
        "you keep every place": lambda n, f: n(scaled(f)).flatten(2).mT,
        "maximum over places": lambda n, f: n(scaled(f)).amax((3, 4)).mT,
        "sum over places": lambda n, f: n(scaled(f)).sum((3, 4)).mT,
        "no gradient reaches": lambda n, f: tokens(n, scaled(f)).detach(),
    },
}


def test_the_parts_make_the_librarys_network():
    """Weights of the library's I3D load into what the exercises build, and it says the same."""
    stem, block = ConvNorm(3, 6, 3, 2), lesson_03.Inception(6, 4, 3, 5, 2, 8, 7)
    flat = nn.Sequential(stem, nn.MaxPool2d(3, stride=2, ceil_mode=True), block).eval()
    video = torch.rand(1, 3, 9, 20, 20)
    for convolution, padding in ((lesson_03.CopyPadded, "replicate"), (nn.Conv3d, "zeros")):
        own, library = lesson_03.inflate(flat, convolution), library_inflate(flat, padding)
        assert [*own.state_dict()] == [*library.state_dict()]
        with torch.no_grad():
            torch.testing.assert_close(own.eval()(video), library(video))
    block, theirs = lesson_03.Inception(192, 64, 96, 128, 16, 32, 32), I3D().inception3a
    own = lesson_03.inflate(block, lesson_03.CopyPadded)
    own.load_state_dict(theirs.state_dict())
    volume = torch.rand(1, 192, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(volume), theirs.eval()(volume))


def test_a_block_whose_forward_is_not_written_is_a_stub(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))

    class Stub(nn.Module):
        """What to write."""

        def __init__(self, *widths):
            super().__init__()
            ...

        def forward(self, x): ...

    assert check("Inception", Stub) is lesson_03.Inception
    assert capsys.readouterr().out.startswith("○ Inception: not written yet")


def test_a_check_leaves_the_networks_alone():
    """An answer that trains, or leaves in training mode, would spoil what comes after it in the
    lesson.
    """
    flat = nn.Conv2d(1, 1, 3, padding=1).eval()
    before = flat.weight.clone()
    EXERCISES["boring_video_errors"].load_solution()(
        flat, nn.Conv3d(1, 1, 3, padding=1), torch.rand(1, 1, 6, 6), 4
    )
    assert torch.equal(flat.weight, before)
    assert not flat.training

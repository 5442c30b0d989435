"""The exercises of lesson 03: a video network, built from a network for pictures."""

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import dynamic
from .exercises import Exercise, Mistake, expect, expect_gradient

__all__ = ["EXERCISES"]


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm, ReLU, as the notebook defines it."""

    def __init__(self, channels: int, out_channels: int, side: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, side, stride, side // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


# --------------------------------------------------------------------------------------------------
# Solutions, as a student would write them


def inflate_kernel(kernel, time):
    """Repeat the kernel `time` times along a new axis 2, and divide by `time`."""
    return kernel[:, :, None].repeat(1, 1, time, 1, 1) / time


class Inception(nn.Module):
    """Four branches side by side, concatenated along the channels."""

    def __init__(self, channels, one, reduce3, three, reduce5, five, pooled):
        super().__init__()
        self.branch1 = ConvNorm(channels, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(channels, reduce3, 1), ConvNorm(reduce3, three, 3))
        self.branch3 = nn.Sequential(ConvNorm(channels, reduce5, 1), ConvNorm(reduce5, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(channels, pooled, 1))

    def forward(self, x):
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], dim=1)


def inflate(module, convolution):
    """Return the 3-D twin of a convolution, a norm, a pool, or of a module that holds such."""
    twin = deepcopy(module)
    if isinstance(module, nn.Conv2d):
        channels, side = (module.in_channels, module.out_channels), module.kernel_size[0]
        twin = convolution(*channels, side, module.stride[0], module.padding[0], bias=False)
        twin.weight = nn.Parameter(inflate_kernel(module.weight.detach(), side))
    elif isinstance(module, nn.BatchNorm2d):
        twin = nn.BatchNorm3d(module.num_features, module.eps)
        twin.load_state_dict(module.state_dict())
    elif isinstance(module, nn.MaxPool2d):
        sizes = module.kernel_size, module.stride, module.padding
        twin = nn.MaxPool3d(*sizes, ceil_mode=module.ceil_mode)
    for name, child in module.named_children():
        setattr(twin, name, inflate(child, convolution))
    return twin


def boring_video_errors(flat, inflated, image, frames):
    """The largest difference at each step, as a share of the largest value of the 2-D output."""
    expected = flat(image)
    video = image[:, :, None].repeat(1, 1, frames, 1, 1)
    difference = (inflated(video) - expected[:, :, None]).abs()
    return difference.amax((0, 1, 3, 4)) / expected.abs().max()


def motion_tokens(network, flow):
    """Flow in pixels per frame to one token for each time step."""
    scaled = flow.clamp(-20, 20) / 20
    volume = network(scaled.movedim(-1, 1))
    return volume.mean((3, 4)).transpose(1, 2)


# --------------------------------------------------------------------------------------------------
# inflate_kernel


def kernel_is_repeated_and_divided(student: Callable, library: Callable) -> None:
    kernel = torch.randn(4, 2, 3, 3)
    repeated = kernel[:, :, None].repeat(1, 1, 5, 1, 1)
    middle = torch.zeros_like(repeated)
    middle[:, :, 2] = kernel
    expect(
        student(kernel, 5),
        library(kernel, 5),
        {
            "you repeat and do not divide, so a still video gives 5 times the 2-D answer; divide by `time`": (
                repeated
            ),
            "you divide by 3, the side of the kernel; divide by `time`, how often it is repeated": (
                repeated / 3
            ),
            "you normalise as if time were one more side of the square; only the sum over `time` must stay": (
                repeated / 15
            ),
            "only your middle slice is not 0: right on a still video too (ViViT starts so), but before training it sees one frame at a time; this exercise wants equal slices": (
                middle
            ),
            "your time axis comes last; a 3-D convolution wants (out, channels, time, height, width)": (
                repeated.movedim(2, -1) / 5
            ),
            "your time axis comes before the channels; a 3-D convolution wants (out, channels, time, height, width)": (
                repeated.transpose(1, 2) / 5
            ),
            "`kernel.repeat` along an axis that exists makes more channels; add the time axis first": (
                kernel.repeat(1, 5, 1, 1) / 5
            ),
        },
    )


def kernel_of_any_size(student: Callable, library: Callable) -> None:
    for shape, time in (((1, 1, 1, 1), 1), ((2, 3, 1, 7), 1), ((8, 2, 7, 7), 7), ((3, 3, 3, 3), 2)):
        kernel = torch.randn(shape, dtype=torch.float64)
        expect(
            student(kernel, time),
            library(kernel, time),
            given=f"for a kernel of shape {shape} and {time=}",
        )


def kernel_passes_gradients(student: Callable, library: Callable) -> None:
    kernel = torch.randn(4, 2, 3, 3, requires_grad=True)
    expect_gradient(kernel, student(kernel, 3))


# --------------------------------------------------------------------------------------------------
# Inception


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def block_has_the_stored_names(student: Callable, library: Callable) -> None:
    block, expected = student(6, 4, 3, 5, 2, 8, 7), _shapes(library(6, 4, 3, 5, 2, 8, 7))
    if not isinstance(block, nn.Module):
        raise Mistake(
            f"`Inception(…)` must make a module; it made a {type(block).__name__}, so write a class"
            " that inherits from nn.Module"
        )
    shapes = _shapes(block)
    for name in expected.keys() - shapes.keys():
        branch = name.split(".")[0]
        if not any(own.startswith(branch) for own in shapes):
            raise Mistake(
                f"there is no `{branch}` with weights; the stored weights go by the names branch1,"
                " branch2, branch3 and branch4"
            )
        if branch in ("branch2", "branch3") and f"{branch}.conv.weight" in shapes:
            raise Mistake(
                f"your {branch} is a single convolution; first a 1 × 1 reduces the channels, then"
                " a 3 × 3, in an nn.Sequential"
            )
        if branch == "branch4" and "branch4.0.conv.weight" in shapes:
            raise Mistake("in your branch4 the convolution comes first; the pool comes first")
    unlike = sorted(expected.keys() ^ shapes.keys())
    if unlike:
        raise Mistake(
            f"the weights are stored under names such as branch2.0.conv.weight; {unlike[0]} is"
            f" {'missing' if unlike[0] in expected else 'not one of them'}"
        )
    for name, shape in expected.items():
        if shapes[name] != shape and shapes[name][-1:] == (5,):
            raise Mistake(
                "your branch3 is 5 × 5, as in the paper; the weights of this course, like those of"
                " torchvision, are 3 × 3"
            )
        if shapes[name] != shape:
            raise Mistake(
                f"{name} has the shape {shapes[name]}, expected {shape} for"
                " Inception(6, 4, 3, 5, 2, 8, 7)"
            )


def _filled(student: Callable, library: Callable, *widths: int) -> tuple[nn.Module, nn.Module]:
    """The student's block and the library's, with the same weights, none of them an initial one."""
    block, example = student(*widths), library(*widths)
    with torch.no_grad():
        for tensor in example.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1 - 0.4 * (tensor.ndim > 1))
    block.load_state_dict(example.state_dict())
    return block.eval(), example.eval()


def _block_output(block: nn.Module, x: Tensor) -> Tensor:
    try:
        return block(x)
    except RuntimeError as error:
        for pool in block.modules():
            if (
                isinstance(pool, nn.MaxPool2d)
                and F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding).shape != x.shape
            ):
                raise Mistake(
                    f"your pool (stride {pool.stride}, padding {pool.padding}) changes height and"
                    " width, so the branches cannot be concatenated; give it stride=1 and padding=1"
                ) from error
        raise


def block_concatenates_its_branches(student: Callable, library: Callable) -> None:
    block, example = _filled(student, library, 4, 4, 3, 4, 2, 4, 4)
    x = torch.randn(4, 4, 4, 4)
    with torch.no_grad():
        first, second, third, fourth = (
            branch(x)
            for branch in (example.branch1, example.branch2, example.branch3, example.branch4)
        )
        averaged = example.branch4[1](F.avg_pool2d(x, 3, 1, 1))
        expect(
            _block_output(block, x),
            torch.cat([first, second, third, fourth], 1),
            {
                "you add the four branches; concatenate them, so that no feature is mixed with another": (
                    first + second + third + fourth
                ),
                "you concatenate along the batch; the channels are axis 1": torch.cat(
                    [first, second, third, fourth], 0
                ),
                "you concatenate along the height; the channels are axis 1": torch.cat(
                    [first, second, third, fourth], 2
                ),
                "you concatenate along the width; the channels are axis 1": torch.cat(
                    [first, second, third, fourth], 3
                ),
                "branch4 is left out of your `forward`": torch.cat([first, second, third], 1),
                "your branches run one after another; each of them gets the block's input": (
                    example.branch4(example.branch3(example.branch2(first)))
                ),
                "your pool takes means; it takes maxima": torch.cat(
                    [first, second, third, averaged], 1
                ),
                "your branches are in another order; concatenate branch1, branch2, branch3, branch4": (
                    torch.cat([fourth, third, second, first], 1)
                ),
            },
        )


def block_of_any_width(student: Callable, library: Callable) -> None:
    for widths, size in (((3, 2, 1, 2, 1, 3, 1), (5, 7)), ((8, 16, 4, 8, 4, 8, 8), (1, 1))):
        block, example = _filled(student, library, *widths)
        x = torch.randn(2, widths[0], *size)
        with torch.no_grad():
            expect(_block_output(block, x), example(x), given=f"for Inception{widths}")


# --------------------------------------------------------------------------------------------------
# inflate


class CopyPadded(nn.Conv3d):
    """What the notebook calls TimePaddedConv3d."""

    def __init__(self, channels, out_channels, side, stride=1, padding=0, bias=True):
        super().__init__(channels, out_channels, side, stride, (0, padding, padding), bias=bias)
        self.time_padding = padding

    def forward(self, video: Tensor) -> Tensor:
        time = self.time_padding
        return super().forward(F.pad(video, (0, 0, 0, 0, time, time), mode="replicate"))


def convolution_gets_a_time_axis(student: Callable, library: Callable) -> None:
    flat = nn.Conv2d(2, 3, 5, stride=2, padding=1, bias=False)
    kernel = flat.weight.detach()
    twin = student(flat, nn.Conv3d)
    if isinstance(twin, nn.Conv2d):
        raise Mistake("an nn.Conv2d comes back as it is; make it what `convolution` makes")
    if not isinstance(twin, nn.Conv3d):
        raise Mistake(f"an nn.Conv2d becomes a {type(twin).__name__}; expected an nn.Conv3d")
    if not isinstance(student(flat, CopyPadded), CopyPadded):
        raise Mistake(
            "your convolution is always nn.Conv3d; call `convolution`, which the next section"
            " exchanges"
        )
    for setting in ("kernel_size", "stride", "padding"):
        own, expected = getattr(twin, setting), 3 * (getattr(flat, setting)[0],)
        if own != expected:
            raise Mistake(
                f"the {setting} of your convolution is {own}, expected {expected}: time like height"
            )
    if twin.bias is not None:
        raise Mistake("your convolution has a bias that the 2-D one lacks; give bias=False")
    inflated = kernel[:, :, None].repeat(1, 1, 5, 1, 1)
    if not torch.allclose(twin.weight, inflated / 5) and not torch.allclose(twin.weight, inflated):
        raise Mistake(
            "your convolution keeps its random weights; give it those of the 2-D one:"
            " twin.weight = nn.Parameter(inflate_kernel(…))"
        )
    if torch.allclose(twin.weight, inflated):
        raise Mistake("your kernel is repeated and not divided; use your inflate_kernel")


def norm_keeps_what_it_knows(student: Callable, library: Callable) -> None:
    flat = nn.BatchNorm2d(4, eps=0.001)
    for name, tensor in flat.state_dict().items():
        if name != "num_batches_tracked":
            tensor.copy_(torch.rand(4) + 0.5)
    twin = student(flat, nn.Conv3d)
    if not isinstance(twin, nn.BatchNorm3d):
        raise Mistake(
            f"an nn.BatchNorm2d becomes a {type(twin).__name__}, and would refuse a video's five"
            " axes; make it an nn.BatchNorm3d"
        )
    if twin.eps != flat.eps:
        raise Mistake(f"the eps of your norm is {twin.eps}; the 2-D one has {flat.eps}")
    for name, tensor in flat.state_dict().items():
        if not torch.equal(twin.state_dict()[name], tensor):
            raise Mistake(
                f"the {name} of your norm is not that of the 2-D one; load its state_dict, which"
                " holds weight, bias, running mean and running variance"
            )


def pool_keeps_its_settings(student: Callable, library: Callable) -> None:
    for flat in (nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.MaxPool2d(3, stride=1, padding=1)):
        twin = student(flat, nn.Conv3d)
        if not isinstance(twin, nn.MaxPool3d):
            raise Mistake(f"{flat} becomes a {type(twin).__name__}; expected an nn.MaxPool3d")
        for setting in ("kernel_size", "stride", "padding", "ceil_mode"):
            own, expected = getattr(twin, setting), getattr(flat, setting)
            if own not in (expected, 3 * (expected,)):
                raise Mistake(f"{setting} of your pool is {own}; {flat} has {expected}")


def network_is_inflated_to_the_last_leaf(student: Callable, library: Callable) -> None:
    flat = nn.Sequential(
        OrderedDict(
            stem=ConvNorm(3, 4, 3, 2),
            pool=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            block=Inception(4, 4, 3, 5, 2, 8, 7),
        )
    ).eval()
    names, before = [*flat.state_dict()], _shapes(flat)
    twin = student(flat, CopyPadded)
    if _shapes(flat) != before or any(isinstance(layer, nn.Conv3d) for layer in flat.modules()):
        raise Mistake(
            "your function changes the 2-D network itself, which is still needed; work on a copy"
            " (deepcopy)"
        )
    left = next((n for n, layer in twin.named_modules() if type(layer).__name__.endswith("2d")), "")
    if left:
        raise Mistake(
            f"{left} is still {twin.get_submodule(left)}; call `inflate` on every child, and it"
            " reaches the children of children"
        )
    if [*twin.state_dict()] != names:
        raise Mistake(
            "the names of the weights have changed, so stored weights would not load; put each"
            " twin in its child's place: setattr(twin, name, …)"
        )
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        video = twin.eval()(image[:, :, None].repeat(1, 1, 16, 1, 1))
        expected = flat(image)[:, :, None].expand_as(video)
        expect(video, expected, tolerance=1e-4, given="for a still video of 16 frames")


# --------------------------------------------------------------------------------------------------
# boring_video_errors


def _networks(padding: str = "zeros") -> tuple[nn.Module, nn.Module]:
    """A 2-D network and its inflation, which strides in time, so that there are fewer steps than
    frames.

    Its largest value is negative, and zero padding makes its largest change a negative one, so that
    signs matter.
    """
    flat = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)
    ).eval()
    with torch.no_grad():
        flat[2].weight[0] = 3 * flat[2].weight[0].abs()
        flat[2].bias[1] = -5
    return flat, dynamic.inflate(flat, padding)


def errors_say_how_far_each_step_is(student: Callable, library: Callable) -> None:
    flat, inflated = _networks()
    image = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        try:
            came = student(flat, inflated, image, 16)
        except IndexError as error:
            if "out of bounds for dimension" not in str(error):
                raise
            raise Mistake(
                "you count to `frames`, but the output has fewer steps than the video has frames;"
                " its axis 2 says how many"
            ) from error
        share = library(flat, inflated, image, 16)
        expected = flat(image)
        video = image[:, :, None].expand(-1, -1, 16, -1, -1)
        difference = inflated(video) - expected[:, :, None]
        sizes = difference.abs().amax((0, 1, 3, 4))
    expect(
        came,
        share,
        {
            "you return the difference itself; give it as a share of the largest value of the 2-D output": (
                sizes
            ),
            "you return one number for the whole video; keep one for each time step": share.max(),
            "differences of opposite sign cancel in your mean; take the absolute value, then the largest": (
                difference.mean((0, 1, 3, 4)) / expected.abs().max()
            ),
            "you take the mean difference; take the largest, so that no place can hide": (
                difference.abs().mean((0, 1, 3, 4)) / expected.abs().max()
            ),
            "you take the largest difference without its absolute value; the 3-D output may be too small as well": (
                difference.amax((0, 1, 3, 4)) / expected.abs().max()
            ),
            "you divide by the largest *signed* value; take the absolute value of the 2-D output first": (
                sizes / expected.max()
            ),
            "you reduce over time and keep the places; reduce over batch, channels, height and width": (
                difference.abs().amax((0, 1, 2, 3)) / expected.abs().max()
            ),
        },
    )


def errors_vanish_for_a_faithful_inflation(student: Callable, library: Callable) -> None:
    flat, inflated = _networks("replicate")
    with torch.no_grad():
        came = student(flat, inflated, torch.rand(1, 3, 8, 8), 12)
    if isinstance(came, Tensor) and came.numel() and not came.max() < 1e-4:
        raise Mistake(
            "a network padded with copies says the same at every step, yet your largest error is "
            f"{came.max():.2g}; is every frame of your video the image itself, unscaled?"
        )
    expect(came, torch.zeros(6), tolerance=1e-4, given="for 12 frames")


def errors_of_any_length(student: Callable, library: Callable) -> None:
    flat, inflated = _networks()
    for batch, size, frames in ((1, 8, 2), (3, 6, 7), (1, 12, 32)):
        image = torch.rand(batch, 3, size, size)
        with torch.no_grad():
            expect(
                student(flat, inflated, image, frames),
                library(flat, inflated, image, frames),
                given=f"for {batch} images of {size} × {size} and {frames=}",
            )


# --------------------------------------------------------------------------------------------------
# motion_tokens


def tokens_are_means_over_places(student: Callable, library: Callable) -> None:
    network = nn.Conv3d(2, 5, 3, padding=1)
    flow = torch.randn(2, 4, 6, 6, 2) * 15  # some of it beyond 20 px
    video = flow.movedim(-1, 1)

    def tokens(scaled: Tensor) -> Tensor:
        return network(scaled).mean((3, 4)).mT

    with torch.no_grad():
        volume = network(video.clamp(-20, 20) / 20)
        low, high = video.min(), video.max()
        expect(
            student(network, flow),
            library(network, flow),
            {
                "you do not clip: the network never saw more than ±20 px; clamp before you divide": (
                    tokens(video / 20)
                ),
                "you clip and do not scale; divide by 20, so that the network gets -1 to 1": tokens(
                    video.clamp(-20, 20)
                ),
                "you give flow in pixels; clip it to ±20 and divide by 20": tokens(video),
                "you scale by the largest value of these flows, so that strong and weak motion look the same; divide by 20": (
                    tokens(video / video.abs().max())
                ),
                "you scale from smallest to largest (lesson 02's trap): no motion is no longer 0; clip to ±20 and divide by 20": (
                    tokens(2 * (video - low) / (high - low) - 1)
                ),
                "you cut off everything that moves left or up; clip from -20 to 20": tokens(
                    video.clamp(0, 20) / 20
                ),
                "`reshape` regroups numbers in memory order and moves no axis; move u and v to axis 1": (
                    tokens((flow.clamp(-20, 20) / 20).reshape(video.shape))
                ),
                "you swap time with u and v, and the frames land where the width belongs; movedim(-1, 1) keeps the other axes in order": (
                    tokens((flow.clamp(-20, 20) / 20).transpose(1, -1))
                ),
                "your channels come before your steps; a token is a vector of channels: (batch, steps, channels)": (
                    volume.mean((3, 4))
                ),
                "`reshape` moves no axis; swap channels and steps with transpose": (
                    volume.mean((3, 4)).reshape(2, 4, 5)
                ),
                "you average over time and places, which gives one vector for the clip; keep the time steps": (
                    volume.mean((2, 3, 4))
                ),
                "you keep every place; average over height and width, so that one token is left for each time step": (
                    volume.flatten(2).mT
                ),
                "you take the maximum over places; this network's tokens are means": (
                    volume.amax((3, 4)).mT
                ),
                "you sum over places; take the mean, so that larger pictures do not give larger tokens": (
                    volume.sum((3, 4)).mT
                ),
            },
        )


def tokens_of_any_size(student: Callable, library: Callable) -> None:
    network = nn.Conv3d(2, 3, 1, stride=2)
    for shape in ((1, 1, 1, 1, 2), (3, 8, 4, 5, 2), (2, 5, 3, 1, 2)):
        flow = torch.randn(shape)
        with torch.no_grad():
            expect(student(network, flow), library(network, flow), given=f"for flow of {shape}")


def tokens_pass_gradients(student: Callable, library: Callable) -> None:
    flow = torch.randn(1, 4, 3, 3, 2, requires_grad=True)
    expect_gradient(flow, student(nn.Conv3d(2, 3, 1), flow))


EXERCISES = {
    "inflate_kernel": Exercise(
        solution="course_lib.lessons.lesson_03:inflate_kernel",
        hints=(
            (
                "On a still video the kernel meets the same picture `time` times. What must each"
                " meeting add, so that the sum is what one meeting gave before?"
            ),
            (
                "(out, channels, height, width) → (out, channels, time, height, width); all slices"
                " along time are equal."
            ),
            (
                "add an axis before the last two, repeat along it `time` times, divide everything"
                " by `time`"
            ),
        ),
        properties=(kernel_is_repeated_and_divided, kernel_of_any_size, kernel_passes_gradients),
    ),
    "Inception": Exercise(
        solution="course_lib.lessons.lesson_03:Inception",
        hints=(
            (
                "Write the drawing above from left to right: each of its four lines is a module in"
                " `__init__`, and the bracket on the right is one call in `forward`."
            ),
            (
                "branch1: channels → one. branch2: channels → reduce3 → three. branch3: channels →"
                " reduce5 → five. branch4: channels → channels (the pool) → pooled. All of them"
                " keep height and width; together they have one + three + five + pooled channels."
            ),
            (
                "branch2 = nn.Sequential(ConvNorm(channels, reduce3, 1), ConvNorm(reduce3,"
                " three, 3)); branch4 begins with nn.MaxPool2d(3, stride=1, padding=1);"
                " forward: torch.cat([branch(x) …], dim=1)"
            ),
        ),
        properties=(
            block_has_the_stored_names,
            block_concatenates_its_branches,
            block_of_any_width,
        ),
    ),
    "inflate": Exercise(
        solution="course_lib.lessons.lesson_03:inflate",
        hints=(
            (
                "Three kinds of layers need a twin of their own; make these three work first, one"
                " `isinstance` each. Every other module is a copy whose children are inflated."
            ),
            (
                "convolution(in_channels, out_channels, side, stride, padding, bias=False), with"
                " the weight inflate_kernel(weight, side); nn.BatchNorm3d(num_features, eps), with"
                " the state of the 2-D norm; nn.MaxPool3d(kernel_size, stride, padding,"
                " ceil_mode=…)."
            ),
            (
                "twin = deepcopy(module); if it is a Conv2d, BatchNorm2d or MaxPool2d: twin = its"
                " 3-D layer; for name, child in module.named_children(): setattr(twin, name,"
                " inflate(child, convolution)); return twin"
            ),
        ),
        properties=(
            convolution_gets_a_time_axis,
            norm_keeps_what_it_knows,
            pool_keeps_its_settings,
            network_is_inflated_to_the_last_leaf,
        ),
    ),
    "boring_video_errors": Exercise(
        solution="course_lib.lessons.lesson_03:boring_video_errors",
        hints=(
            (
                "Build the most boring video there is: the same frame over and over. The 3-D"
                " network must say at every time step what the 2-D network says about the frame."
            ),
            (
                "video (batch, channels, frames, height, width) → output (batch, channels, steps,"
                " height, width); the 2-D output lacks the axis `steps`. The answer is (steps,)."
            ),
            (
                "repeat image along a new axis 2; difference = |inflated(video) − flat(image) with"
                " an axis 2|; take its maximum over all axes but `steps`; divide by the maximum of"
                " |flat(image)|"
            ),
        ),
        properties=(
            errors_say_how_far_each_step_is,
            errors_vanish_for_a_faithful_inflation,
            errors_of_any_length,
        ),
    ),
    "motion_tokens": Exercise(
        solution="course_lib.lessons.lesson_03:motion_tokens",
        hints=(
            (
                "Four steps in the order of the data: the range the network was trained on, the"
                " order of axes it wants, the network, and one token for each time step."
            ),
            (
                "flow (batch, frames, height, width, 2) → (batch, 2, frames, height, width) →"
                " network → (batch, channels, steps, height, width) → (batch, steps, channels)."
            ),
            (
                "clamp to ±20, divide by 20, movedim(-1, 1), network, mean over the last two axes,"
                " transpose(1, 2)"
            ),
        ),
        properties=(tokens_are_means_over_places, tokens_of_any_size, tokens_pass_gradients),
    ),
}

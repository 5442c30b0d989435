"""Data sets in memory: the same items, in order, a quarter of the size."""

import torch
from torch.testing import assert_close

from course_lib.data import FaceDataset, ImageArrays, TokenArrays, gather, load_images


def test_what_is_gathered_is_what_the_items_hold():
    faces = FaceDataset(70, "valid", 3, size=40)
    found = gather(faces, "image", "target", "regions", small={"image": torch.uint8}, workers=0)
    assert found["image"].dtype == torch.uint8
    for k in (0, 31, 32, 69):  # within and across batches
        item = faces[k]
        # drawn in 8 bits, so nothing is lost
        assert_close(found["image"][k] / 255, item["image"])
        assert torch.equal(found["target"][k], item["target"])
        assert torch.equal(found["regions"][k], item["regions"])


def test_arrays_give_the_pairs_that_fit_takes():
    faces = FaceDataset(8, size=40, regions=False)
    arrays = load_images(faces, workers=0)
    image, target = arrays[5]
    assert len(arrays) == 8
    assert_close(image, faces[5]["image"])
    assert torch.equal(target, faces.target(5))


def test_flipping_mirrors_half_the_time_and_only_if_asked():
    images = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(1, 3, 4, 4)
    arrays = ImageArrays(images, torch.ones(1, 2), flip=True)
    still = ImageArrays(images, torch.ones(1, 2))
    torch.manual_seed(0)
    seen = [arrays[0][0] for _ in range(60)]
    straight = images[0].float() / 255
    mirrored = sum(torch.equal(image, straight.flip(-1)) for image in seen)
    assert 15 < mirrored < 45
    assert mirrored + sum(torch.equal(image, straight) for image in seen) == 60
    assert all(torch.equal(still[0][0], straight) for _ in range(20))


def test_batches_hold_every_item_once_in_order():
    images = torch.randint(0, 256, (11, 3, 4, 4), dtype=torch.uint8)
    arrays = ImageArrays(images, torch.zeros(11, 2), flip=True)
    assert [len(part) for part in arrays.batches(4)] == [4, 4, 3]
    assert_close(torch.cat(list(arrays.batches(4))), images / 255)
    tokens = TokenArrays(torch.randn(5, 49, 8), torch.ones(5, 2))
    assert tokens.tokens.dtype == torch.half
    assert torch.equal(
        torch.cat(list(tokens.batches(2))), torch.stack([tokens[k][0] for k in range(5)])
    )
    assert tokens[0][0].dtype == torch.float32

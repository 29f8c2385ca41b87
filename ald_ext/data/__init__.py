"""Data sets as uint8 images: by name, from a file of arrays, or from a folder of pictures; and their minibatches."""

from .datasets import DATASETS, load_dataset, load_pictures
from .image_data import ImageData, Pictures

__all__ = ["DATASETS", "ImageData", "Pictures", "load_dataset", "load_pictures"]

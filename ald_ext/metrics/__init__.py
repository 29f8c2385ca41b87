"""How far generated images are from real ones: Fréchet distances of features (paper: Section 7)."""

from .feature_extractors import (
    EXTRACTORS,
    EfficientNetLite0Features,
    FeatureExtractor,
    InceptionFeatures,
    make_extractor,
    to_uint8,
)
from .frechet_distance import GaussianAccumulator, GaussianStatistics, frechet_distance
from .statistics_cache import cached_statistics, feature_statistics

__all__ = [
    "EXTRACTORS",
    "EfficientNetLite0Features",
    "FeatureExtractor",
    "GaussianAccumulator",
    "GaussianStatistics",
    "InceptionFeatures",
    "cached_statistics",
    "feature_statistics",
    "frechet_distance",
    "make_extractor",
    "to_uint8",
]

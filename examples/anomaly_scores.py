"""Anomaly detection: a Langevin autoencoder sees one class of digits only, and scores all others.

python examples/anomaly_scores.py [--digit 7] [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

import ald_ext
from ald_ext.data import ImageData, load_dataset

COLUMNS = 12


def draw(rows: dict[str, np.ndarray], images: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Figure:
    """Draw a row of images for each title, with their scores and true classes."""
    figure = Figure(figsize=(COLUMNS, 1.75 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False).flat
    for part, (title, chosen) in zip(parts, rows.items(), strict=True):
        part.suptitle(title)
        for axes, index in zip(part.subplots(1, COLUMNS), chosen, strict=True):
            axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{scores[index]:.0f} (a {labels[index]})", fontsize=8)
            axes.set_axis_off()
    return figure


def score_all(data: ImageData, labels: np.ndarray, digit: int, epochs: int) -> tuple[np.ndarray, float]:
    """Return scores by a detector that was fitted to one class, and the share of that class below the threshold."""
    normal = data.train_images[data.train_labels == digit, 0]  # (n, 32, 32) uint8
    detector = ald_ext.AnomalyDetector(model="lae", contamination=0.05, epochs=epochs, seed=0).fit(normal)
    scores = detector.decision_function(data.test_images[:, 0])  # higher: more anomalous
    return scores, float((scores[labels == digit] <= detector.threshold_).mean())


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Fit detectors, score the held-out digits, print the AUROC of each class, and write anomalies.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digit", type=int, default=7, choices=range(10), help="the normal class")
    parser.add_argument("--out", type=Path, default=Path("runs/anomaly_scores"))
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    options = parser.parse_args(arguments)

    data = load_dataset("mnist5k")
    labels = np.asarray(data.test_labels)
    scores, normal_below = score_all(data, labels, options.digit, epochs=15 if options.quick else 100)
    anomalous = labels != options.digit
    area = float(roc_auc_score(anomalous, scores))
    print(f"normal: {options.digit}; AUROC against all other digits: {area:.3f}")
    for other in sorted(set(labels[anomalous])):
        pair = (labels == options.digit) | (labels == other)
        print(f"  against {other}: {roc_auc_score(labels[pair] == other, scores[pair]):.3f}")
    print(f"below the threshold, which is set for 95 % of new ones: {normal_below:.0%} of the held-out {options.digit}")

    ranked = np.argsort(-scores)
    own = ranked[~anomalous[ranked]]
    others = ranked[anomalous[ranked]]
    rows = {
        "The most anomalous of all held-out digits": ranked[:COLUMNS],
        f"The most anomalous {options.digit}": own[:COLUMNS],
        f"Taken most for a {options.digit}: the least anomalous of the other digits": others[::-1][:COLUMNS],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    images = data.test_images[:, 0].numpy()
    draw(rows, images, scores, labels).savefig(options.out / "anomalies.png", dpi=100)
    print(f"picture in {options.out / 'anomalies.png'}")
    return {"auroc": area, "normal_below_threshold": normal_below}


if __name__ == "__main__":
    main()

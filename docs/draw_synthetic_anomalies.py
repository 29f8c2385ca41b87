"""Draws the picture of docs/anomaly_detection.md: docs/pictures/synthetic_anomalies.png, two seconds."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ald_ext.data import load_dataset
from ald_ext.detection import synthetic_anomalies

PICTURES = Path(__file__).parent / "pictures"
HELD_OUT = 45


def main() -> None:
    data = load_dataset("mnist5k")
    picture = Figure((10, 4), layout="constrained")
    for row, label in enumerate((1, 2, 5, 8)):
        held_out = data.train_images[data.train_labels == label][-HELD_OUT:]
        shown = {"normal": held_out, **synthetic_anomalies(held_out, seed=0)}
        for place, (name, images) in enumerate(shown.items()):
            panel = picture.add_subplot(4, len(shown), row * len(shown) + place + 1)
            panel.imshow(images[0, 0], cmap="gray", vmin=0, vmax=255)
            panel.set_axis_off()
            if row == 0:
                panel.set_title(name, fontsize=9)
    picture.savefig(PICTURES / "synthetic_anomalies.png", dpi=100)


if __name__ == "__main__":
    main()

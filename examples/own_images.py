"""A Langevin autoencoder on a folder of images of one's own; without one, on drawn shapes of mixed sizes.

python examples/own_images.py [FOLDER] [--out DIR] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ald_ext.data import load_dataset
from ald_ext.models import load_model
from ald_ext.models.lae import LAEConfig
from ald_ext.training import TrainingConfig, train
from ald_ext.training.pictures import save_grid

COLOURS = ("red", "orange", "gold", "limegreen", "deepskyblue", "royalblue", "violet", "white")


def draw_shapes(folder: Path, count: int) -> None:
    """Draw PNGs of one coloured shape each, on black, of mixed sizes and aspect ratios."""
    generator = torch.Generator().manual_seed(0)

    def choose(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for number in range(count):
        width, height = choose(40, 97), choose(40, 97)
        image = Image.new("RGB", (width, height))
        draw = ImageDraw.Draw(image)
        # Inside the largest centred square, which is what the loader keeps.
        side = min(width, height)
        radius = choose(side // 6, side // 3)
        x, y = (length // 2 + choose(-side // 8, side // 8 + 1) for length in (width, height))
        colour, kind = COLOURS[choose(0, len(COLOURS))], choose(0, 3)
        if kind == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            draw.regular_polygon((x, y, radius), n_sides=kind + 2, fill=colour)
        image.save(folder / f"{number:04d}.png")


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, writes reconstructions.png, samples.png and interpolations.png; returns errors on held-out images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="of images; without it, shapes are drawn")
    parser.add_argument("--out", type=Path, default=Path("runs/own_images"))
    parser.add_argument("--quick", action="store_true", help="fewer images and epochs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as drawn:
        if options.folder is None:
            draw_shapes(Path(drawn), 200 if options.quick else 1000)
        return run(options.folder or Path(drawn), options.out, epochs=40 if options.quick else 60)


def run(folder: Path, out: Path, epochs: int) -> dict[str, float]:
    """Go in ten lines from a folder of images to a trained model and its pictures."""
    data = load_dataset(str(folder))  # any sizes and formats, 32 x 32 afterwards; a tenth is held out
    batch_size = min(20, len(data.train_images))
    network = LAEConfig(latent_dim=16, width=16)
    config = TrainingConfig("lae", str(folder), epochs=epochs, batch_size=batch_size, lr=2e-3, network=network)
    metrics = train(config, out, data=data, overwrite=True, progress=False)  # reconstructions.png, samples.png, ...
    model = load_model(out / "checkpoint.pt")
    with torch.no_grad():
        images = torch.cat([data.test_images, data.train_images])  # a small folder has few that are held out
        half = min(8, len(images) // 2)
        between = model.interpolate(images[:half], images[half : 2 * half], count=10)
    save_grid(out / "interpolations.png", between.flatten(0, 1), columns=10)

    mean_image = model.to_brightness(data.train_images).mean(0)
    of_the_mean = (model.to_brightness(data.test_images) - mean_image).square().mean().item()
    print(f"{metrics['train_images']} images to train, {metrics['test_images']} held out, {metrics['seconds']:.0f} s")
    print(f"squared error of a pixel, held out: {metrics['test_re']:.4f}; of the mean image: {of_the_mean:.4f}")
    print(f"pictures in {out}: reconstructions.png, samples.png, interpolations.png")
    return {"error": metrics["test_re"], "error_of_the_mean_image": of_the_mean}


if __name__ == "__main__":
    main()

"""Images a second of training with chosen and with fixed numbers of threads, on a machine as it is and made busier.

python -m benchmarks.training.busy_machine [--model ae] [--epochs 4] [--repetitions 5]

Runs are made in alternation: at first on the machine as it is, then beside a process that takes a core. Exits with 1 if
the choice reaches less than 0.97 of the best fixed number, or beside the process less than 0.8 of one thread.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from ald_ext.models import MODELS, config_from_dict
from ald_ext.training import TrainingConfig, fit

from .cases import IMAGES, synthetic_images

#: The shares of the best fixed number's rate below which the command fails.
LEAST_IF_QUIET, LEAST_IF_BUSY = 0.97, 0.8
CHOSEN = None

Rate = Callable[[int | None], float]


@contextlib.contextmanager
def busy_core() -> Iterator[subprocess.Popen[bytes]]:
    """A process that computes all the time."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield process
        finally:
            process.kill()


def share_of_best(rate: Rate, fixed: Sequence[int], repetitions: int) -> float:
    """Median rate of the choice over the best median of a fixed number; forwards and backwards in turn."""
    rates: dict[int | None, list[float]] = {threads: [] for threads in (*fixed, CHOSEN)}
    for repetition in range(repetitions):
        for threads in list(rates)[:: -1 if repetition % 2 else 1]:
            rates[threads].append(rate(threads))
    medians = {threads: statistics.median(values) for threads, values in rates.items()}
    for threads, values in rates.items():
        name = "chosen" if threads is CHOSEN else f"{threads} threads"
        print(f"{name:>12}: {medians[threads]:7.0f} images/s ({min(values):.0f} to {max(values):.0f})", flush=True)
    return medians[CHOSEN] / max(medians[threads] for threads in fixed)


def main() -> None:
    """Compares the rates, and exits with 1 where the choice is too slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ae", choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()

    def rate(threads: int | None) -> float:
        """Of one run, the time of its choices included."""
        name, epochs = options.model, options.epochs
        network = config_from_dict(MODELS[name].config_class, {})
        config = TrainingConfig(model=name, threads=threads, epochs=epochs, evaluate_every=epochs, network=network)
        return epochs * IMAGES / fit(config, synthetic_images(IMAGES)).seconds

    print("the machine as it is")
    quiet = share_of_best(rate, sorted({1, torch.get_num_threads()}), options.repetitions)
    print(f"{quiet:.2f} of the best\nbeside a busy process")
    with busy_core():
        busy = share_of_best(rate, [1], options.repetitions)
    print(f"{busy:.2f} of one thread")
    sys.exit(quiet < LEAST_IF_QUIET or busy < LEAST_IF_BUSY)


if __name__ == "__main__":
    main()

"""Settings of every model from the same small search, which sees no test images."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ...data import ImageData
from ...files import write_json
from ...metrics import GaussianAccumulator, frechet_distance
from ...settings import from_dict, parse_json
from ...training import TrainingConfig, TrainingDivergedError
from ...training.loop import fit
from ..results import Choice, Difference, Job, Trial, contents, fingerprint
from ..workers import Progress
from .budget import device_name, within
from .experiment import ImageExperiment, ImageSettings, extractor_of, load, real_statistics, with_options
from .image_generation import generate

#: The grid: minibatches; lr at minibatches of 25, which grows with the square root of their size; for PSGLD pairs of
#: eps and momentum, where lr is in proportion to eps, as lr/eps is the step of small gradients; eps of a learned prior.
BATCH_SIZES, LRS = (25, 100, 500), (5e-4, 1e-3, 2e-3, 4e-3)
EPS_AND_MOMENTUM = ((0.3, 0.0), (0.1, 0.0), (0.1, 0.9), (0.03, 0.9))
PRIOR_EPS = (0.3, 0.1, 0.01)
#: Trials of the second round.
FINALISTS = 2
#: The last 1/10 of the training images are held out, of which so many at most are looked at.
HELD_OUT_PART, MOST_HELD_OUT = 10, 2000
#: Differences from the paper that a search or seconds make untrue.
NOT_OF_A_SEARCH = {"minibatch, step size", "λ of pSGLD", "λ of energy and sampler, binary and grey images"} | {
    *("LAE on binary images, LAE and CLAE on colour ones", "λ of the LAE's prior"),
}
NOT_OF_SECONDS = {"epochs", "LAE's epochs"}
#: Images that are drawn from each trial's model.
SAMPLES = 1000


def grid_draws(count: int, num_images: int) -> list[dict[str, Any]]:
    """Return so many settings from the grid, the same for every model, which leaves out what it does not have."""
    draw = random.Random(0)
    pairs = draw.sample(list(product(BATCH_SIZES, LRS)), count)
    draws = []
    for batch_size, lr in pairs:
        eps, momentum = draw.choice(EPS_AND_MOMENTUM)
        size = min(batch_size, num_images)
        lr = float(f"{lr * math.sqrt(size / BATCH_SIZES[0]):.3g}")
        own = {"eps": eps, "momentum": momentum, "prior_eps": draw.choice(PRIOR_EPS)}
        draws.append({"batch_size": size, "lr": lr, **own})
    return draws


def differences_of(experiment: ImageExperiment, settings: ImageSettings) -> list[Difference]:
    """Return the differences from the paper, with what seconds and a search put in the place of fixed settings."""
    untrue: set[str] = set()
    instead = []
    if settings.candidates:
        untrue |= NOT_OF_A_SEARCH
        names, ours = "minibatch, step size, λ, momentum", "chosen on held-out training images"
        instead.append(Difference(names, "500, 0.01/n, not printed, none", ours, "the same search for all"))
    if settings.seconds is not None:
        untrue |= NOT_OF_SECONDS
        ours = f"as many as take {settings.seconds:g} s"
        instead.append(Difference("epochs", "not printed", ours, "every model has the same time"))
    return [*(each for each in experiment.differences if each.setting not in untrue), *instead]


def held_out(data: ImageData) -> ImageData:
    """Return the training images without their last tenth, and that tenth in the place of the test images."""
    kept = len(data.train_images) - max(1, len(data.train_images) // HELD_OUT_PART)
    validation = data.train_images[kept:][:MOST_HELD_OUT]
    return ImageData(data.train_images[:kept], None, validation, None, name=data.name)


def trials_of(
    experiment: ImageExperiment, settings: ImageSettings, dataset: str, model: str, runs: Path
) -> list[tuple[dict[str, Any], list[TrainingConfig]]]:
    """Return what the search tries: settings, and how they are trained in the first and in the second round.

    A round takes half of ``settings.seconds`` in all. The speeds that this needs are measured now if they are not yet.
    """
    data = held_out(load(dataset, settings))
    base = experiment.training_config(settings, Job(dataset, model, 0), data.train_images)
    assert settings.seconds is not None
    tried = []
    for options in grid_draws(settings.candidates, len(data.train_images)):
        readable = {name for name in options if hasattr(base, name) or hasattr(base.network, name)}
        given = dict(settings.options)
        own = {name: options[name] for name in options if name in readable - base.unread().keys() - given.keys()}
        if {"eps", "lr"} <= own.keys():
            own["lr"] = float(f"{own['lr'] * own['eps'] / EPS_AND_MOMENTUM[0][0]:.3g}")
        config = with_options(base, {**own, **given})
        shares = (settings.candidates, min(FINALISTS, settings.candidates))
        tried.append((own, [within(settings.seconds / 2 / share, config, data, runs) for share in shares]))
    return tried


def choice_file(settings: ImageSettings, dataset: str, model: str, runs: Path) -> Path:
    """Return where the choice for a data set and a model is kept."""
    data = load(dataset, settings)
    names = ("width", "latent_dim", "seconds", "candidates", "options", "extractor", "frechet_samples")
    values = {name: getattr(settings, name) for name in names} | {"images": contents(data.train_images)}
    if settings.device != "cpu":  # another GPU makes other numbers of steps
        values["device"] = device_name(settings.device)
    key = fingerprint(values)
    return runs / "choices" / f"{dataset}-{model}-{key}.json"


def read_choice(path: Path) -> Choice | None:
    """Return the choice in a file; None where there is none, or a damaged one, which is then made again."""
    try:
        return from_dict(Choice, parse_json(path.read_bytes(), str(path)), str(path))
    except (FileNotFoundError, ValueError):
        return None


def choose(argument: tuple[ImageExperiment, ImageSettings, str, str, Path], progress: Progress) -> Choice:
    """Return the settings of a model on a data set, searched for now unless they were before.

    All candidates are trained on nine tenths of the training images; the best two once more and longer. The best has
    the least score on the others: RE times the Fréchet distance of samples, or RE alone where a model has no prior.
    ``progress`` is called with the number of trials that ended.
    """
    experiment, settings, dataset, model, runs = argument
    path = choice_file(settings, dataset, model, runs)
    finalists = min(FINALISTS, settings.candidates)
    if (choice := read_choice(path)) is not None:
        progress(settings.candidates + finalists)
        return choice
    data = held_out(load(dataset, settings))
    tried = trials_of(experiment, settings, dataset, model, runs)
    rounds: list[Trial] = []
    order = list(range(len(tried)))
    for number in (0, 1):
        of_round = []
        for place in order:
            options, configs = tried[place]
            of_round.append(measure(options, configs[number], number + 1, data, settings, runs, progress))
            progress(1)
        rounds += of_round
        ranking = sorted(range(len(order)), key=lambda at: score_of(of_round[at]))
        if not math.isfinite(score_of(of_round[ranking[0]])):
            raise TrainingDivergedError(f"{model} on {dataset}: all that was tried in round {number + 1} diverged")
        order = [order[at] for at in ranking[:finalists]]
    choice = Choice(dataset, model, tried[order[0]][0], rounds)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(choice))
    return choice


def score_of(trial: Trial) -> float:
    return math.inf if trial.score is None else trial.score


def measure(
    options: dict[str, Any],
    config: TrainingConfig,
    number: int,
    data: ImageData,
    settings: ImageSettings,
    runs: Path,
    progress: Progress,
) -> Trial:
    """Return what a trial gave on the held-out images, which stand where test images do; None if it diverged."""
    steps = config.length(len(data.train_images))[1]
    try:
        run = fit(replace(config, ensemble_size=0), data, progress=lambda _: progress(0))
    except TrainingDivergedError:
        return Trial(options, number, steps, None, None, None)
    error, distance = float(run.history[-1]["test_re"]), None
    if run.model.has_prior:
        extractor, accumulator = extractor_of(settings), GaussianAccumulator()
        samples = generate(run.model, min(SAMPLES, settings.frechet_samples))
        accumulator.update(torch.cat([extractor(batch).cpu() for batch in samples.split(100)]))
        real = real_statistics(replace(data, train_images=data.test_images), settings, runs)
        distance = frechet_distance(real, accumulator.statistics())
    score = error if distance is None else error * distance
    if not math.isfinite(score):
        return Trial(options, number, steps, None, None, None)
    return Trial(options, number, steps, error, distance, score)

"""Samplers of other libraries, tuned by their own warm-up; each library is imported where it is used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .runs import Run, Sampler, Settings
from .targets import Target

#: One thread for JAX on a CPU, as for PyTorch here; read when JAX is imported.
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def run_chains(
    make: Callable[..., Any], target: Target, settings: Settings, *, side_by_side: bool = True, dtype: str = "float32"
) -> Run:
    """Run chains of JAX, side by side by vmap or one after the other, whichever suits the sampler.

    ``make(jax, log density, settings)`` gives a function of a chain's key and initial state, which returns the draws,
    the number of gradients, and that of divergences.
    """
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    import jax

    from .jax_targets import log_density

    chain = make(jax, log_density(target.name), settings)
    start = jax.numpy.asarray(settings.start(target), dtype=dtype)
    keys = jax.random.split(jax.random.key(settings.seed), settings.chains)
    chains = jax.vmap(chain) if side_by_side else lambda *inputs: jax.lax.map(lambda one: chain(*one), inputs)
    begin = time.process_time()
    compiled = jax.jit(chains).lower(keys, start).compile()
    compiled_at = time.process_time()
    draws, gradients, divergences = jax.block_until_ready(compiled(keys, start))
    seconds = time.process_time() - compiled_at
    draws = np.array(draws, dtype=np.float64).swapaxes(0, 1)
    total, diverged = (int(np.asarray(counts, dtype=np.int64).sum()) for counts in (gradients, divergences))
    return Run(draws, total, seconds, compiled_at - begin, diverged)


def scan_draws(jax: Any, step: Callable[[Any, Any], Any], state: Any, key: Any, number: int) -> Any:
    """Return positions and infos of so many steps of blackjax."""

    def body(state: Any, key: Any) -> Any:
        state, info = step(key, state)
        return state, (state.position, info)

    return jax.lax.scan(body, state, jax.random.split(key, number))[1]


def window_adapted(jax: Any, log_density: Any, settings: Settings, *, name: str, **options: Any) -> Any:
    """A sampler of blackjax after its window adaptation."""
    import blackjax

    algorithm = getattr(blackjax, name)
    warm_up = blackjax.window_adaptation(algorithm, log_density, **options)

    def chain(key: Any, start: Any) -> Any:
        warm_up_key, key = jax.random.split(key)
        (state, parameters), adaptation = warm_up.run(warm_up_key, start, num_steps=settings.warm_up)
        step = algorithm(log_density, **parameters).step
        positions, info = scan_draws(jax, step, state, key, settings.draws)
        gradients = 1 + adaptation.info.num_integration_steps.sum() + info.num_integration_steps.sum()
        return positions, gradients, info.is_divergent.sum()

    return chain


def blackjax_mala(jax: Any, log_density: Any, settings: Settings) -> Any:
    """MALA, which has no warm-up there: blackjax's dual averaging to an acceptance of .574 in half of it."""
    import blackjax
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    kernel, half = blackjax.mala.build_kernel(), settings.warm_up // 2
    begin, update, final = dual_averaging_adaptation(0.574)

    def chain(key: Any, start: Any) -> Any:
        adapt_key, key = jax.random.split(key)

        def adapt(carry: Any, key: Any) -> Any:
            state, adaptation = carry
            state, info = kernel(key, state, log_density, jax.numpy.exp(adaptation.log_step_size))
            return (state, update(adaptation, info.acceptance_rate)), None

        carry = (blackjax.mala.init(start, log_density), begin(0.1))
        (state, adaptation), _ = jax.lax.scan(adapt, carry, jax.random.split(adapt_key, half))
        step_size, steps = final(adaptation), settings.warm_up - half + settings.draws
        positions, _ = scan_draws(jax, lambda key, state: kernel(key, state, log_density, step_size), state, key, steps)
        return positions[-settings.draws :], half + steps + 1, 0

    return chain


def blackjax_mclmc(jax: Any, log_density: Any, settings: Settings) -> Any:
    """Unadjusted microcanonical Langevin with blackjax's tuning; a step of its integrator takes two gradients."""
    import blackjax

    kernel = blackjax.mcmc.mclmc.build_kernel()

    def chain(key: Any, start: Any) -> Any:
        init_key, tune_key, key = jax.random.split(key, 3)
        state = blackjax.mcmc.mclmc.init(start, log_density, init_key)
        tuned = blackjax.mclmc_find_L_and_step_size(
            kernel, num_steps=settings.warm_up, state=state, rng_key=tune_key, logdensity_fn=log_density
        )
        state, parameters, tuning_steps = tuned
        step = blackjax.mclmc(log_density, **parameters._asdict()).step
        positions, _ = scan_draws(jax, step, state, key, settings.draws)
        return positions, 1 + 2 * (tuning_steps + settings.draws), 0

    return chain


def numpyro_nuts(jax: Any, log_density: Any, settings: Settings) -> Any:
    from numpyro.infer import NUTS

    kernel = NUTS(potential_fn=lambda z: -log_density(z))

    def chain(key: Any, start: Any) -> Any:
        def body(state: Any, _: Any) -> Any:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        state = kernel.init(key, settings.warm_up, start, (), {})
        _, (z, steps, diverging) = jax.lax.scan(body, state, None, settings.warm_up + settings.draws)
        return z[settings.warm_up :], 1 + steps.sum(), diverging[settings.warm_up :].sum()

    return chain


def pyro_nuts(target: Target, settings: Settings) -> Run:
    """Chains one after the other, as its kernel takes one; so only PYRO_CHAINS of them, as a step is slow."""
    import torch
    from pyro.infer import MCMC, NUTS

    gradients = 0

    def potential(parameters: Any) -> Any:
        nonlocal gradients
        gradients += 1
        return -target.log_density(parameters["z"])

    torch.manual_seed(settings.seed)
    start = torch.as_tensor(settings.start(target)[:PYRO_CHAINS], dtype=torch.float32)
    draws, divergences = [], 0
    begin = time.process_time()
    for z in start:
        chain = MCMC(
            NUTS(potential_fn=potential),
            num_samples=settings.draws,
            warmup_steps=settings.warm_up,
            initial_params={"z": z},
            disable_progbar=True,
        )
        chain.run()
        draws.append(chain.get_samples()["z"].double().numpy())
        divergences += len(chain.diagnostics()["divergences"]["chain 0"])
    return Run(np.stack(draws, 1), gradients, time.process_time() - begin, divergences=divergences)


def posteriors_baoa(target: Target, settings: Settings) -> Run:
    """Chains side by side, at the share of a leapfrog step to which MALA of ald_ext adapts: it has no adaptation."""
    import posteriors
    import torch

    from .ours import UNADJUSTED_SHARE, CountedPotential, pilot

    potential = CountedPotential(target)
    z = torch.as_tensor(settings.start(target), dtype=torch.float32)
    torch.manual_seed(settings.seed)
    begin = time.process_time()
    first = pilot(potential, z[None], settings)
    step_size = UNADJUSTED_SHARE * (2 * float(first.step_size)) ** 0.5
    transform = posteriors.sgmcmc.baoa.build(
        lambda z, _: (-potential(None, z).sum(), torch.zeros(())), step_size, alpha=1.0
    )
    state, draws = transform.init(first.z[0]), []
    for _ in range(settings.warm_up - first.adapt_steps + settings.draws):
        state, _ = transform.update(state, None)
        draws.append(state.params.double().numpy())
    return Run(np.stack(draws[-settings.draws :]), potential.rows, time.process_time() - begin)


PYRO_CHAINS = 2

#: By name: the package, and what runs.
PEERS: dict[str, tuple[str, Sampler]] = {
    "blackjax NUTS": ("blackjax", partial(run_chains, partial(window_adapted, name="nuts"))),
    "blackjax HMC": ("blackjax", partial(run_chains, partial(window_adapted, name="hmc", num_integration_steps=10))),
    "blackjax MALA": ("blackjax", partial(run_chains, blackjax_mala)),
    "blackjax MCLMC": ("blackjax", partial(run_chains, blackjax_mclmc)),
    "numpyro NUTS": ("numpyro", partial(run_chains, numpyro_nuts)),
    "pyro NUTS": ("pyro", pyro_nuts),
    "posteriors BAOA": ("posteriors", posteriors_baoa),
}

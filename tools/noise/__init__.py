"""The tests of the noise: `python -m tools.noise`."""

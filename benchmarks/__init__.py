"""What is measured of the speed: `python -m benchmarks.speed`, `.training`, and `.page`, which writes the page."""

"""What is run beside the package: releases, checks of its noise and its training, the tables of the README."""

"""Posteriors of small networks on real data: how good their predictions are, and whether settings are well chosen."""

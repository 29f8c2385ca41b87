"""How long tests wait for the processes that they start."""

#: Seconds, far more than a starved machine needs: what takes longer hangs.
PATIENCE = 1800

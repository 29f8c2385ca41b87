"""The command ``ald-ext`` as ``python -m ald_ext``, which torchrun starts by ``torchrun -m ald_ext``."""

from .cli import main

if __name__ == "__main__":
    main()

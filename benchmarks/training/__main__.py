"""Measures whole training steps and writes <out>/training_<device>.json.

python -m benchmarks.training --out benchmarks/results [--device cpu|cuda] [--quick] [--threads N]
[--time-limit SECONDS]
"""

import torch

from ..harness import measure, parse_arguments
from .cases import training_cases

#: Seconds a model of a case is measured for at least, and with --quick.
BUDGET_S, QUICK_BUDGET_S = 8.0, 0.05


def main() -> None:
    arguments = parse_arguments(__doc__)
    device = torch.device(arguments.device)
    cases = training_cases(device, arguments.quick)
    facts = {"settings": [case.settings() for case in cases]}
    budget_s = QUICK_BUDGET_S if arguments.quick else BUDGET_S
    measure(arguments.out / f"training_{device.type}.json", arguments, cases, budget_s, facts)


if __name__ == "__main__":
    main()

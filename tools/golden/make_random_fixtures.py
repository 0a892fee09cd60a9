"""What torch's CPU generator draws from a few seeds.

    python make_random_fixtures.py ../../core/src/test/resources/golden/random.json
"""

import sys
from pathlib import Path

import torch

from common import save_json

SEEDS = [0, 777, 2**33 + 5, -3]


def draws(seed: int) -> dict:
    """One stream: each list goes on where the one before it stopped."""
    g = torch.Generator().manual_seed(seed)
    bound = (6 / 7) ** 0.5
    return dict(
        uniform=torch.empty(3, 7).uniform_(-bound, bound, generator=g).flatten().tolist(),
        uniform_bfloat16=torch.empty(20, dtype=torch.bfloat16).uniform_(-0.3, 0.3, generator=g).tolist(),
        rand=torch.rand(5, generator=g).tolist(),
        randperm=torch.randperm(50, generator=g).tolist(),
        randn=torch.randn(37, generator=g).tolist(),
    )


save_json(Path(sys.argv[1]), {str(seed): draws(seed) for seed in SEEDS})

"""The exercise of lesson 12: right answers pass however they are written, wrong ones read their
mistake.
"""

import numpy as np
import torch


def literal_calibration(probabilities, targets, bins=15, reduce=None):
    out = []
    for p, t in zip(probabilities.T.numpy().astype(float), targets.T.numpy(), strict=True):
        which = np.minimum((p.astype(np.float32) * bins).astype(int), bins - 1)
        parts = [
            (np.mean(which == k), abs(p[which == k].mean() - t[which == k].mean()))
            for k in range(bins)
            if (which == k).any()
        ]
        out.append(reduce(parts) if reduce else sum(share * gap for share, gap in parts))
    return torch.tensor(out, dtype=torch.float32)


RIGHT = {"calibration_error": [literal_calibration]}
WRONG = {
    "calibration_error": {
        "weigh each by its share": lambda p, t, b=15: literal_calibration(
            p, t, b, lambda parts: np.mean([g for _, g in parts])
        ),
        "every single image": lambda p, t, b=15: (p - t).abs().mean(0),
        "would cancel": lambda p, t, b=15: (p.mean(0) - t.mean(0)).abs(),
        "square": lambda p, t, b=15: literal_calibration(
            p, t, b, lambda parts: sum(s * g * g for s, g in parts)
        ),
    },
}

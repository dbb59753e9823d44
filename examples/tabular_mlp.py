"""A multilayer perceptron for tables: a row of numbers in, one logit a class out.

The digits are such a table: 64 columns, each the brightness of one pixel.

    geocollapse measure examples/tabular_mlp.py:tabular_mlp digits --model-arg "hidden=[64, 32]"
"""

from collections.abc import Sequence

from torch import nn


def tabular_mlp(
    n_columns: int = 64, num_classes: int = 10, hidden: Sequence[int] = (128, 64)
) -> nn.Sequential:
    """Blocks of Linear, LayerNorm and GELU, and a linear classifier ``head`` behind the last."""
    model = nn.Sequential(nn.Flatten())
    for number, (before, after) in enumerate(zip((n_columns, *hidden), hidden)):
        model.add_module(
            f"block{number}",
            nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.GELU()),
        )
    model.add_module("head", nn.Linear(hidden[-1], num_classes))
    return model

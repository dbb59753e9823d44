"""All comparisons, in the order of the table."""

from __future__ import annotations

import rows_collapse
import rows_complexity
import rows_morse
import rows_optimizers
import rows_penalty
import rows_rank
import rows_scores
import rows_training

ROWS = (
    *rows_complexity.ROWS,
    *rows_collapse.ROWS,
    *rows_penalty.ROWS,
    *rows_optimizers.ROWS,
    *rows_rank.ROWS,
    *rows_scores.ROWS,
    *rows_training.ROWS,
    *rows_morse.ROWS,
)

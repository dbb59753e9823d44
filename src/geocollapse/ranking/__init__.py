"""Which of several models will transfer best: accuracy, scores, ties and advice.

The files, in the order they build on each other: kernels and scores (all scores of one sample);
accuracy (few-shot, with the error over examples); ties (paired tests of all pairs); agreement (of
a score with the measured order); json_form and result; advice; candidate (a model to rank and its
features); model; order (from features to a ranking); run; table; comparison (of two models,
measure by measure), comparison_table, two_models.
"""

from geocollapse.ranking.comparison import Comparison as Comparison
from geocollapse.ranking.result import Ranking as Ranking
from geocollapse.ranking.run import rank as rank
from geocollapse.ranking.scores import COMPUTED as COMPUTED
from geocollapse.ranking.scores import Null as Null
from geocollapse.ranking.scores import Score as Score
from geocollapse.ranking.scores import ScoreDict as ScoreDict
from geocollapse.ranking.scores import score_all as score_all
from geocollapse.ranking.two_models import compare as compare

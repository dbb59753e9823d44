"""Which of several models will transfer best: scores of one sample, with error and null."""

from geocollapse.ranking.scores import COMPUTED as COMPUTED
from geocollapse.ranking.scores import Null as Null
from geocollapse.ranking.scores import Score as Score
from geocollapse.ranking.scores import ScoreDict as ScoreDict
from geocollapse.ranking.scores import score_all as score_all

"""How features transfer: few-shot accuracy with labels, and baselines without them."""

from geocollapse.transfer.curves import LearningCurve as LearningCurve
from geocollapse.transfer.curves import learning_curve as learning_curve
from geocollapse.transfer.episode_classifier import EpisodeClassifier as EpisodeClassifier
from geocollapse.transfer.few_shot import Classifier as Classifier
from geocollapse.transfer.few_shot import FewShotAccuracy as FewShotAccuracy
from geocollapse.transfer.few_shot import few_shot_accuracy as few_shot_accuracy
from geocollapse.transfer.few_shot import paired_difference as paired_difference
from geocollapse.transfer.full_data import FullDataAccuracy as FullDataAccuracy
from geocollapse.transfer.full_data import full_data_accuracy as full_data_accuracy
from geocollapse.transfer.label_free import LabelFree as LabelFree
from geocollapse.transfer.label_free import LabelFreeDict as LabelFreeDict
from geocollapse.transfer.label_free import alpha_req as alpha_req
from geocollapse.transfer.label_free import effective_rank as effective_rank
from geocollapse.transfer.label_free import feature_norm as feature_norm
from geocollapse.transfer.label_free import rankme as rankme
from geocollapse.transfer.nearest_mean import NearestMean as NearestMean
from geocollapse.transfer.nearest_mean import NormalisedNearestMean as NormalisedNearestMean
from geocollapse.transfer.neighbours import NearestNeighbours as NearestNeighbours
from geocollapse.transfer.probes import LinearProbe as LinearProbe
from geocollapse.transfer.probes import LogisticProbe as LogisticProbe
from geocollapse.transfer.summary import TransferDict as TransferDict
from geocollapse.transfer.summary import summarise as summarise
from geocollapse.transfer.summary import transfer as transfer

"""How features transfer: few-shot accuracy with labels, and baselines without them."""

from geocollapse.transfer.few_shot import Classifier as Classifier
from geocollapse.transfer.few_shot import TransferDict as TransferDict
from geocollapse.transfer.few_shot import few_shot_accuracy as few_shot_accuracy
from geocollapse.transfer.few_shot import transfer as transfer
from geocollapse.transfer.label_free import LabelFree as LabelFree
from geocollapse.transfer.label_free import LabelFreeDict as LabelFreeDict
from geocollapse.transfer.label_free import alpha_req as alpha_req
from geocollapse.transfer.label_free import effective_rank as effective_rank
from geocollapse.transfer.label_free import feature_norm as feature_norm
from geocollapse.transfer.label_free import rankme as rankme
from geocollapse.transfer.predicted_error import predicted_error as predicted_error
from geocollapse.transfer.predicted_error import predicted_errors as predicted_errors
from geocollapse.transfer.prediction import Prediction as Prediction
from geocollapse.transfer.prediction import quick_prediction as quick_prediction

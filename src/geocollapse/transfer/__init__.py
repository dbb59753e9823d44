"""How features transfer: few-shot accuracy, scores with labels, and baselines without them."""

from geocollapse.transfer.few_shot import Classifier as Classifier
from geocollapse.transfer.few_shot import TransferDict as TransferDict
from geocollapse.transfer.few_shot import few_shot_accuracy as few_shot_accuracy
from geocollapse.transfer.few_shot import transfer as transfer
from geocollapse.transfer.h_score import h_score as h_score
from geocollapse.transfer.h_score import vci as vci
from geocollapse.transfer.knn import loo_knn_accuracy as loo_knn_accuracy
from geocollapse.transfer.label_free import LabelFree as LabelFree
from geocollapse.transfer.label_free import LabelFreeDict as LabelFreeDict
from geocollapse.transfer.label_free import alpha_req as alpha_req
from geocollapse.transfer.label_free import effective_rank as effective_rank
from geocollapse.transfer.label_free import feature_norm as feature_norm
from geocollapse.transfer.label_free import rankme as rankme
from geocollapse.transfer.leep import leep as leep
from geocollapse.transfer.leep import nleep as nleep
from geocollapse.transfer.logme import logme as logme
from geocollapse.transfer.ncti import NctiParts as NctiParts
from geocollapse.transfer.ncti import ncti as ncti
from geocollapse.transfer.ncti import ncti_of_models as ncti_of_models
from geocollapse.transfer.ncti import ncti_parts as ncti_parts
from geocollapse.transfer.parc import parc as parc
from geocollapse.transfer.parc import parc_sampled as parc_sampled
from geocollapse.transfer.transrate import transrate as transrate

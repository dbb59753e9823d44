"""Named data sets: selection, labelled (tensors and images), preprocessing of images, sources,
texts, loading.
"""

from geocollapse.data.augmentation import crop_and_flip as crop_and_flip
from geocollapse.data.labelled import About as About
from geocollapse.data.labelled import LabelledData as LabelledData
from geocollapse.data.labelled import LabelledImages as LabelledImages
from geocollapse.data.loading import load as load
from geocollapse.data.loading import parse_spec as parse_spec
from geocollapse.data.preprocessing import ImagePreprocessing as ImagePreprocessing
from geocollapse.data.selection import parse_classes as parse_classes
from geocollapse.data.sources import SOURCES as SOURCES
from geocollapse.data.sources import DataSource as DataSource
from geocollapse.data.texts import LabelledTexts as LabelledTexts
from geocollapse.data.texts import LabelledTokens as LabelledTokens

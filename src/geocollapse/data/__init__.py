"""Named data sets, and labelled data of one's own.

The files, in the order they build on each other: selection, naming (classes from names),
augmentation, columns (of tables) and fingerprint (of what a model sees); preprocessing (of one
image); image_files (images that are decoded when asked for); labelled (tensors and images);
random_labels; pixels (normalisation of images); folders; parquet_shards, parquet_labels, spool and
parquet (images in tables); tokens, token_rows and texts; sources (the named data sets); text_files;
raw (loaded data made ready for a model); loading.
"""

from geocollapse.data.augmentation import crop_and_flip as crop_and_flip
from geocollapse.data.labelled import About as About
from geocollapse.data.labelled import Classes as Classes
from geocollapse.data.labelled import LabelledData as LabelledData
from geocollapse.data.labelled import LabelledImages as LabelledImages
from geocollapse.data.loading import load as load
from geocollapse.data.loading import parse_spec as parse_spec
from geocollapse.data.pixels import Normalisation as Normalisation
from geocollapse.data.pixels import Pixels as Pixels
from geocollapse.data.preprocessing import ImagePreprocessing as ImagePreprocessing
from geocollapse.data.random_labels import random_labels as random_labels
from geocollapse.data.random_labels import with_random_labels as with_random_labels
from geocollapse.data.raw import Labelled as Labelled
from geocollapse.data.raw import RawImages as RawImages
from geocollapse.data.raw import made_ready as made_ready
from geocollapse.data.selection import parse_classes as parse_classes
from geocollapse.data.sources import SOURCES as SOURCES
from geocollapse.data.sources import DataSource as DataSource
from geocollapse.data.texts import LabelledTexts as LabelledTexts
from geocollapse.data.token_rows import TokenRows as TokenRows
from geocollapse.data.tokens import LabelledTokens as LabelledTokens
from geocollapse.data.tokens import Tokenizer as Tokenizer

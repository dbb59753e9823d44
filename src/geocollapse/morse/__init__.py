"""Morse networks: densities on top of a map, for detection, calibration and sampling.

The files, in the order they build on each other: kernels, noise, maps (a dense map), training,
sampler, density (what both networks share), network, classifier, diagnostics (the Morse-Bott
condition), calibration, scores (of detection), files, detector (fitted on features).
"""

from geocollapse.morse.calibration import Reliability as Reliability
from geocollapse.morse.calibration import reliability as reliability
from geocollapse.morse.calibration import tempered_logits as tempered_logits
from geocollapse.morse.classifier import MorseClassifier as MorseClassifier
from geocollapse.morse.detector import DetectorSettings as DetectorSettings
from geocollapse.morse.detector import fit_detector as fit_detector
from geocollapse.morse.detector import outlier_scores as outlier_scores
from geocollapse.morse.diagnostics import MorseBott as MorseBott
from geocollapse.morse.diagnostics import morse_bott as morse_bott
from geocollapse.morse.files import load_network as load_network
from geocollapse.morse.files import save_network as save_network
from geocollapse.morse.kernels import KERNELS as KERNELS
from geocollapse.morse.kernels import kernel_exponent as kernel_exponent
from geocollapse.morse.maps import DenseMap as DenseMap
from geocollapse.morse.maps import dense_map as dense_map
from geocollapse.morse.network import MorseNetwork as MorseNetwork
from geocollapse.morse.noise import Box as Box
from geocollapse.morse.sampler import SampleSettings as SampleSettings
from geocollapse.morse.scores import Detection as Detection
from geocollapse.morse.scores import detection as detection
from geocollapse.morse.training import FitRecord as FitRecord
from geocollapse.morse.training import FitSettings as FitSettings

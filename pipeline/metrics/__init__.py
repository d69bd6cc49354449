"""How far predicted hands are from true ones, as each benchmark measures it: per sample, summed, broken down."""

from pipeline.metrics.breakdown import Breakdown, BreakdownRow, occlusion_bins
from pipeline.metrics.per_sample import absolute_errors, sample_errors
from pipeline.metrics.protocols import PROTOCOLS, Protocol
from pipeline.metrics.sums import MetricSums

__all__ = [
    "PROTOCOLS",
    "Breakdown",
    "BreakdownRow",
    "MetricSums",
    "Protocol",
    "absolute_errors",
    "occlusion_bins",
    "sample_errors",
]

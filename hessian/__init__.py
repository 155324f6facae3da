"""What does removing a channel cost? Channel groups, Kronecker factors, OBS algebra and H-OBS."""

from hessian.channels import ChannelGroup, UnsupportedStructureError, find_channel_groups
from hessian.hobs import HOBSSensitivityAnalyzer
from hessian.kfac import KFACHessianApproximator, KroneckerFactors

__all__ = [
    "ChannelGroup",
    "HOBSSensitivityAnalyzer",
    "KFACHessianApproximator",
    "KroneckerFactors",
    "UnsupportedStructureError",
    "find_channel_groups",
]

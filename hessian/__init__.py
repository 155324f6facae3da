"""What does removing a channel cost? Channel groups, Kronecker factors, OBS algebra and H-OBS.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.channels import ChannelGroup, UnsupportedStructureError, find_channel_groups
    from hessian.hobs import HOBSSensitivityAnalyzer
    from hessian.kfac import KFACHessianApproximator
    from hessian.moments import KroneckerFactors

__all__ = [
    "ChannelGroup",
    "HOBSSensitivityAnalyzer",
    "KFACHessianApproximator",
    "KroneckerFactors",
    "UnsupportedStructureError",
    "find_channel_groups",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ChannelGroup": "channels",
        "HOBSSensitivityAnalyzer": "hobs",
        "KFACHessianApproximator": "kfac",
        "KroneckerFactors": "moments",
        "UnsupportedStructureError": "channels",
        "find_channel_groups": "channels",
    },
)

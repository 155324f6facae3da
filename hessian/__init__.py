"""The cost of removing a channel: channel groups, Kronecker factors, OBS algebra and H-OBS.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from hessian.channels.group import ChannelGroup, UnsupportedStructureError
    from hessian.discovery.find import find_channel_groups
    from hessian.hobs import HOBSSensitivityAnalyzer
    from hessian.kfac.approximator import KFACHessianApproximator
    from hessian.obs.factors import KroneckerFactors

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
        "ChannelGroup": "channels.group",
        "HOBSSensitivityAnalyzer": "hobs",
        "KFACHessianApproximator": "kfac.approximator",
        "KroneckerFactors": "obs.factors",
        "UnsupportedStructureError": "channels.group",
        "find_channel_groups": "discovery.find",
    },
)

"""From sRGB to CIE L*a*b*, where equal distances look about equally different.

sRGB's curve and primaries: IEC 61966-2-1; L*a*b* with the D65 white of the 2° observer: CIE 15:2004, section 8.2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_XYZ_FROM_LINEAR_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE_XYZ = np.array([0.95047, 1.0, 1.08883])


def rgb_to_lab(rgb: FloatArray) -> FloatArray:
    """L*, a*, b* (..., 3) of sRGB colours (..., 3) on the scale 0–1: L* from 0 to 100, a* and b* about −100 to 100."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ_FROM_LINEAR_RGB.T / _WHITE_XYZ
    x, y, z = np.moveaxis(np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)

# SPDX-License-Identifier: Apache-2.0
"""How pictures become video. Apart from the encoder, which loads LeRobot and torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoSettings:
    """How pictures become video, in the terms of ``lerobot.configs.RGBEncoderConfig``.

    Attributes:
        vcodec: ``libsvtav1``, ``h264``, or another that LeRobot knows.
        crf: Quality; lower is better and larger. None for the codec's default.
        preset: Speed against size in the codec's own terms. None for LeRobot's default.
        gop: Frames from key frame to key frame; 2 lets training seek anywhere.
    """

    vcodec: str = "libsvtav1"
    crf: int | None = 30
    preset: int | str | None = None
    gop: int = 2

    @classmethod
    def of_options(cls, vcodec: str, crf: int | None, preset: str | None) -> "VideoSettings":
        """Settings as a command line gives them: a preset may be a number or a name."""
        number = int(preset) if preset and preset.isdecimal() else preset
        return cls(vcodec=vcodec, crf=crf, preset=number)

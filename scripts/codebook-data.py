#!/usr/bin/env python3
"""What formats of 4-bit codebooks mean, by other implementations: tests/data/codebooks.json.

    python3 -m venv venv && venv/bin/pip install ml_dtypes==0.6.0 gguf==0.19.0
    venv/bin/python scripts/codebook-data.py tests/data

Numbers of four and eight bits are those of ml_dtypes; blocks of MXFP4 are packed and read by llama.cpp's
Python package gguf; NVFP4 is ml_dtypes' numbers and numpy's 32-bit arithmetic. bitsandbytes' own package needs
PyTorch: its tables are computed as its documentation defines them, NF4 from quantiles of the normal
distribution, for which bitsandbytes' digits are another implementation's, and so compared with a tolerance.
An f32 is written as its bits.
"""

import json
import sys
from pathlib import Path
from statistics import NormalDist

import gguf==0.19.0
import ml_dtypes
import numpy

EVERY_BYTE = numpy.arange(256, dtype=numpy.uint8)


def bits(values):
    return numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32).ravel().tolist()


def quantiles():
    """NF4: eight quantiles of each half, from the offset at which both ends get the same share, and zero."""
    ends = 0.9677083
    inverse = NormalDist().inv_cdf
    positive = [inverse(p) for p in numpy.linspace(ends, 0.5, 9)[:-1]]
    negative = [-inverse(p) for p in numpy.linspace(ends, 0.5, 8)[:-1]]
    table = numpy.sort(numpy.array(positive + [0.0] + negative))
    return (table / table.max()).tolist()


def fp4():
    magnitudes = numpy.array([0, 0.0625, 8, 12, 4, 6, 2, 3], dtype=numpy.float32)
    magnitudes = magnitudes / numpy.float32(12)
    return bits(numpy.concatenate([magnitudes, -magnitudes]))


def mxfp4(rng):
    k, n = 96, 3
    kind = gguf.GGMLQuantizationType.MXFP4
    weights = (rng.standard_normal((n, k)) * 2.0 ** rng.integers(-30, 30, (n, 1))).astype(numpy.float32)
    blocks = gguf.quants.quantize(weights, kind)
    exact = gguf.quants.dequantize(blocks, kind)
    return {"k": k, "n": n, "blocks": blocks.ravel().tolist(), "exact": bits(exact)}


def nvfp4(rng):
    k, n = 48, 5
    matrix = numpy.float32(0.0123)
    scales = rng.uniform(0.002, 400, (n, k // 16)).astype(ml_dtypes.float8_e4m3fn)
    codes = rng.uniform(-6, 6, (n, k)).astype(ml_dtypes.float4_e2m1fn)
    raw = codes.view(numpy.uint8) & 15
    wide = codes.astype(numpy.float32)
    groups = numpy.repeat(scales.astype(numpy.float32), 16, axis=1)
    return {
        "k": k,
        "n": n,
        "weight": (raw[:, ::2] | raw[:, 1::2] << 4).ravel().tolist(),
        "weight_scale": scales.view(numpy.uint8).ravel().tolist(),
        "matrix": bits(matrix)[0],
        "times": bits(wide * (groups * matrix)),
        "over": bits(wide * (groups / matrix)),
    }


def main():
    rng = numpy.random.default_rng(1)
    data = {
        "e2m1": bits(EVERY_BYTE[:16].view(ml_dtypes.float4_e2m1fn)),
        "e8m0": bits(EVERY_BYTE[:255].view(ml_dtypes.float8_e8m0fnu)),
        "e4m3": bits(EVERY_BYTE.view(ml_dtypes.float8_e4m3fn)),
        "nf4": quantiles(),
        "fp4": fp4(),
        "mxfp4": mxfp4(rng),
        "nvfp4": nvfp4(rng),
    }
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in data.items())
    (Path(sys.argv[1]) / "codebooks.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()

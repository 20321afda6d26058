//! Tables of sixteen numbers, and numbers of eight bits.

/// What a code of four bits stands for, before it is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codebook {
    /// A sign, two bits of exponent and one of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
    /// negatives, as OCP's microscaling formats (MX) have it.
    E2m1,
    /// bitsandbytes' `nf4`: quantiles of the normal distribution, from -1 to 1.
    Nf4,
    /// bitsandbytes' `fp4`: a sign, and a magnitude in twelfths. Not e2m1: the smallest is a sixteenth
    /// of a twelfth, and codes are in another order.
    Fp4,
}

/// A number and its negative for each of eight codes and those with the highest bit.
const fn signed(magnitudes: [f32; 8]) -> [f32; 16] {
    let mut all = [0.0; 16];
    let mut code = 0;
    while code < 8 {
        all[code] = magnitudes[code];
        all[code + 8] = -magnitudes[code];
        code += 1;
    }
    all
}

const E2M1: [f32; 16] = signed([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
const FP4: [f32; 16] = signed([
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    6.0 / 12.0,
    2.0 / 12.0,
    3.0 / 12.0,
]);
// The numbers that bitsandbytes has. All digits of an f32's decimal expansion, where it has them.
#[expect(clippy::excessive_precision, reason = "as the format gives them")]
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

impl Codebook {
    /// The number that each code stands for.
    pub const fn values(self) -> [f32; 16] {
        match self {
            Codebook::E2m1 => E2M1,
            Codebook::Nf4 => NF4,
            Codebook::Fp4 => FP4,
        }
    }

    /// The code that stands for zero, which padding has.
    pub const fn nothing(self) -> u8 {
        match self {
            Codebook::Nf4 => 7,
            _ => 0,
        }
    }
}

impl std::fmt::Display for Codebook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Codebook::E2m1 => "e2m1",
            Codebook::Nf4 => "nf4",
            Codebook::Fp4 => "fp4",
        })
    }
}

/// A power of two: `2^(bits - 127)`. 255 is NaN.
pub(super) fn e8m0(bits: u8) -> f32 {
    match bits {
        0 => f32::from_bits(1 << 22), // 2^-127, below an f32's normal numbers.
        255 => f32::NAN,
        bits => f32::from_bits(u32::from(bits) << 23),
    }
}

/// A sign, four bits of exponent and three of mantissa: up to 448, no infinities.
pub(super) fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match exponent {
        15 if bits & 7 == 7 => f32::NAN,
        0 => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    magnitude.copysign(if bits >> 7 == 1 { -1.0 } else { 1.0 })
}

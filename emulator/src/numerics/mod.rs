//! Arithmetic of the formats that PTX computes in, to the last bit.
//!
//! [`soft`] is exact for every format and rounding, by integers; the others are the fast forms,
//! written without branches so that loops over lanes vectorise, and tested against it.

pub(crate) mod approx;
pub(crate) mod float;
pub(crate) mod fp8;
pub(crate) mod half;
pub(crate) mod soft;

/// The NaN that `f32` instructions return.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The NaN that `f16` and `bf16` instructions return.
pub(crate) const NAN16: u16 = 0x7fff;

/// Rounding of a result that its format cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// `.rn`: to the nearest, ties to even.
    Nearest,
    /// `.rna`: to the nearest, ties away from zero.
    Away,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards negative infinity.
    Down,
    /// `.rp`: towards positive infinity.
    Up,
}

impl Rounding {
    /// The rounding that a modifier names, `.rn` if there is none. Integer roundings (`rni`) too.
    pub(crate) fn from_token(token: Option<&str>) -> Rounding {
        match token {
            Some("rz" | "rzi") => Rounding::Zero,
            Some("rm" | "rmi") => Rounding::Down,
            Some("rp" | "rpi") => Rounding::Up,
            Some("rna") => Rounding::Away,
            _ => Rounding::Nearest,
        }
    }

    /// As a number, for an instruction's spare word.
    pub(crate) fn code(self) -> u64 {
        self as u64
    }

    /// Back from [`Rounding::code`], of which the low three bits count.
    #[inline(always)]
    pub(crate) fn from_code(code: u64) -> Rounding {
        match code & 7 {
            1 => Rounding::Away,
            2 => Rounding::Zero,
            3 => Rounding::Down,
            4 => Rounding::Up,
            _ => Rounding::Nearest,
        }
    }
}

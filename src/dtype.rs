//! Element types: what a byte of device memory means.

use bytemuck::Pod;
use half::{bf16, f16};

/// The element type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary32.
    F32,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 8-bit integer.
    I8,
    /// A byte.
    U8,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::I64 | DType::U64 => 8,
        }
    }

    /// The name used in messages and in the names of kernels: `"bf16"`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
            DType::U64 => "u64",
            DType::I8 => "i8",
            DType::U8 => "u8",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that device memory can hold, and its [`DType`].
///
/// Sealed: every bit pattern of an implementor is a value of it, which is what makes it sound to
/// read back whatever a kernel wrote.
pub trait Element: Pod + Send + Sync + PartialEq + std::fmt::Debug + sealed::Sealed {
    /// The run-time name of this type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}
elements!(
    f16 => F16, bf16 => BF16, f32 => F32,
    i32 => I32, u32 => U32, i64 => I64, u64 => U64, i8 => I8, u8 => U8,
);

/// A floating-point [`Element`], with conversions that round once.
pub trait Float: Element {
    /// The value, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value, ties to even; never rounded twice.
    fn nearest(x: f64) -> Self;
    /// The distance from `|x|` to the next larger value of this type, for `x` in its range.
    ///
    /// Infinity when `x` is not finite or beyond the largest finite value.
    fn ulp(x: f64) -> f64;
}

impl Float for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn nearest(x: f64) -> f32 {
        x as f32
    }
    fn ulp(x: f64) -> f64 {
        ulp(x, 23, -126, 127)
    }
}

impl Float for f16 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn nearest(x: f64) -> f16 {
        f16::from_f32(to_odd(x))
    }
    fn ulp(x: f64) -> f64 {
        ulp(x, 10, -14, 15)
    }
}

impl Float for bf16 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn nearest(x: f64) -> bf16 {
        bf16::from_f32(to_odd(x))
    }
    fn ulp(x: f64) -> f64 {
        ulp(x, 7, -126, 127)
    }
}

/// `x` as f32 by rounding to odd: an inexact result has its last bit set, so that a second
/// rounding, to a format at least two bits narrower, gives what one rounding would have given.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) == x || !near.is_finite() {
        return near;
    }
    let toward_zero = if f64::from(near).abs() > x.abs() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        near
    };
    f32::from_bits(toward_zero.to_bits() | 1)
}

fn ulp(x: f64, mantissa: i32, min_exponent: i32, max_exponent: i32) -> f64 {
    if !x.is_finite() {
        return f64::INFINITY;
    }
    let exponent = if x == 0.0 {
        min_exponent
    } else {
        // The exponent field itself: exact, unlike a logarithm.
        ((x.abs().to_bits() >> 52) as i32 - 1023).max(min_exponent)
    };
    if exponent > max_exponent {
        return f64::INFINITY;
    }
    2f64.powi(exponent - mantissa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_half_precision_happens_once() {
        // 1 + 2^-11 is a tie of f16; the smallest excess over it must round up, although the
        // f32 in between cannot tell the two apart.
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(f16::nearest(tie), f16::ONE);
        assert_eq!(f16::nearest(tie + 2f64.powi(-40)), f16::ONE + f16::EPSILON);
        assert_eq!(
            f16::nearest(-tie - 2f64.powi(-40)),
            -(f16::ONE + f16::EPSILON)
        );
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(bf16::nearest(tie), bf16::ONE);
        assert_eq!(
            bf16::nearest(tie + 2f64.powi(-50)),
            bf16::ONE + bf16::EPSILON
        );
    }

    #[test]
    fn conversions_keep_what_is_special() {
        assert!(f16::nearest(f64::NAN).is_nan());
        assert_eq!(f16::nearest(1e9), f16::INFINITY);
        assert_eq!(bf16::nearest(f64::NEG_INFINITY), bf16::NEG_INFINITY);
        assert_eq!(f16::nearest(2f64.powi(-24)), f16::from_bits(1));
        assert_eq!(f16::nearest(2f64.powi(-26)), f16::ZERO);
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            assert!(x.is_nan() || f16::nearest(x.to_f64()) == x);
            let x = bf16::from_bits(bits);
            assert!(x.is_nan() || bf16::nearest(x.to_f64()) == x);
        }
    }

    #[test]
    fn the_ulp_is_the_gap_above() {
        assert_eq!(<f16 as Float>::ulp(1.0), 2f64.powi(-10));
        assert_eq!(<f16 as Float>::ulp(1.99), 2f64.powi(-10));
        assert_eq!(<f16 as Float>::ulp(0.0), 2f64.powi(-24));
        assert_eq!(<bf16 as Float>::ulp(-3.0), 2f64.powi(-6));
        assert_eq!(<f32 as Float>::ulp(1.0), f64::from(f32::EPSILON));
        assert_eq!(<f16 as Float>::ulp(1e9), f64::INFINITY);
    }
}

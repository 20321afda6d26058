//! The one module with unsafe code: it picks, once per process, whether the bodies of instructions
//! run as compiled for the baseline or for AVX2 + FMA + F16C.
//!
//! Every body is an [`Exec`] whose `run` is `#[inline(always)]`; [`select`] instantiates it twice
//! (and [`baseline`] once, for what no inner loop lives on),
//! the second time inside a function with the wider target features. On two shared AVX2 cores that
//! makes integer lanes 1.5x and `f32` lanes about 8x faster than the baseline, which has no fused
//! multiply-add.
#![allow(unsafe_code)]

use crate::isa::{Exec, ExecFn, Flow, Inst};
use crate::tensor::{self, Rule};
use crate::warp::Warp;

/// The body of `E` for this processor.
pub(crate) fn select<E: Exec>() -> ExecFn {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return on_avx2::<E>;
    }
    plain::<E>
}

/// The body of `E` as compiled for any processor.
pub(crate) fn baseline<E: Exec>() -> ExecFn {
    plain::<E>
}

/// Runs a body; a fault is put aside, so that what is returned fits a register.
#[inline(always)]
fn plain<E: Exec>(warp: &mut Warp<'_>, inst: &Inst, mask: u32) -> Flow {
    match E::run(warp, inst, mask) {
        Ok(flow) => flow,
        Err(fault) => {
            warp.fault = Some(fault);
            Flow::Fault
        }
    }
}

/// Adds products of 8 rows as a tensor core does, see [`tensor::multiply`].
pub(crate) fn multiply_exactly(rule: &Rule, a: &[f32], b: &[[f32; 8]], c: &mut [f32; 64]) {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: `wide` saw the target features that the function is compiled for.
        return unsafe { multiply_exactly_avx2(rule, a, b, c) };
    }
    tensor::multiply(rule, a, b, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_exactly_avx2(rule: &Rule, a: &[f32], b: &[[f32; 8]], c: &mut [f32; 64]) {
    tensor::multiply(rule, a, b, c);
}

/// Widens halves to `f32`, exactly; `to` and `from` are used up to the shorter length.
#[inline(always)]
pub(crate) fn widen_f16(from: &[u16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: `wide` saw the target features that the function is compiled for.
        return unsafe { widen_f16_avx2(from, to) };
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = widen_one(*from);
    }
}

/// One half as `f32`: normal numbers by rebasing the exponent, subnormal ones through the
/// multiplication, infinities and NaNs by filling the exponent.
#[inline(always)]
fn widen_one(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude >= 0x7c00 << 13 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(scaled | special | u32::from(half & 0x8000) << 16)
}

#[cfg(target_arch = "x86_64")]
fn wide() -> bool {
    // The macro caches its answer, and only `select` (per instruction bound) is not hot.
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn on_avx2<E: Exec>(warp: &mut Warp<'_>, inst: &Inst, mask: u32) -> Flow {
    // SAFETY: `select` hands out this function only after `wide` has seen the target features.
    unsafe { avx2::<E>(warp, inst, mask) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<E: Exec>(warp: &mut Warp<'_>, inst: &Inst, mask: u32) -> Flow {
    plain::<E>(warp, inst, mask)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_f16_avx2(from: &[u16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let mut to = to.chunks_exact_mut(8);
    let mut from = from.chunks_exact(8);
    for (to, from) in to.by_ref().zip(from.by_ref()) {
        // SAFETY: both chunks are 8 elements long, and the accesses are the unaligned ones.
        unsafe {
            let halves = _mm_loadu_si128(from.as_ptr().cast());
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
    }
    for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
        *to = widen_one(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_agrees_with_its_scalar_form_on_all_halves() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![0.0; halves.len()];
        widen_f16(&halves, &mut wide);
        for (half, wide) in halves.iter().zip(wide) {
            let one = widen_one(*half);
            // A signalling NaN becomes quiet in one of the two forms.
            assert!(
                one.to_bits() == wide.to_bits() || one.is_nan() && wide.is_nan(),
                "{half:#06x}"
            );
        }
        assert_eq!(widen_one(0x0001), 2f32.powi(-24));
        assert_eq!(widen_one(0xc000), -2.0);
    }
}

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
use crate::numerics::{NAN16, half};
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

/// The halves of words, the lower one first.
#[inline(always)]
pub(crate) fn halves(words: &[u32; 32]) -> [u16; 64] {
    match cfg!(target_endian = "little") {
        true => bytemuck::cast(*words),
        false => std::array::from_fn(|n| (words[n / 2] >> (16 * (n % 2))) as u16),
    }
}

/// Words of halves, the lower one first.
#[inline(always)]
pub(crate) fn pairs(halves: &[u16; 64]) -> [u32; 32] {
    match cfg!(target_endian = "little") {
        true => bytemuck::cast(*halves),
        false => {
            std::array::from_fn(|n| u32::from(halves[2 * n]) | u32::from(halves[2 * n + 1]) << 16)
        }
    }
}

/// Widens halves to `f32`, exactly.
#[inline(always)]
pub(crate) fn widen_f16<const N: usize>(from: &[u16; N]) -> [f32; N] {
    let mut to = [0.0; N];
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: `wide` saw the target features that the function is compiled for.
        unsafe { widen_f16_avx2(from, &mut to) };
        return to;
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = half::widen_f16(*from);
    }
    to
}

/// Rounds to the nearest halves; NaN becomes 0x7fff.
#[inline(always)]
pub(crate) fn narrow_f16<const N: usize>(from: &[f32; N]) -> [u16; N] {
    let mut to = [0; N];
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: `wide` saw the target features that the function is compiled for.
        unsafe { narrow_f16_avx2(from, &mut to) };
        return to;
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = half::narrow_f16(*from);
    }
    to
}

/// Rows of a square as its columns.
#[inline(always)]
pub(crate) fn transpose(from: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: `wide` saw the target features that the function is compiled for.
        return unsafe { transpose_avx2(from) };
    }
    std::array::from_fn(|row| from.map(|column| column[row]))
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
fn transpose_avx2(from: &[[f32; 8]; 8]) -> [[f32; 8]; 8] {
    use std::arch::x86_64::{
        _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps,
        _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    let mut rows = [_mm256_setzero_ps(); 8];
    for n in 0..8 {
        // SAFETY: a row is 8 elements long, and the loads are the unaligned ones.
        rows[n] = unsafe { _mm256_loadu_ps(from[n].as_ptr()) };
    }
    // Of two rows: elements 0 and 1 (and 4 and 5) of both, then 2 and 3 (and 6 and 7).
    let mut pairs = rows;
    for n in [0, 2, 4, 6] {
        pairs[n] = _mm256_unpacklo_ps(rows[n], rows[n + 1]);
        pairs[n + 1] = _mm256_unpackhi_ps(rows[n], rows[n + 1]);
    }
    // Of four rows: element `n % 4` (and 4 + `n % 4`) of all.
    let mut fours = rows;
    for n in [0, 1, 4, 5] {
        let (at, low, high) = (n / 4 * 4 + n % 4 * 2, pairs[n], pairs[n + 2]);
        fours[at] = _mm256_shuffle_ps::<0x44>(low, high);
        fours[at + 1] = _mm256_shuffle_ps::<0xee>(low, high);
    }
    let mut to = [[0.0; 8]; 8];
    for n in 0..4 {
        let (left, right) = (fours[n], fours[n + 4]);
        // SAFETY: a row is 8 elements long, and the stores are the unaligned ones.
        unsafe {
            let halves = _mm256_permute2f128_ps::<0x20>(left, right);
            _mm256_storeu_ps(to[n].as_mut_ptr(), halves);
            let halves = _mm256_permute2f128_ps::<0x31>(left, right);
            _mm256_storeu_ps(to[n + 4].as_mut_ptr(), halves);
        }
    }
    to
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
        *to = half::widen_f16(*from);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn narrow_f16_avx2(from: &[f32], to: &mut [u16]) {
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128};
    use std::arch::x86_64::{_mm256_cvtps_ph, _mm256_loadu_ps};
    let mut from = from.chunks_exact(8);
    let mut to = to.chunks_exact_mut(8);
    for (from, to) in from.by_ref().zip(to.by_ref()) {
        // SAFETY: both chunks are 8 elements long, and the accesses are the unaligned ones.
        unsafe {
            let wide = _mm256_loadu_ps(from.as_ptr());
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide);
            _mm_storeu_si128(to.as_mut_ptr().cast(), halves);
        }
        for half in to {
            // The processor keeps what fits of a NaN.
            *half = if *half & 0x7fff > 0x7c00 {
                NAN16
            } else {
                *half
            };
        }
    }
    for (from, to) in from.remainder().iter().zip(to.into_remainder()) {
        *to = half::narrow_f16(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_agrees_with_its_scalar_form_on_all_halves() {
        for first in (0..=u16::MAX).step_by(64) {
            let halves: [u16; 64] = std::array::from_fn(|n| first + n as u16);
            for (half, wide) in halves.iter().zip(widen_f16(&halves)) {
                let one = half::widen_f16(*half);
                // A signalling NaN becomes quiet in one of the two forms.
                assert!(
                    one.to_bits() == wide.to_bits() || one.is_nan() && wide.is_nan(),
                    "{half:#06x}"
                );
            }
        }
    }

    #[test]
    fn narrowing_agrees_with_its_scalar_form_around_all_ties() {
        for half in 0..=u16::MAX {
            let tie = (u32::from(half) << 13 | 0x1000).wrapping_add(0x3600_0000);
            let nan = 0x7f80_0000 | u32::from(half) << 8;
            let bits = [
                tie - 1,
                tie,
                tie + 1,
                u32::from(half) << 16,
                nan,
                !nan,
                0x4780_0000,
                !tie,
            ];
            let values = bits.map(f32::from_bits);
            assert_eq!(
                narrow_f16(&values),
                values.map(half::narrow_f16),
                "{bits:x?}"
            );
        }
    }

    #[test]
    fn a_transposed_square_has_its_rows_as_columns() {
        let square = std::array::from_fn(|row| std::array::from_fn(|n| (8 * row + n) as f32));
        let turned = transpose(&square);
        for (row, elements) in turned.iter().enumerate() {
            for (n, element) in elements.iter().enumerate() {
                assert_eq!(*element, square[n][row]);
            }
        }
    }
}

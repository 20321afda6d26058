//! Which words of shared memory the lanes of a warp access, and in how many passes.

use super::access::lanes_of;

/// Whether all lanes of a warp access whole words, side by side.
#[inline(never)]
pub(super) fn row(offsets: &[u32; 32], mask: u32, bytes: u32) -> bool {
    let mut wrong = !mask | u32::from(bytes < 4);
    for lane in 1..32 {
        wrong |= offsets[lane].wrapping_sub(offsets[lane - 1]) ^ bytes;
    }
    wrong == 0
}

/// Passes through shared memory for accesses of up to `W` words, and how many there would be
/// without conflicts. 8 bytes go by half warps, 16 bytes by quarters.
#[inline(always)]
pub(super) fn wavefronts<const W: usize>(offsets: &[u32; 32], mask: u32) -> (u64, u64) {
    let (width, lanes) = (4 * W as u32, 32 / W);
    // The usual case that is no row, for the whole warp at once: all the same.
    let differ = offsets.iter().fold(0, |all, at| all | (at ^ offsets[0]));
    if mask == u32::MAX && differ == 0 {
        return (W as u64, W as u64);
    }
    let mut banks = [0u32; 32];
    for lane in 0..32 {
        banks[lane] = 1 << (offsets[lane] / width % lanes as u32);
    }
    let (mut total, mut ideal) = (0, 0);
    for first in (0..32).step_by(lanes) {
        let active = mask >> first & (u32::MAX >> (32 - lanes));
        if active != 0 {
            ideal += 1;
            // Each lane in a bank of its own, or else it has to be counted.
            let used = banks[first..first + lanes]
                .iter()
                .fold(0, |all, bank| all | bank);
            total += if active & used == u32::MAX >> (32 - lanes) {
                1
            } else {
                passes::<W>(&offsets[first..first + lanes], active)
            };
        }
    }
    (total, ideal)
}

/// Passes for one group of lanes: as many as there are different words in the busiest bank.
#[inline(always)]
fn passes<const W: usize>(group: &[u32], active: u32) -> u64 {
    let banks = 32 / W;
    let mut first = [u32::MAX; 32];
    let mut clash = false;
    for (lane, offset) in group.iter().enumerate() {
        if active >> lane & 1 != 0 {
            let unit = offset / (4 * W as u32);
            let seen = &mut first[unit as usize % banks];
            clash |= *seen != u32::MAX && *seen != unit;
            *seen = unit;
        }
    }
    if clash {
        conflicts::<W>(group, active)
    } else {
        1
    }
}

#[inline(never)]
fn conflicts<const W: usize>(group: &[u32], active: u32) -> u64 {
    let mut units = [u32::MAX; 32];
    let mut count = 0;
    for lane in lanes_of(active) {
        units[count] = group[lane] / (4 * W as u32);
        count += 1;
    }
    let units = &mut units[..count];
    units.sort_unstable();
    let mut load = [0; 32];
    let mut last = None;
    for unit in units {
        if last != Some(*unit) {
            load[*unit as usize % (32 / W)] += 1;
            last = Some(*unit);
        }
    }
    load.into_iter().max().unwrap_or(1)
}

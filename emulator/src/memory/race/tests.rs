//! Records against what they should say.

use super::*;
use crate::memory::order::{Joined, Order};

fn order(warps: usize) -> Order {
    let mut order = Order::new(warps);
    order.start(0, 0);
    order
}

fn conflict(
    shadow: &mut Shadow,
    clocks: &Order,
    (warp, lane): (usize, u32),
    (offset, bytes): (u32, u32),
    touch: Touch,
) -> bool {
    let strong = u8::from(touch == Touch::Atomic);
    shadow
        .touch(&clocks.who(0, warp, 0, strong), lane, offset, bytes, touch)
        .is_some()
}

fn meet(clocks: &mut Order, members: &[usize]) {
    let mut joined = Joined::default();
    for member in members {
        clocks.arrive(0, *member, false, &mut joined);
    }
    clocks.release(0, members, &[], &mut joined);
}

#[test]
fn a_barrier_orders_and_its_absence_does_not() {
    for bytes in [16, 4, 2] {
        let mut clocks = order(2);
        let mut shadow: Shadow = Shadow::new(64);
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 0),
            (16, bytes),
            Touch::Write
        ));
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 0),
            (16, bytes),
            Touch::Read
        ));
        assert!(conflict(
            &mut shadow,
            &clocks,
            (1, 0),
            (16, bytes),
            Touch::Read
        ));
        assert!(
            conflict(&mut shadow, &clocks, (0, 1), (16, bytes), Touch::Read),
            "lanes of a warp"
        );
        meet(&mut clocks, &[0, 1]);
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (1, 0),
            (16, bytes),
            Touch::Read
        ));
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (0, 5),
            (16, bytes),
            Touch::Read
        ));
        assert!(conflict(
            &mut shadow,
            &clocks,
            (1, 0),
            (16, bytes),
            Touch::Write
        ));
        meet(&mut clocks, &[0, 1]);
        assert!(!conflict(
            &mut shadow,
            &clocks,
            (1, 0),
            (16, bytes),
            Touch::Write
        ));
    }
}

#[test]
fn a_named_barrier_orders_only_its_members() {
    let mut clocks = order(3);
    let mut shadow: Shadow = Shadow::new(16);
    assert!(!conflict(
        &mut shadow,
        &clocks,
        (0, 0),
        (0, 16),
        Touch::Write
    ));
    meet(&mut clocks, &[0, 1]);
    assert!(!conflict(
        &mut shadow,
        &clocks,
        (1, 0),
        (0, 16),
        Touch::Read
    ));
    assert!(conflict(&mut shadow, &clocks, (2, 0), (0, 16), Touch::Read));
    meet(&mut clocks, &[1, 2]);
    assert!(
        !conflict(&mut shadow, &clocks, (2, 0), (0, 16), Touch::Read),
        "passed on by warp 1"
    );
}

#[test]
fn neighbouring_bytes_and_atomics_do_not_race() {
    let clocks = order(2);
    let mut shadow: Shadow = Shadow::new(16);
    assert!(!conflict(
        &mut shadow,
        &clocks,
        (0, 0),
        (0, 2),
        Touch::Write
    ));
    assert!(!conflict(
        &mut shadow,
        &clocks,
        (0, 1),
        (2, 2),
        Touch::Write
    ));
    assert!(!conflict(
        &mut shadow,
        &clocks,
        (0, 2),
        (8, 4),
        Touch::Atomic
    ));
    assert!(!conflict(
        &mut shadow,
        &clocks,
        (1, 2),
        (8, 4),
        Touch::Atomic
    ));
    assert!(conflict(&mut shadow, &clocks, (1, 3), (8, 4), Touch::Read));
}

/// What all lanes of a warp leave behind at once is what they would one by one.
#[test]
fn rows_are_as_their_lanes() {
    for seed in 0..300 {
        let mut random = crate::machine::Random::new(seed, 0);
        let mut clocks = order(2);
        let mut rows: Shadow = Shadow::new(2048);
        let mut lanes: Shadow = Shadow::new(2048);
        for step in 0..60 {
            if random.below(4) == 0 {
                meet(&mut clocks, &[0, 1]);
            }
            let warp = random.below(2) as usize;
            let bytes = [4, 8, 16][random.below(3) as usize];
            let touch = [Touch::Read, Touch::Write][random.below(2) as usize];
            // At the start of a line, or not.
            let first = [0, 16, 48, 128][random.below(4) as usize];
            let (stride, shift) = match random.below(6) {
                0 => (0, 0),
                1 => (2 * bytes, 0),
                2 => (bytes, random.below(32) as u32),
                _ => (bytes, 0),
            };
            let offsets: [u32; 32] =
                std::array::from_fn(|lane| first + (lane as u32 + shift) % 32 * stride);
            let mask = match random.below(3) {
                0 => random.next() as u32,
                _ => u32::MAX,
            };
            let who = clocks.who(0, warp, step, 0);
            let row = mask == u32::MAX && side_by_side(&offsets, bytes);
            let all = rows.touch_lanes(&who, &offsets, (mask, bytes, row), touch);
            let each = lanes_of(mask).find_map(|lane| {
                let found = lanes.touch_words(&who, lane as u32, offsets[lane], bytes, touch);
                found.map(|conflict| (conflict, lane))
            });
            assert_eq!(all.is_some(), each.is_some(), "seed {seed}, step {step}");
            if let (Some((a, at)), Some((b, lane))) = (all, each) {
                assert_eq!(
                    (a.touch, a.warp, at),
                    (b.touch, b.warp, lane),
                    "seed {seed}"
                );
                break;
            }
        }
    }
}

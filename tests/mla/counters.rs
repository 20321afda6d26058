//! What the kernels of latent attention do, counted by the emulator over a whole launch.

use crate::common::{Lengths, device_with, in_parallel, mla};
use half::bf16;
use infer_kernels::ptx_emulator::Config;

/// One block, so that there is no second launch: every latent and rotary key is asked for once for
/// each 64 (16) rows, in whole sectors and without bank conflicts, by few instructions.
#[test]
fn latents_are_read_once_for_each_item() {
    // Rows of an item, heads, tokens, instructions beside each tensor operation.
    let rows = [
        (64, 64, 2048, 2.9),
        (64, 128, 1024, 3.1),
        (16, 16, 2048, 7.7),
        (16, 40, 512, 9.5),
    ];
    in_parallel(&rows, |&(tile, heads, tokens, goal)| {
        let lengths = Lengths::of(&[1], &[tokens]);
        let case = mla::plain::<bf16>(heads, &lengths);
        let device = device_with(Config {
            profile: true,
            ..Config::default()
        });
        let outcome = case.mla(&device, mla::Way::plain(tile, 1)).unwrap();
        assert!(outcome.status.is_clean());
        let stats = device.last_launch().unwrap();
        let items = heads.div_ceil(tile);
        let of_tokens = items * tokens * 1152;
        let of_heads = heads * (1152 + 1024);
        let least = (of_tokens + of_heads) as f64;
        let bytes = stats.global_bytes as f64 / least;
        let sectors = 32.0 * stats.global_sectors as f64 / least;
        let tensor: u64 = stats.mma.values().sum();
        assert_eq!(
            tensor as usize,
            items * tile * tokens * (576 + 512) / (16 * 8 * 16)
        );
        let others = (stats.warp_instructions - tensor) as f64 / tensor as f64;
        println!(
            "{} of {heads} heads: {bytes:.4} of the bytes, {sectors:.4} in sectors, {others:.2} \
             instructions beside each tensor operation",
            outcome.entry
        );
        assert!((1.0..1.02).contains(&bytes), "{tile} {heads}: {bytes}");
        assert!(sectors < 1.02, "{tile} {heads}: {sectors}");
        assert_eq!(stats.bank_conflicts, 0, "{tile} {heads}");
        assert!(others < goal, "{tile} {heads}: {others}");
        if tile >= heads {
            // Each byte is read from memory once.
            let traffic = stats.traffic.unwrap();
            assert!((traffic.read_bytes as f64) < 1.02 * (tokens * 1152 + heads * 1152) as f64);
        }
    });
}

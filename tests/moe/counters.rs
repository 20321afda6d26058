//! What the stages of a mixture of experts do, counted by the emulator over whole launches.

use crate::common::device_with;
use crate::common::moe::{Router, Spread};
use half::bf16;
use infer_kernels::gemm::{Activation, WeightLayout};
use infer_kernels::moe::{
    CombineArgs, CombinePlan, Direction, Experts, GroupedArgs, GroupedPlan, GroupedProblem,
    PermuteArgs, PermutePlan, Routing, Scoring,
};
use infer_kernels::ptx_emulator::{Config, LaunchStats};
use infer_kernels::reference::moe::permute;
use infer_kernels::{DType, Device, StatusWord};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn profiling() -> Device {
    device_with(Config {
        profile: true,
        ..Config::default()
    })
}

/// What a grouped product of ones did, for ids `[tokens, slots]`.
fn product(device: &Device, problem: &GroupedProblem, ids: &[i32]) -> (LaunchStats, u64) {
    let stream = device.stream();
    let plan = GroupedPlan::new(device, problem).unwrap();
    let (here, n, k, pairs) = (problem.here, problem.n, problem.k, ids.len());
    let sorted = permute(&Experts::new(here, 0), ids, problem.slots);
    let rows = match problem.direction {
        Direction::Up => pairs / problem.slots,
        Direction::Down => pairs,
    };
    let shape = match problem.layout {
        WeightLayout::Nk => [here, n, k],
        WeightLayout::Kn => [here, k, n],
    };
    let w = stream.upload(&vec![bf16::ONE; here * n * k]).unwrap();
    let up = stream.upload(&vec![bf16::ONE; here * n * k]).unwrap();
    let x = stream.upload(&vec![bf16::ONE; rows * k]).unwrap();
    let order = stream.upload(&sorted.order).unwrap();
    let offsets = stream.upload(&sorted.offsets).unwrap();
    let mut y = stream.alloc::<bf16>(pairs * n).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let args = GroupedArgs {
        x: x.tensor([rows, k]).unwrap(),
        w: w.tensor(shape).unwrap(),
        w_up: problem.gated.then(|| up.tensor(shape).unwrap()),
        bias: None,
        bias_up: None,
        order: order.tensor([pairs]).unwrap(),
        offsets: offsets.tensor([here + 1]).unwrap(),
        y: y.tensor_mut([pairs, n]).unwrap(),
        status: &status,
    };
    plan.run(&stream, args).unwrap();
    let stats = device.last_launch().unwrap();
    let base = w.tensor([1]).unwrap().address();
    let weights = stats.allocations.iter().find(|of| of.base == base).unwrap();
    let read = weights.read_bytes;
    (stats, read)
}

/// With up to 16 tokens: weights of active experts are read once, those of others never.
#[test]
fn few_tokens_read_active_weights_once() {
    let device = profiling();
    for (tokens, direction, layout) in [
        (1, Direction::Up, WeightLayout::Nk),
        (16, Direction::Up, WeightLayout::Nk),
        (16, Direction::Up, WeightLayout::Kn),
        (16, Direction::Down, WeightLayout::Nk),
    ] {
        let (here, slots, n, k) = (8, 2, 256, 512);
        // Experts 0 to 5, in pairs; as many of them as there are tokens.
        let ids: Vec<i32> = (0..tokens * slots)
            .map(|pair| pair % 6)
            .map(|e| e as i32)
            .collect();
        let active = ids.len().min(6);
        let gated = direction == Direction::Up;
        let activation = if gated {
            Activation::Silu
        } else {
            Activation::None
        };
        let problem = GroupedProblem::new(DType::BF16, direction, [here, n, k], tokens, slots)
            .layout(layout)
            .activation(activation, gated);
        let (stats, read) = product(&device, &problem, &ids);
        let products = if gated { 2 } else { 1 };
        let weights = active * n * k * 2;
        assert_eq!(
            read as usize, weights,
            "{tokens} tokens {direction:?} {layout:?}"
        );
        // Beside weights: 16 rows of x for each tile, from the cache, and the result; then order and
        // offsets.
        let tiles = active * n * products / 128;
        let x_and_y = tiles * 16 * k * 2 + ids.len() * n * 2;
        let asked = stats.global_bytes as usize;
        let least = products * weights + x_and_y;
        assert!(
            (least..least + least / 50).contains(&asked),
            "{asked} bytes, {least} needed"
        );
        assert_eq!(
            stats.bank_conflicts, 0,
            "{tokens} tokens {direction:?} {layout:?}"
        );
        // From memory.
        let fetched = stats.traffic.unwrap().fetched_bytes as usize;
        let rows = if gated { tokens } else { ids.len() };
        let least = products * weights + rows * k * 2;
        println!("{tokens} tokens {direction:?} {layout:?}: {fetched} bytes fetched of {least}");
        assert!(
            fetched * 100 <= least * 102,
            "{fetched} bytes, {least} needed"
        );
    }
}

/// Every tile multiplies as often as its shape says; no bank conflicts; few other instructions.
#[test]
fn large_tiles_do_what_dense_ones_do() {
    let device = profiling();
    for (tile, layout, most) in [
        (64, WeightLayout::Nk, 1.75),
        (128, WeightLayout::Nk, 1.2),
        (128, WeightLayout::Kn, 1.4),
    ] {
        let (here, n, k, rows) = (3, 256, 2048, 2 * tile);
        let ids: Vec<i32> = (0..here * rows).map(|pair| (pair % here) as i32).collect();
        let shape = [here, n, k];
        let problem = GroupedProblem::new(DType::BF16, Direction::Up, shape, ids.len(), 1)
            .layout(layout)
            .tile(Some(tile));
        let (stats, _) = product(&device, &problem, &ids);
        assert_eq!(stats.bank_conflicts, 0, "{tile} {layout:?}");
        let tensor: u64 = stats.mma.values().sum();
        assert_eq!(
            tensor as usize,
            ids.len() * n * k / (16 * 8 * 16),
            "{tile} {layout:?}"
        );
        let others = (stats.warp_instructions - tensor) as f64 / tensor as f64;
        println!(
            "{tile} rows, {layout:?}: {others:.2} other instructions for each tensor operation"
        );
        assert!(others <= most, "{tile} rows, {layout:?}: {others:.2}");
    }
}

/// Mixtral, 4096 tokens: what routing, sorting and adding up move, beside what the layer moves.
#[test]
fn what_is_not_a_product_moves_few_bytes() {
    let device = profiling();
    let moved = || {
        let traffic = device.last_launch().unwrap().traffic.unwrap();
        (traffic.read_bytes + traffic.written_bytes) as f64
    };
    let (tokens, slots, hidden, intermediate) = (4096, 2, 4096, 14336);
    let rng = &mut StdRng::seed_from_u64(1);
    let router = Router::<f32>::random(rng, Routing::new(8, slots), tokens, Spread::Zipf);
    let (ids, weights, _) = router.run(&device).unwrap();
    let routed = moved();

    let stream = device.stream();
    let experts = Experts::new(8, 0);
    let plan = PermutePlan::new(&device, &experts, slots, tokens).unwrap();
    let on_device = stream.upload(&ids).unwrap();
    let mut order = stream.alloc::<i32>(ids.len()).unwrap();
    let mut offsets = stream.alloc::<i32>(9).unwrap();
    let elements = plan.workspace_elements();
    let mut workspace = stream.alloc::<i32>(elements).unwrap();
    let status = StatusWord::new(&stream).unwrap();
    let args = PermuteArgs {
        ids: on_device.tensor([tokens, slots]).unwrap(),
        order: order.tensor_mut([ids.len()]).unwrap(),
        offsets: offsets.tensor_mut([9]).unwrap(),
        workspace: Some(workspace.tensor_mut([elements]).unwrap()),
        status: &status,
    };
    plan.run(&stream, args).unwrap();
    let sorted = 2.0 * moved(); // Both passes read ids.

    // Every token costs the same: some of them suffice.
    let few = 128;
    let plan = CombinePlan::new(&device, DType::BF16, &experts, slots, hidden).unwrap();
    let parts = stream.alloc::<bf16>(few * slots * hidden).unwrap();
    let ids = stream.upload(&ids[..few * slots]).unwrap();
    let weights = stream.upload(&weights[..few * slots]).unwrap();
    let mut y = stream.alloc::<bf16>(few * hidden).unwrap();
    let args = CombineArgs {
        parts: parts.tensor([few * slots, hidden]).unwrap(),
        ids: ids.tensor([few, slots]).unwrap(),
        weights: weights.tensor([few, slots]).unwrap(),
        y: y.tensor_mut([few, hidden]).unwrap(),
    };
    plan.run(&stream, args).unwrap();
    let combined = moved();
    let least = ((slots + 1) * few * hidden * 2) as f64;
    println!("combining: {:.4} of the least bytes", combined / least);
    assert!(combined <= 1.05 * least);

    let beside = routed + sorted + combined * (tokens / few) as f64;
    let weights = 8 * 3 * hidden * intermediate * 2;
    let rows = tokens * hidden * 2 + tokens * slots * (2 * intermediate + hidden) * 2;
    let share = beside / ((weights + rows) as f64 + beside);
    println!(
        "routing, sorting, adding up: {:.2} % of the layer's bytes",
        100.0 * share
    );
    assert!(share <= 0.05);
}

/// Experts as popular as Zipf's words, at the sizes of models, on an A100: how evenly tiles are
/// shared out, over both products.
#[test]
fn tiles_are_shared_out_evenly() {
    let device = device_with(Config::default());
    let models = [
        ("Mixtral 8x7B", 8, 2, 4096, 14336),
        ("Qwen3-30B-A3B", 128, 8, 2048, 768),
        ("DeepSeek-V3", 256, 8, 7168, 2048),
    ];
    for (name, experts, top_k, hidden, intermediate) in models {
        for tokens in [512, 4096] {
            let rng = &mut StdRng::seed_from_u64(rng_seed(tokens));
            let routing = Routing::new(experts, top_k).scoring(Scoring::Softmax, true);
            let router = Router::<f32>::random(rng, routing, tokens, Spread::Zipf);
            let (ids, _, _) = router.run(&device).unwrap();
            let mut rows = vec![0; experts];
            ids.iter().for_each(|&id| rows[id as usize] += 1);
            let schedule = |direction, n, k, gated| {
                let shape = [experts, n, k];
                let problem = GroupedProblem::new(DType::BF16, direction, shape, tokens, top_k)
                    .activation(
                        if gated {
                            Activation::Silu
                        } else {
                            Activation::None
                        },
                        gated,
                    );
                let plan = GroupedPlan::new(&device, &problem).unwrap();
                plan.schedule(tokens, &rows)
            };
            let up = schedule(Direction::Up, intermediate, hidden, true);
            let down = schedule(Direction::Down, hidden, intermediate, false);
            // A tile's time is proportional to its depth.
            let work = (up.tiles * hidden) as f64 / up.blocks as f64
                + (down.tiles * intermediate) as f64 / down.blocks as f64;
            let time = (up.rounds() * hidden + down.rounds() * intermediate) as f64;
            println!(
                "{name}, {tokens} tokens: tiles of {} rows, {} and {} in {} blocks: {:.1} %",
                up.tile,
                up.tiles,
                down.tiles,
                up.blocks,
                100.0 * work / time
            );
            assert!(work / time >= 0.9, "{name}, {tokens} tokens");
        }
    }
}

fn rng_seed(tokens: usize) -> u64 {
    StdRng::seed_from_u64(tokens as u64).random()
}

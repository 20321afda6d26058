//! Appends of latents and rotary keys, as multi-head latent attention has them, against the reference.

use std::error::Error;

use crate::common::cache::Indices;
use crate::common::{Arrangement, Operand, device, in_parallel, indices, seeds};
use half::bf16;
use infer_kernels::kv::{
    AppendProblem, Format, MlaAppendArgs, MlaAppendPlan, MlaAppendProblem, MlaCacheMut, Pairing,
    Queries, Rotation, Scales,
};
use infer_kernels::reference::HostTensor;
use infer_kernels::reference::kv::{AppendInputs, append_rounded, encode};
use infer_kernels::{Buffer, Device, Element, Float, StatusWord, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

const FORMATS: [Format; 4] = [Format::Same, Format::E4m3, Format::E5m2, Format::Int8];

/// DeepSeek's sizes and others, joined and split, in every format.
#[test]
fn latents_are_appended() {
    let device = device();
    let seeds: Vec<u64> = seeds(0..60).collect();
    in_parallel(&seeds, |&seed| {
        latents(seed, &device).unwrap_or_else(|error| panic!("case {seed}: {error}"));
    });
}

fn latents(seed: u64, device: &Device) -> Result<(), Box<dyn Error>> {
    match FORMATS[seed as usize % 4] {
        Format::Same => latents_in::<bf16>(seed, device),
        _ => latents_in::<u8>(seed, device),
    }
}

fn latents_in<E: Element>(seed: u64, device: &Device) -> Result<(), Box<dyn Error>> {
    const FILL: u8 = 0xa5;
    let rng = &mut StdRng::seed_from_u64(seed);
    let format = FORMATS[seed as usize % 4];
    let [latent, rope] =
        [[512, 64], [512, 64], [256, 32], [104, 24], [576, 256]][rng.random_range(0..5)];
    let (tokens, query_heads) = (rng.random_range(0..9), [0, 2, 16][rng.random_range(0..3)]);
    let joined = rng.random_bool(0.5);
    let (page_size, pages) = ([1, 16, 64][rng.random_range(0..3)], 17);
    let pairing = [None, Some(Pairing::Halves), Some(Pairing::Interleaved)][rng.random_range(0..3)];
    let mut problem = MlaAppendProblem::new(bf16::DTYPE, latent, rope)
        .query_heads(query_heads)
        .format(format)
        .padding(true);
    problem.rope = pairing;
    let operand = |rng: &mut StdRng, shape| {
        Operand::<bf16>::filled(shape, Arrangement::Dense, |_| StandardNormal.sample(rng))
    };
    let [of_latent, of_rope] = [latent, rope].map(|dim| operand(rng, [tokens, 1, dim]));
    let q = operand(rng, [tokens, query_heads, rope]);
    let mut slots: Vec<i64> = (0..(pages * page_size) as i64).collect();
    slots.shuffle(rng);
    slots.truncate(tokens);
    if tokens > 2 {
        slots[1] = -1;
    }
    let positions: Vec<i64> = (0..tokens).map(|_| rng.random_range(0..9)).collect();
    let angles: Vec<f32> = (0..9 * rope).map(|i| (i as f32).sin()).collect();
    let scales: [Vec<f32>; 2] = match format {
        Format::Same => [vec![], vec![]],
        _ => [vec![0.01], vec![0.02]],
    };

    let stream = device.stream();
    let plan = MlaAppendPlan::new(device, &problem)?;
    assert!(plan.to_string().contains("latents of"));
    let status = StatusWord::new(&stream)?;
    let row = |dim: usize| dim.next_multiple_of(16);
    let widths = match joined {
        true => [row(latent + rope), 0],
        false => [row(latent), row(rope)],
    };
    let size = E::DTYPE.size();
    let fill: E = bytemuck::pod_read_unaligned(&[FILL; 2][..size]);
    let lens = widths.map(|width| pages * page_size * width);
    let mut caches = [
        stream.upload(&vec![fill; lens[0]])?,
        stream.upload(&vec![fill; lens[1]])?,
    ];
    let rows = [
        stream.upload(&of_latent.data)?,
        stream.upload(&of_rope.data)?,
    ];
    let mut q_buffer = stream.upload(&q.data)?;
    let slot_indices = Indices::new(&stream, &slots, seed.is_multiple_of(3))?;
    let position_indices = Indices::new(&stream, &positions, seed.is_multiple_of(5))?;
    let table = stream.upload(&angles)?;
    let scale_buffers = [stream.upload(&scales[0])?, stream.upload(&scales[1])?];
    {
        let [first, second] = &mut caches;
        let pool = |buffer, width: usize, dim| -> Result<_, Box<dyn Error>> {
            let buffer: &mut Buffer<E> = buffer;
            let strides = [(page_size * width) as i64, width as i64, 1];
            Ok(buffer
                .region_mut()
                .strided(0, [pages, page_size, dim], strides)?)
        };
        let half = |first| -> Result<Tensor<'_, 2>, Box<dyn Error>> {
            let strides = [rope as i64, 1];
            Ok(table.region().strided(first, [9, rope / 2], strides)?)
        };
        let args = MlaAppendArgs {
            latent: rows[0].tensor([tokens, latent])?,
            rope: rows[1].tensor([tokens, rope])?,
            cache: match joined {
                true => MlaCacheMut::Joined(pool(first, widths[0], latent + rope)?),
                false => MlaCacheMut::Split {
                    latent: pool(first, widths[0], latent)?,
                    rope: pool(second, widths[1], rope)?,
                },
            },
            slots: slot_indices.tensor(tokens)?,
            queries: match query_heads {
                0 => Queries::None,
                _ => Queries::InPlace(q_buffer.tensor_mut([tokens, query_heads, rope])?),
            },
            rotation: match pairing {
                None => None,
                Some(_) => Some(Rotation {
                    positions: position_indices.tensor(tokens)?,
                    cosines: half(0)?,
                    sines: half(rope / 2)?,
                }),
            },
            scales: match format {
                Format::Same => None,
                _ => Some(Scales {
                    k: scale_buffers[0].tensor([1])?,
                    v: scale_buffers[1].tensor([1])?,
                }),
            },
            status: &status,
        };
        plan.run(&stream, args)?;
    }
    assert!(status.read()?.is_clean());

    // An append of one head, whose key is the rotary one and whose value is the latent.
    let mut as_append = AppendProblem::new(bf16::DTYPE, 1, rope)
        .v_dim(latent)
        .query_heads(query_heads)
        .format(format)
        .padding(true);
    if let Some(pairing) = pairing {
        as_append = as_append.rope(pairing, rope);
    }
    let angle = |first| {
        HostTensor::strided(&angles, first, [9, rope / 2], [rope as i64, 1]).expect("in the table")
    };
    let expected = append_rounded(
        &as_append,
        AppendInputs {
            q: (query_heads > 0).then(|| q.host()),
            k: of_rope.host(),
            v: of_latent.host(),
            slots: &slots,
            num_slots: pages * page_size,
            positions: &positions,
            angles: pairing.map(|_| [angle(0), angle(rope / 2)]),
            weights: [&[], &[]],
            scales: [&scales[1], &scales[0]],
        },
    );
    let got_q = q_buffer.download()?;
    for (got, expected) in got_q.iter().zip(&expected.rows[0]) {
        assert_eq!(*got, bf16::nearest(*expected));
    }
    let mut bytes: Vec<Vec<u8>> = vec![];
    for cache in &caches {
        bytes.push(bytemuck::cast_slice(&cache.download()?).to_vec());
    }
    for (part, dim) in [(1, rope), (2, latent)] {
        for [token, _, d] in indices([tokens, 1, dim]) {
            let Some(slot) = expected.slots[token] else {
                continue;
            };
            let (pool, at) = match (joined, part) {
                (true, 1) => (0, slot * widths[0] + latent + d),
                (true, _) => (0, slot * widths[0] + d),
                (false, 1) => (1, slot * widths[1] + d),
                (false, _) => (0, slot * widths[0] + d),
            };
            let x = expected.rows[part][token * dim + d];
            let wanted: Vec<u8> = match format {
                Format::Same => bytemuck::bytes_of(&bf16::nearest(x)).to_vec(),
                format => vec![encode(format, x)],
            };
            let got = &mut bytes[pool][at * size..][..size];
            assert_eq!(got, wanted, "part {part}, token {token}, element {d}");
            got.fill(FILL);
        }
    }
    assert!(
        bytes.iter().flatten().all(|&byte| byte == FILL),
        "something else was written"
    );
    Ok(())
}

//! Cases of latent attention: attention of one kv head whose values are the first columns of its keys.

use std::error::Error;

use half::{bf16, f16};
use infer_kernels::attention::mla::{MlaArgs, MlaPlan, MlaProblem, MlaQueries};
use infer_kernels::attention::prefill::{HeadShape, Kv, KvLayout, PrefillArgs, PrefillProblem};
use infer_kernels::kv::MlaCache;
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{Device, Float, Stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{AnyCase, Arrangement, Case, Lengths, Outcome, Pages, PoolLayout};

pub const LATENT: usize = 512;
pub const ROPE: usize = 64;
const DIM: usize = LATENT + ROPE;

/// How a case is run, whatever its result.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Whether queries, and tokens of the cache, have both parts in one row.
    pub joined_q: bool,
    pub joined_cache: bool,
    pub rows: Option<usize>,
    pub blocks: usize,
}

impl Way {
    pub fn plain(rows: usize, blocks: usize) -> Way {
        Way {
            joined_q: true,
            joined_cache: true,
            rows: Some(rows),
            blocks,
        }
    }
}

/// A causal case of so many heads with pages of `page_size`, NaN or infinity in every token that must
/// not matter.
pub fn case<T: Float>(
    seed: u64,
    query: usize,
    lengths: &Lengths,
    page_size: usize,
    csr: bool,
) -> Case<T> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let lse = rng.random_bool(0.5);
    let arrangements = [(); 3].map(|()| Arrangement::random(rng));
    let mut case = of(rng, query, lengths, arrangements);
    case.problem.lse = lse;
    let layout = PoolLayout::of_kind(rng.random_range(0..2), rng);
    put_in_pages(rng, &mut case, page_size, csr, layout);
    case
}

/// The same without gaps anywhere, in pages of 16, without a log-sum-exp.
pub fn plain<T: Float>(query: usize, lengths: &Lengths) -> Case<T> {
    let rng = &mut StdRng::seed_from_u64(1);
    let mut case = of(rng, query, lengths, [Arrangement::Dense; 3]);
    case.out = Arrangement::Dense;
    case.device_offsets = false;
    put_in_pages(rng, &mut case, 16, false, PoolLayout::Nhd { pad: 0 });
    case
}

fn of<T: Float>(
    rng: &mut StdRng,
    query: usize,
    lengths: &Lengths,
    arrangements: [Arrangement; 3],
) -> Case<T> {
    let heads = HeadShape {
        query,
        kv: 1,
        dim: DIM,
    };
    let longest = lengths.q.iter().copied().max().unwrap_or(0);
    let problem = PrefillProblem::new(T::DTYPE, heads, lengths.q.len(), longest)
        .v_dim(LATENT)
        .causal(true)
        .scale((1.0 / 192f64.sqrt()) as f32);
    let mut case = Case::of(rng, problem, lengths, arrangements);
    case.poison(rng);
    values_of_latents(&mut case);
    case
}

fn put_in_pages<T: Float>(
    rng: &mut StdRng,
    case: &mut Case<T>,
    page_size: usize,
    csr: bool,
    layout: PoolLayout,
) {
    let rows = case.k.shape[0];
    let pages = Pages::random(rng, page_size, csr, layout, &case.offsets_k, rows);
    case.put_in_pages(pages);
}

/// Makes the values what they are: the first columns of the keys.
pub fn values_of_latents<T: Float>(case: &mut Case<T>) {
    for row in 0..case.k.shape[0] {
        for d in 0..LATENT {
            let (from, to) = (case.k.at([row, 0, d]), case.v.at([row, 0, d]));
            case.v.data[to] = case.k.data[from];
        }
    }
}

/// A case of its seed: any shape and layout, and a way to run it.
pub fn random(seed: u64) -> (AnyCase, Way) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let heads = [1, 3, 8, 16, 16, 17, 24, 40, 64, 128][rng.random_range(0..10)];
    let most = [1, 2, 3, 4][rng.random_range(0..4)];
    let batch = rng.random_range(1..=if heads > 32 { 2 } else { 4 });
    let even = rng.random_bool(0.6);
    let tokens = |rng: &mut StdRng| match rng.random_range(0..6) {
        0 => rng.random_range(0..4),
        1 => [31, 32, 33, 63, 64, 65, 96][rng.random_range(0..7)],
        2 if heads < 32 => rng.random_range(0..400),
        _ => rng.random_range(0..130),
    };
    let lengths = Lengths {
        q: (0..batch)
            .map(|_| match even {
                true => most,
                false => rng.random_range(0..=most),
            })
            .collect(),
        k: (0..batch).map(|_| tokens(rng)).collect(),
        lead: if rng.random_bool(0.2) { 3 } else { 0 },
        trail: if rng.random_bool(0.2) { 2 } else { 0 },
    };
    let page_size = match rng.random_range(0..3) {
        0 => [1, 16, 64][rng.random_range(0..3)],
        _ => rng.random_range(1..40),
    };
    let csr = rng.random_bool(0.5);
    let way = Way {
        joined_q: rng.random_bool(0.5),
        joined_cache: rng.random_bool(0.5),
        rows: [None, Some(16), Some(64)][rng.random_range(0..3)],
        blocks: [1, 2, 3, 5, 7, 16][rng.random_range(0..6)],
    };
    let (causal, scale) = (rng.random_bool(0.7), rng.random_range(0.01..0.1));
    let case = match rng.random_bool(0.5) {
        true => AnyCase::F16(case::<f16>(seed, heads, &lengths, page_size, csr)),
        false => AnyCase::Bf16(case::<bf16>(seed, heads, &lengths, page_size, csr)),
    };
    let mut case = case;
    // What causal attention hides is NaN or infinity: whoever sees everything must not see that.
    if !causal
        && lengths
            .q
            .iter()
            .zip(&lengths.k)
            .all(|(q, k)| *q <= *k && *q > 0)
    {
        case.problem().causal = false;
    }
    if rng.random_bool(0.5) {
        case.problem().scale = scale;
    }
    (case, way)
}

/// The problem that a case is.
pub fn problem(attention: &PrefillProblem, way: Way) -> MlaProblem {
    let KvLayout::Paged { page_size } = attention.kv else {
        panic!("cases of latent attention are in pages");
    };
    MlaProblem::new(
        attention.dtype,
        attention.heads.query,
        attention.batch,
        page_size,
    )
    .max_queries(attention.max_seqlen_q)
    .causal(attention.causal)
    .scale(attention.scale)
    .lse(attention.lse)
    .blocks(way.blocks)
    .rows(way.rows)
}

impl<T: Float> Case<T> {
    /// Runs the case by the kernels of latent attention.
    pub fn mla(&self, device: &Device, way: Way) -> Result<Outcome<T>, Box<dyn Error>> {
        let uniform = !self.device_offsets && self.has_even_queries();
        let problem = problem(&self.problem, way);
        self.run_by(device, |stream, args| {
            let plan = MlaPlan::new(device, &problem)?;
            self.run_mla(&plan, stream, args, way, uniform)?;
            Ok(plan.entry())
        })
    }

    /// Runs a plan on the operands of a prefill, with a workspace that is full of NaN.
    fn run_mla(
        &self,
        plan: &MlaPlan,
        stream: &Stream,
        args: PrefillArgs<'_>,
        way: Way,
        uniform: bool,
    ) -> Result<(), Box<dyn Error>> {
        let elements = plan.workspace_elements();
        let mut workspace = stream.upload(&vec![f32::NAN; elements])?;
        let Kv::Paged {
            k,
            v,
            pages,
            seqlens,
        } = args.kv
        else {
            return Err("cases of latent attention are in pages".into());
        };
        let keys = k.select(2, 0)?;
        let shape = [self.rows_q(), self.problem.heads.query, ROPE];
        let rotary: Vec<T> = super::indices(shape)
            .map(|[row, head, d]| self.q.data[self.q.at([row, head, LATENT + d])])
            .collect();
        let rotary = stream.upload(&rotary)?;
        Ok(plan.run(
            stream,
            MlaArgs {
                q: match way.joined_q {
                    true => MlaQueries::Joined(args.q),
                    false => MlaQueries::Split {
                        latent: args.q.narrow(2, 0..LATENT)?,
                        rope: rotary.tensor(shape)?,
                    },
                },
                cache: match way.joined_cache {
                    true => MlaCache::Joined(keys),
                    false => MlaCache::Split {
                        latent: v.select(2, 0)?,
                        rope: keys.narrow(2, LATENT..DIM)?,
                    },
                },
                pages,
                seqlens_k: seqlens,
                out: args.out,
                lse: args.lse,
                seqlens_q: (!uniform).then_some(args.seqlens_q),
                workspace: workspace.tensor_mut([elements])?,
                status: args.status,
            },
        )?)
    }

    /// Runs the case and judges every element; the margins of output and log-sum-exp.
    pub fn check_mla(&self, device: &Device, way: Way) -> Result<(Margin, Margin), Box<dyn Error>> {
        let outcome = self.mla(device, way)?;
        self.judge(&outcome)
    }
}

/// Runs and judges a case of either type.
pub fn check(
    case: &AnyCase,
    device: &Device,
    way: Way,
) -> Result<(Margin, Margin), Box<dyn Error>> {
    match case {
        AnyCase::F16(case) => case.check_mla(device, way),
        AnyCase::Bf16(case) => case.check_mla(device, way),
    }
}

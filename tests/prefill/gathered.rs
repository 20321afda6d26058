//! Prefill over keys that are gathered out of a cache: in 8 bits, or split by `x`.
//!
//! Each random case is named by its seed. `INFER_KERNELS_CASES=17..18` runs case 17 alone, a wider range
//! more than a quick run does.

use std::error::Error;

use crate::common::quantised::{self, Any, FORMATS, Quantised};
use crate::common::{Case, Lengths, Outcome, Table, Worst, device, in_parallel, indices, seeds};
use half::{bf16, f16};
use infer_kernels::attention::SeqLens;
use infer_kernels::attention::gathered::{GatheredArgs, GatheredError, GatheredPlan};
use infer_kernels::attention::prefill::{HeadShape, Kv, KvLayout, PrefillArgs, PrefillProblem};
use infer_kernels::kv::{Cache, Format, KvError, Scales};
use infer_kernels::reference::kv::decode;
use infer_kernels::reference::tolerance::Margin;
use infer_kernels::{DType, Device, Float, Offence, OperandError, Region, Stream, Tensor};

/// What takes the place of an operation's keys: those of a cache.
struct Source<'a> {
    cache: Cache<'a>,
    scales: Option<Scales<'a>>,
    format: Format,
}

/// Runs a case by way of a cache, with rooms for its keys that are full of NaN.
fn run<T: Float>(
    case: &Case<T>,
    stream: &Stream,
    args: PrefillArgs<'_>,
    source: Source<'_>,
) -> Result<&'static str, Box<dyn Error>> {
    let Kv::Paged { pages, .. } = args.kv else {
        panic!("keys in pages");
    };
    let lengths = |offsets: &[i32]| -> Vec<usize> {
        offsets
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as usize)
            .collect()
    };
    let seqlens_k = SeqLens::from_lengths(stream, &lengths(&case.offsets_k))?;
    let PrefillProblem { heads, v_dim, .. } = case.problem;
    // More room than is needed.
    let tokens = seqlens_k.end() + 3;
    let room = |dim: usize| stream.upload(&vec![T::nearest(f64::NAN); tokens * heads.kv * dim]);
    let (mut k, mut v) = (room(heads.dim)?, room(v_dim)?);
    let plan = GatheredPlan::new(stream.device(), &case.problem, source.format)?;
    plan.run(
        stream,
        GatheredArgs {
            q: args.q,
            cache: source.cache,
            pages,
            scales: source.scales,
            seqlens_q: args.seqlens_q,
            seqlens_k: (&seqlens_k).into(),
            k: k.tensor_mut([tokens, heads.kv, heads.dim])?,
            v: v.tensor_mut([tokens, heads.kv, v_dim])?,
            out: args.out,
            lse: args.lse,
            alibi: args.alibi,
            sinks: args.sinks,
            mask: args.mask,
            status: args.status,
        },
    )?;
    Ok(plan.prefill().entry())
}

/// The result over a cache in 8 bits.
fn quantised_run<T: Float>(
    case: &Quantised<T>,
    device: &Device,
) -> Result<Outcome<T>, Box<dyn Error>> {
    let bytes = case.bytes();
    case.case.run_by(device, |stream, args| {
        let pools = [
            stream.upload(&bytes[0].data)?,
            stream.upload(&bytes[1].data)?,
        ];
        let scales = [
            stream.upload(&case.scales[0])?,
            stream.upload(&case.scales[1])?,
        ];
        let source = Source {
            cache: Cache::Rows {
                k: bytes[0].tensor(&pools[0])?,
                v: bytes[1].tensor(&pools[1])?,
            },
            scales: Some(Scales {
                k: scales[0].tensor([scales[0].len()])?,
                v: scales[1].tensor([scales[1].len()])?,
            }),
            format: case.format,
        };
        run(&case.case, stream, args, source)
    })
}

/// Judges every element against attention over keys and values as they come out of the cache.
fn check<T: Float>(
    case: &Quantised<T>,
    device: &Device,
) -> Result<(Margin, Margin), Box<dyn Error>> {
    let outcome = quantised_run(case, device)?;
    let (bytes, pages) = (case.bytes(), case.case.pages.as_ref().expect("pages"));
    let mut ragged = case.case.clone();
    ragged.problem.kv = KvLayout::Ragged;
    ragged.pages = None;
    for (half, rows) in [&mut ragged.k, &mut ragged.v].into_iter().enumerate() {
        for [row, head, d] in indices(rows.shape) {
            let Some([page, slot]) = pages.home(row) else {
                continue;
            };
            let scales = &case.scales[half];
            let scale = scales[if scales.len() == 1 { 0 } else { head }];
            let stored = decode(case.format, bytes[half].at([page, slot, head, d])) as f32;
            let at = rows.at([row, head, d]);
            rows.data[at] = T::nearest(f64::from(scale * stored));
        }
    }
    ragged.judge(&outcome)
}

#[test]
fn random_cases_are_within_their_bounds() {
    let device = device();
    let worst = Worst::default();
    let all: Vec<u64> = seeds(0..40).collect();
    in_parallel(&all, |&seed| {
        let case = quantised::random(seed);
        let margins = match &case {
            Any::F16(case) => check(case, &device),
            Any::Bf16(case) => check(case, &device),
        };
        worst.note(margins.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{case:?}")));
    });
    println!("{} cases: {worst}", all.len());
}

fn plain(format: Format) -> Quantised<bf16> {
    let heads = HeadShape {
        query: 4,
        kv: 2,
        dim: 64,
    };
    let lengths = Lengths::of(&[40, 0, 70], &[40, 9, 150]);
    quantised::plain(5, format, heads, &lengths, 1)
}

/// A cache in the queries' own type gives the bits that prefill gives over the same keys.
#[test]
fn elements_stored_as_they_are_give_the_bits_of_ragged_keys() {
    let case = plain(Format::Int8).case;
    let outcome = case
        .run_by(&device(), |stream, args| {
            let Kv::Paged { k, v, .. } = args.kv else {
                panic!("keys in pages");
            };
            let source = Source {
                cache: Cache::Rows { k, v },
                scales: None,
                format: Format::Same,
            };
            run(&case, stream, args, source)
        })
        .unwrap();
    let mut ragged = case.clone();
    ragged.problem.kv = KvLayout::Ragged;
    ragged.pages = None;
    assert_eq!(outcome.out, ragged.run(&device()).unwrap().out);
}

/// Keys split by 16 elements and values transposed, of 8 bits, give what the same bytes give in rows.
#[test]
fn caches_split_by_x_give_what_rows_give() {
    for format in FORMATS {
        let case = plain(format);
        let rows = quantised_run(&case, &device()).unwrap();
        let bytes = case.bytes();
        let split = case.case.run_by(&device(), |stream, args| {
            let Kv::Paged { k, .. } = args.kv else {
                panic!("keys in pages");
            };
            let [pages, page_size, heads, dim] = k.shape();
            let x = 16;
            let (mut of_k, mut of_v) = (
                vec![0u8; pages * page_size * heads * dim],
                vec![0u8; pages * page_size * heads * dim],
            );
            for [page, slot, at] in indices([pages, page_size, heads * dim]) {
                let (head, d) = (at / dim, at % dim);
                let group = ((page * heads + head) * (dim / x) + d / x) * page_size + slot;
                of_k[group * x + d % x] = bytes[0].at([page, slot, head, d]);
                of_v[((page * heads + head) * dim + d) * page_size + slot] =
                    bytes[1].at([page, slot, head, d]);
            }
            let (of_k, of_v) = (stream.upload(&of_k)?, stream.upload(&of_v)?);
            let scales = [
                stream.upload(&case.scales[0])?,
                stream.upload(&case.scales[1])?,
            ];
            let source = Source {
                cache: Cache::SplitX {
                    k: of_k.tensor([pages, heads, dim / x, page_size, x])?,
                    v: of_v.tensor([pages, heads, dim, page_size])?,
                },
                scales: Some(Scales {
                    k: scales[0].tensor([scales[0].len()])?,
                    v: scales[1].tensor([scales[1].len()])?,
                }),
                format,
            };
            run(&case.case, stream, args, source)
        });
        assert_eq!(split.unwrap().out, rows.out, "{format:?}");
    }
}

/// A page that does not exist is reported, and nothing is read where it would be.
#[test]
fn pages_that_do_not_exist_are_reported() {
    let mut case = plain(Format::E4m3);
    match &mut case.case.pages.as_mut().expect("pages").table {
        Table::Rows {
            entries, offset, ..
        } => entries[*offset] = u32::MAX,
        Table::Csr { entries, .. } => entries[0] = u32::MAX,
    }
    let outcome = quantised_run(&case, &device()).unwrap();
    let (offence, _) = outcome.status.first().expect("a report");
    assert_eq!(offence, Offence::PageId);
}

/// What is read behind the copy may not lie where the copy goes.
#[test]
fn rooms_that_share_memory_with_queries_are_refused() {
    let device = device();
    let stream = device.stream();
    let heads = HeadShape {
        query: 2,
        kv: 1,
        dim: 64,
    };
    let problem = PrefillProblem::new(DType::F16, heads, 1, 4);
    let plan = GatheredPlan::new(&device, &problem, Format::Same).unwrap();
    let lens = SeqLens::from_lengths(&stream, &[4]).unwrap();
    let pool = stream.alloc::<f16>(16 * 64).unwrap();
    let table = stream.upload(&[0]).unwrap();
    let (mut out, mut v) = (
        stream.alloc::<f16>(512).unwrap(),
        stream.alloc::<f16>(256).unwrap(),
    );
    let mut both = stream.alloc::<f16>(512).unwrap();
    let status = infer_kernels::StatusWord::new(&stream).unwrap();
    let pages = pool.tensor([1, 16, 1, 64]).unwrap();
    let address = both.tensor([4, 2, 64]).unwrap().address();
    // SAFETY: `both` outlives it, and nothing is launched.
    let region = unsafe { Region::from_raw_parts(address, 512, DType::F16, &device) };
    let q: Tensor<'_, 3> = region.tensor([4, 2, 64]).unwrap();
    let args = GatheredArgs {
        q,
        cache: Cache::Rows { k: pages, v: pages },
        pages: infer_kernels::attention::prefill::PageTable::Rows(table.tensor([1, 1]).unwrap()),
        scales: None,
        seqlens_q: (&lens).into(),
        seqlens_k: (&lens).into(),
        k: both
            .region_mut()
            .strided(0, [4, 1, 64], [64, 64, 1])
            .unwrap(),
        v: v.tensor_mut([4, 1, 64]).unwrap(),
        out: out.tensor_mut([4, 2, 64]).unwrap(),
        lse: None,
        alibi: None,
        sinks: None,
        mask: None,
        status: &status,
    };
    let error = plan.run(&stream, args).unwrap_err();
    assert!(
        matches!(
            &error,
            GatheredError::Gather(KvError::Operand(OperandError::Overlap { .. }))
        ),
        "{error}"
    );
}

//! The proof that operands fit a plan.

use super::{
    AppendArgs, AppendParams, AppendPart, AppendPlan, MAX_DIM, Norm, Pairing, Queries, Rotation,
    Weights,
};
use crate::device::launch::LaunchShape;
use crate::device::{Kernel, Stream};
use crate::dtype::DType;
use crate::error::OperandError;
use crate::kv::cache::{Pool, slots};
use crate::kv::{Bound, Cache, Format, KvError, Scales};
use crate::operand::{ALIGNMENT, Apart, Operand, same_place};
use crate::tensor::Tensor;

/// Elements that a lane has of a row.
const CHUNK: usize = 8;

/// Checks the operands of an append.
pub(super) fn bind<'a>(
    plan: &'a AppendPlan,
    stream: &'a Stream,
    args: &'a AppendArgs<'_>,
) -> Result<Bound<'a, AppendParams>, KvError> {
    let problem = plan.problem();
    let mut binder = Binder::new(plan.kernel(), stream, problem.dtype)?;
    let tokens = binder.tokens("k", &args.k)?;
    let heads = problem.heads;
    let k = binder.rows("k", &args.k, [tokens, heads, problem.dim])?;
    let v = binder.rows("v", &args.v, [tokens, heads, problem.v_dim])?;

    let cache = args.cache.as_ref();
    let pools = cache.pools(stream, problem.contents())?;
    binder.pages([pools.pages, pools.page_size])?;
    match &cache {
        Cache::Rows { k, v } => {
            binder.apart.written(operand("k cache", k));
            binder.apart.written(operand("v cache", v));
        }
        Cache::Combined(kv) => binder.apart.written(operand("cache", kv)),
        Cache::SplitX { k, v } => {
            binder.apart.written(operand("k cache", k));
            binder.apart.written(operand("v cache", v));
        }
    }
    binder.slots(&args.slots, tokens, problem.padding)?;
    let rotates = binder.rotation(
        problem.rope.map(|rope| (rope.pairing, rope.dim)),
        args.rotation.as_ref(),
        tokens,
    )?;
    let scales = Scales::of(args.scales.as_ref(), stream, problem.contents())?;
    if let Some(Scales { k, v }) = &args.scales {
        binder.apart.read(operand("k scales", k));
        binder.apart.read(operand("v scales", v));
    }

    let format = problem.format;
    let mut queries = binder.queries(&args.queries, [tokens, problem.query_heads, problem.dim])?;
    let mut keys = k.to_pages(pools.of[0], format, scales[0]);
    for part in [&mut queries, &mut keys] {
        part.rotates = i32::from(rotates);
    }
    KvError::unless_planned("weights", problem.norm.is_some(), args.weights.is_some())?;
    if let (Some(norm), Some(weights)) = (problem.norm, &args.weights) {
        let of = binder.norm(norm, weights, problem.dim, problem.query_heads > 0)?;
        (queries.norm_weight, keys.norm_weight) = (of[0], of[1]);
    }
    let values = v.to_pages(pools.of[1], format, scales[1]);
    binder.finish([queries, keys, values], tokens, args.status)
}

fn operand<'t, 'a, const R: usize>(
    name: &'static str,
    tensor: &'t Tensor<'a, R>,
) -> Operand<'t, 'a, R> {
    Operand { name, tensor }
}

/// Rows by token: where they are read, and how lanes share them.
#[derive(Clone, Copy, Default)]
pub(in crate::kv) struct Rows(AppendPart);

impl Rows {
    /// `heads` rows of `dim` elements for each token.
    pub fn new(
        address: u64,
        [stride_token, stride_head]: [i64; 2],
        heads: usize,
        dim: usize,
    ) -> Self {
        let lanes = (dim / CHUNK).next_power_of_two();
        Rows(AppendPart {
            input: address,
            in_stride_token: stride_token,
            in_stride_head: stride_head,
            // In range by the limits that the problem checked.
            heads: heads as i32,
            dim: dim as i32,
            lanes_shift: lanes.ilog2() as i32,
            passes: heads.div_ceil(32 / lanes) as i32,
            ..AppendPart::default()
        })
    }

    /// One row of `dim` elements for each token, more than the lanes of a warp hold at once: as many
    /// heads of [`Rows::part`] elements.
    pub fn wide(address: u64, stride_token: i64, dim: usize) -> Self {
        let part = Rows::part(dim);
        Rows::new(address, [stride_token, part as i64], dim / part, part)
    }

    /// The largest part of a wide row that fills lanes without rest.
    pub fn part(dim: usize) -> usize {
        (1 << dim.trailing_zeros()).min(MAX_DIM)
    }

    /// They are stored in pages.
    pub fn to_pages(
        self,
        pool: Pool,
        format: Format,
        (scales, scale_stride): (u64, i32),
    ) -> AppendPart {
        AppendPart {
            output: pool.address,
            out_stride_page: pool.stride_page,
            out_stride_slot: pool.stride_slot,
            out_stride_head: pool.stride_head,
            out_stride_group: pool.stride_group,
            out_stride_element: pool.stride_element,
            group_shift: pool.group_shift,
            transposed: i32::from(pool.transposed),
            format: format.code(),
            scales,
            scale_stride,
            in_pages: 1,
            ..self.0
        }
    }

    /// They stay rows by token.
    pub fn to_rows(self, address: u64, [stride_token, stride_head]: [i64; 2]) -> AppendPart {
        AppendPart {
            output: address,
            out_stride_page: stride_token,
            out_stride_head: stride_head,
            out_stride_group: CHUNK as i64,
            ..self.0
        }
    }
}

/// Checks operands one after the other and notes what the kernel needs of each.
pub(in crate::kv) struct Binder<'a, 't> {
    kernel: &'a Kernel,
    stream: &'a Stream,
    dtype: DType,
    pub params: AppendParams,
    pub apart: Apart<'t>,
}

impl<'a, 't> Binder<'a, 't> {
    pub fn new(kernel: &'a Kernel, stream: &'a Stream, dtype: DType) -> Result<Self, KvError> {
        let (expected, got) = (kernel.device().id(), stream.device().id());
        if expected != got {
            return Err(OperandError::Device {
                tensor: "stream",
                expected,
                got,
            }
            .into());
        }
        Ok(Binder {
            kernel,
            stream,
            dtype,
            params: AppendParams {
                page_size: 1,
                ..AppendParams::default()
            },
            apart: Apart::default(),
        })
    }

    /// The number of tokens that an operand has.
    pub fn tokens<const R: usize>(
        &self,
        name: &'static str,
        tensor: &Tensor<'t, R>,
    ) -> Result<usize, KvError> {
        let [tokens, ..] = tensor.shape()[..] else {
            return Ok(0);
        };
        KvError::unless_within(name, tokens, [0, i32::MAX as usize])?;
        Ok(tokens)
    }

    /// Rows that are read.
    pub fn rows(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'t, 3>,
        shape: [usize; 3],
    ) -> Result<Rows, KvError> {
        let strides = self.strides(name, tensor, shape)?;
        self.apart.read(operand(name, tensor));
        let [_, heads, dim] = shape;
        Ok(Rows::new(tensor.address(), strides, heads, dim))
    }

    /// A row of one for each token: address and stride.
    pub fn row(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'t, 2>,
        shape: [usize; 2],
    ) -> Result<(u64, i64), KvError> {
        let operand = operand(name, tensor);
        operand.dtype(self.dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        let [token, _] = operand.aligned_strides()?;
        self.apart.read(operand);
        Ok((tensor.address(), token))
    }

    fn strides(
        &self,
        name: &'static str,
        tensor: &Tensor<'t, 3>,
        shape: [usize; 3],
    ) -> Result<[i64; 2], KvError> {
        let operand = operand(name, tensor);
        operand.dtype(self.dtype)?;
        operand.shape(shape)?;
        operand.place(self.stream)?;
        let [token, head, _] = operand.aligned_strides()?;
        Ok([token, head])
    }

    pub fn queries(
        &mut self,
        queries: &'t Queries<'_>,
        shape: [usize; 3],
    ) -> Result<AppendPart, KvError> {
        self.rotated(["queries", "rotated queries"], queries, shape)
    }

    /// Rows that stay rows by token; what they and their results are called.
    pub fn rotated(
        &mut self,
        [name, result]: [&'static str; 2],
        rows: &'t Queries<'_>,
        shape: [usize; 3],
    ) -> Result<AppendPart, KvError> {
        let wanted = shape[1] > 0;
        KvError::unless_planned(name, wanted, !matches!(rows, Queries::None))?;
        match rows {
            Queries::None => Ok(AppendPart::default()),
            Queries::InPlace(q) => {
                let q = q.as_ref();
                let strides = self.strides(name, &q, shape)?;
                self.apart.written(operand(name, &q));
                let rows = Rows::new(q.address(), strides, shape[1], shape[2]);
                Ok(rows.to_rows(q.address(), strides))
            }
            Queries::To { q, out } => {
                let rows = self.rows(name, q, shape)?;
                let out = out.as_ref();
                let strides = self.strides(result, &out, shape)?;
                self.apart.written(operand(result, &out));
                Ok(rows.to_rows(out.address(), strides))
            }
        }
    }

    /// Pages of the cache, and slots of each.
    pub fn pages(&mut self, pages: [usize; 2]) -> Result<(), KvError> {
        self.params.num_slots = slots(pages)?;
        self.params.page_size = pages[1] as i32; // In range: the slots are.
        Ok(())
    }

    pub fn slots(
        &mut self,
        slots: &Tensor<'t, 1>,
        tokens: usize,
        padding: bool,
    ) -> Result<(), KvError> {
        self.params.slots_are_64 = self.indices("slots", slots, tokens)?;
        self.params.slots = slots.address();
        self.params.padding = i32::from(padding);
        Ok(())
    }

    /// Whether indices are `i64` rather than `i32`.
    fn indices(
        &mut self,
        name: &'static str,
        tensor: &Tensor<'t, 1>,
        len: usize,
    ) -> Result<i32, KvError> {
        let operand = operand(name, tensor);
        let wide = tensor.dtype() == DType::I64;
        if !wide {
            operand.dtype(DType::I32)?;
        }
        operand.shape([len])?;
        operand.place(self.stream)?;
        operand.strides()?;
        self.apart.read(operand);
        Ok(i32::from(wide))
    }

    /// Whether there is rotation.
    pub fn rotation(
        &mut self,
        rope: Option<(Pairing, usize)>,
        rotation: Option<&'t Rotation<'_>>,
        tokens: usize,
    ) -> Result<bool, KvError> {
        KvError::unless_planned("rotation", rope.is_some(), rotation.is_some())?;
        let (Some((pairing, dim)), Some(rotation)) = (rope, rotation) else {
            return Ok(false);
        };
        self.params.positions_are_64 = self.indices("positions", &rotation.positions, tokens)?;
        self.params.positions = rotation.positions.address();
        let rows = rotation.cosines.shape()[0];
        let mut table = |name, tensor: &Tensor<'t, 2>| {
            let operand = operand(name, tensor);
            self.float(operand)?;
            operand.shape([rows, dim / 2])?;
            operand.place(self.stream)?;
            let [stride, _] = operand.strides()?;
            self.apart.read(operand);
            let row = stride.wrapping_mul(tensor.dtype().size() as i64) as u64;
            let aligned = (row | tensor.address()).is_multiple_of(ALIGNMENT as u64);
            Ok::<_, KvError>((tensor.address(), stride, aligned))
        };
        let (cosines, cosines_stride, aligned) = table("cosines", &rotation.cosines)?;
        let (sines, sines_stride, too) = table("sines", &rotation.sines)?;
        // Both as the first is: in f32 or in the elements' type.
        operand("sines", &rotation.sines).dtype(rotation.cosines.dtype())?;
        // Whole chunks: of 8 angles where halves are paired, of 4 where neighbours are.
        let even = dim.is_multiple_of(2 * CHUNK);
        let whole = match pairing {
            Pairing::Halves => even,
            Pairing::Interleaved => dim.is_multiple_of(CHUNK),
        };
        let max_position = operand("cosines", &rotation.cosines).count(0)?;
        self.params = AppendParams {
            cosines,
            sines,
            cosines_stride,
            sines_stride,
            max_position,
            rotary_dim: dim as i32,
            pairing: match pairing {
                Pairing::Halves if even => 0,
                Pairing::Halves => 1,
                Pairing::Interleaved => 2,
            },
            table_is_f32: i32::from(rotation.cosines.dtype() == DType::F32),
            table_is_aligned: i32::from(aligned && too && whole),
            ..self.params
        };
        Ok(true)
    }

    /// `f32` or the elements' type.
    fn float<const R: usize>(&self, operand: Operand<'_, '_, R>) -> Result<(), OperandError> {
        match operand.tensor.dtype() {
            DType::F32 => Ok(()),
            _ => operand.dtype(self.dtype),
        }
    }

    /// The norm of heads: addresses of the weights of queries and of keys.
    pub fn norm(
        &mut self,
        norm: Norm,
        weights: &'t Weights<'_>,
        dim: usize,
        queries: bool,
    ) -> Result<[u64; 2], KvError> {
        self.params.eps = norm.eps;
        self.params.weight_offset = f32::from(u8::from(norm.plus_one));
        self.params.mean_factor = 1.0 / dim as f32;
        self.weights(weights, dim, queries)
    }

    fn weights(
        &mut self,
        weights: &'t Weights<'_>,
        dim: usize,
        queries: bool,
    ) -> Result<[u64; 2], KvError> {
        KvError::unless_planned("weights of queries", queries, weights.q.is_some())?;
        let mut address = |name, tensor: &Tensor<'t, 1>| {
            let operand = operand(name, tensor);
            self.float(operand)?;
            operand.dtype(weights.k.dtype())?;
            operand.shape([dim])?;
            operand.place(self.stream)?;
            operand.aligned_strides()?;
            self.apart.read(operand);
            Ok::<_, KvError>(tensor.address())
        };
        let of_keys = address("weights of keys", &weights.k)?;
        let of_queries = match &weights.q {
            Some(q) => address("weights of queries", q)?,
            None => 0,
        };
        self.params.weight_is_f32 = i32::from(weights.k.dtype() == DType::F32);
        Ok([of_queries, of_keys])
    }

    /// The launch, once all operands are known.
    pub fn finish(
        self,
        parts: [AppendPart; 3],
        tokens: usize,
        status: &crate::StatusWord,
    ) -> Result<Bound<'a, AppendParams>, KvError> {
        same_place("status", status.place(), self.stream)?;
        self.apart.check()?;
        let passes: i32 = parts.iter().map(|part| part.passes).sum();
        let entry = self.kernel.entry();
        let blocks = tokens.div_ceil(entry.tile_q as usize);
        let splits = self.splits(tokens, passes as usize);
        Ok(Bound {
            kernel: self.kernel,
            stream: self.stream,
            shape: LaunchShape {
                grid: [blocks as u32, splits as u32, 1],
                threads: entry.threads,
                shared_bytes: entry.smem_bytes,
            },
            params: AppendParams {
                parts,
                status: status.address(),
                // In range: `tokens` and the limits on heads checked them.
                tokens: tokens as i32,
                passes,
                ..self.params
            },
        })
    }

    /// Warps for each token: as many as make the device busy, as few as read the angles least often.
    fn splits(&self, tokens: usize, passes: usize) -> usize {
        const WARPS: usize = 24; // of a multiprocessor, by registers
        const MOST: usize = 1024; // times the passes of three kinds of 65535 heads: within 32 bits
        let wanted = WARPS * self.stream.device().limits().multiprocessors as usize;
        wanted
            .div_ceil(tokens.max(1))
            .clamp(1, passes.clamp(1, MOST))
    }
}

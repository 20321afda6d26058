//! The plans of an engine, but for products: which kernels compute what.

use std::error::Error;

use infer_kernels::attention::decode::{DecodePlan, DecodeProblem};
use infer_kernels::attention::prefill::{HeadShape, PrefillPlan, PrefillProblem, Window};
use infer_kernels::elementwise::{
    EmbedPlan, EmbedProblem, NormPlan, NormProblem, SamplePlan, SampleProblem, TableFormat,
};
use infer_kernels::kv::{Angles, AppendPlan, AppendProblem, Norm, Pairing};
use infer_kernels::{Buffer, DType, Device, Stream};

use super::config::Config;
use super::engine::{Options, PAGE};

/// What the residual stream is multiplied by. It grows beyond what `f16` holds, and whatever is computed
/// from it is normalised first: a smaller stream gives the same.
pub fn stream_factor(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 1.0 / 64.0,
        _ => 1.0,
    }
}

/// Keys of a block: fewer leave nothing to share out.
const KEYS_OF_BLOCK: usize = 8;

/// Attention of the layers with a window, or of the global ones.
pub struct Attention {
    /// Where no sequence has more than one token in a step, or bits must not depend on that.
    pub decode: DecodePlan,
    /// Otherwise.
    pub prefill: Option<PrefillPlan>,
    pub angles: [Buffer<f32>; 2],
}

pub struct Plans {
    pub embed: EmbedPlan,
    /// Of a part's result, before it joins the residual stream.
    pub norm: NormPlan,
    /// Of the residual stream, as it is, and after a part has joined it.
    pub stream_norm: NormPlan,
    pub add_norm: NormPlan,
    pub append: AppendPlan,
    /// Within windows, and global.
    pub attention: [Attention; 2],
    pub gather: EmbedPlan,
    pub sample: SamplePlan,
}

impl Plans {
    /// Every plan of an engine that is laid out so.
    pub fn new(
        device: &Device,
        stream: &Stream,
        config: &Config,
        options: Options,
        dtype: DType,
    ) -> Result<Plans, Box<dyn Error>> {
        let &Config {
            hidden,
            heads,
            kv_heads,
            dim,
            eps,
            vocab,
            ..
        } = config;
        let table = TableFormat::Int8 {
            scales: DType::F16,
            group: 32,
        };
        let embed = EmbedProblem::new(dtype, hidden).table(table);
        let factor = stream_factor(dtype);
        let norm = NormProblem::new(dtype, hidden, eps);
        let of_stream = NormProblem::new(dtype, hidden, factor * factor * eps);
        let append = AppendProblem::new(dtype, kv_heads, dim)
            .query_heads(heads)
            .rope(Pairing::Halves, dim)
            .norm(Norm {
                eps,
                plus_one: false, // 1 has been added in the file.
            });
        let window = Window::left(config.window - 1);
        let attention = |window, base| Attention::new(stream, config, options, dtype, window, base);
        Ok(Plans {
            embed: EmbedPlan::new(device, &embed.factor(factor * config.embedding_factor()))?,
            stream_norm: NormPlan::new(device, &of_stream)?,
            add_norm: NormPlan::new(device, &of_stream.residual(true))?,
            norm: NormPlan::new(device, &norm)?,
            append: AppendPlan::new(device, &append)?,
            attention: [
                attention(window, config.local_base)?,
                attention(Window::ALL, config.global_base)?,
            ],
            gather: EmbedPlan::new(device, &EmbedProblem::new(dtype, hidden))?,
            sample: SamplePlan::new(device, &SampleProblem::new(DType::F32, vocab))?,
        })
    }
}

impl Attention {
    fn new(
        stream: &Stream,
        config: &Config,
        options: Options,
        dtype: DType,
        window: Window,
        base: f64,
    ) -> Result<Attention, Box<dyn Error>> {
        let heads = HeadShape {
            query: config.heads,
            kv: config.kv_heads,
            dim: config.dim,
        };
        let problem = PrefillProblem::new(dtype, heads, options.sequences, options.max_rows)
            .paged(PAGE)
            .causal(true)
            .window(window);
        let device = stream.device();
        let decode = DecodeProblem::of(problem.clone());
        let decode = match options.invariant {
            true => decode.batch_invariant(options.max_keys),
            false => decode.max_queries(1),
        };
        let decode = Attention::decode(device, decode, options)?;
        let prefill = match options.invariant {
            true => None,
            false => Some(PrefillPlan::new(device, &problem)?),
        };
        let [cosines, sines] = Angles::new(config.dim, base).tables(options.max_keys);
        Ok(Attention {
            decode,
            prefill,
            angles: [stream.upload(&cosines)?, stream.upload(&sines)?],
        })
    }

    /// As many blocks as the device holds, but no more than there can be work for.
    fn decode(
        device: &Device,
        problem: DecodeProblem,
        options: Options,
    ) -> Result<DecodePlan, Box<dyn Error>> {
        let plan = DecodePlan::new(device, &problem)?;
        let heads = problem.attention().heads;
        let tokens = match options.invariant {
            true => options.max_rows,
            false => options.sequences,
        };
        let keys = options.max_keys.div_ceil(KEYS_OF_BLOCK);
        let blocks = tokens * heads.kv * keys;
        Ok(match plan.blocks() > blocks {
            true => DecodePlan::new(device, &problem.blocks(blocks))?,
            false => plan,
        })
    }
}

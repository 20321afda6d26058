//! A layer on a device: its weights, its cache, and what a step makes of them.

use std::error::Error;

use infer_kernels::attention::CuSeqLens;
use infer_kernels::attention::decode::DecodeArgs;
use infer_kernels::attention::prefill::{Kv, PageTable, PrefillArgs};
use infer_kernels::elementwise::NormArgs;
use infer_kernels::kv::{AppendArgs, CacheMut, Queries, Rotation, Weights};
use infer_kernels::{Buffer, Float, StatusWord, Stream, Tensor, TensorMut};

use super::batch::Batch;
use super::config::Config;
use super::engine::{Options, PAGE};
use super::linear::{Linear, Products};
use super::plans::{Attention, Plans, stream_factor};
use super::weights::Layer;

/// A layer's weights on the device.
pub struct DeviceLayer {
    norms: [Buffer<f32>; 4],
    head_norms: [Buffer<f32>; 2],
    attention: [Linear; 4],
    gate_up: Linear,
    down: Linear,
}

/// Keys and values of a layer, `[pages, PAGE, heads, dim]` each.
pub struct LayerCache<T: Float> {
    pub k: Buffer<T>,
    pub v: Buffer<T>,
}

/// What layers hand on, a row for each token of a step.
pub struct Rows<T: Float> {
    /// The residual stream.
    pub stream: Buffer<T>,
    pub normed: Buffer<T>,
    part: Buffer<T>,
    q: Buffer<T>,
    k: Buffer<T>,
    v: Buffer<T>,
    attended: Buffer<T>,
    inner: Buffer<T>,
    /// The rows that logits are wanted of.
    pub last: Buffer<T>,
    pub logits: Buffer<f32>,
}

/// What the layers of a step have in common.
pub struct Step<'a> {
    pub stream: &'a Stream,
    pub config: &'a Config,
    pub plans: &'a Plans,
    pub batch: &'a Batch,
    pub status: &'a StatusWord,
    pub attention: &'a Attention,
    /// Tokens.
    pub m: usize,
}

impl Step<'_> {
    /// One layer. Each part's result is normalised, joins the residual stream, and is normalised for
    /// the next part.
    pub fn layer<T: Float>(
        &self,
        layer: &DeviceLayer,
        first: bool,
        cache: &mut LayerCache<T>,
        rows: &mut Rows<T>,
        workspace: &mut Buffer<f32>,
    ) -> Result<(), Box<dyn Error>> {
        let (stream, plans, m) = (self.stream, self.plans, self.m);
        let &Config {
            hidden,
            heads,
            kv_heads,
            dim,
            inner,
            ..
        } = self.config;
        let (queries, keys) = (heads * dim, kv_heads * dim);
        let shape = [m, hidden];
        match first {
            true => {
                let x = rows_of(&rows.stream, [m, 1, hidden])?;
                let y = rows_mut(&mut rows.normed, [m, 1, hidden])?;
                let args = NormArgs::new(x, y).weight(layer.norms[0].tensor([hidden])?);
                plans.stream_norm.run(stream, args)?;
            }
            false => add_norm(plans, stream, rows, &layer.norms[0], shape)?,
        }
        let [to_q, to_k, to_v, from_attention] = &layer.attention;
        let x = rows_of(&rows.normed, shape)?;
        to_q.run(
            stream,
            x,
            rows_mut(&mut rows.q, [m, queries])?,
            whole(workspace)?,
        )?;
        to_k.run(
            stream,
            x,
            rows_mut(&mut rows.k, [m, keys])?,
            whole(workspace)?,
        )?;
        to_v.run(
            stream,
            x,
            rows_mut(&mut rows.v, [m, keys])?,
            whole(workspace)?,
        )?;
        self.append(layer, cache, rows)?;
        self.attend(cache, rows, workspace)?;
        let x = rows_of(&rows.attended, [m, queries])?;
        from_attention.run(
            stream,
            x,
            rows_mut(&mut rows.part, shape)?,
            whole(workspace)?,
        )?;
        norm_in_place(plans, stream, &mut rows.part, &layer.norms[1], shape)?;
        add_norm(plans, stream, rows, &layer.norms[2], shape)?;
        let x = rows_of(&rows.normed, shape)?;
        let y = rows_mut(&mut rows.inner, [m, inner])?;
        layer.gate_up.run(stream, x, y, whole(workspace)?)?;
        let x = rows_of(&rows.inner, [m, inner])?;
        let y = rows_mut(&mut rows.part, shape)?;
        layer.down.run(stream, x, y, whole(workspace)?)?;
        norm_in_place(plans, stream, &mut rows.part, &layer.norms[3], shape)
    }

    /// Normalises and rotates queries and keys, and stores keys and values.
    fn append<T: Float>(
        &self,
        layer: &DeviceLayer,
        cache: &mut LayerCache<T>,
        rows: &mut Rows<T>,
    ) -> Result<(), Box<dyn Error>> {
        let &Config {
            heads,
            kv_heads,
            dim,
            ..
        } = self.config;
        let pool = [self.batch.pages(), PAGE, kv_heads, dim];
        let new = [self.m, kv_heads, dim];
        let pools = CacheMut::Rows {
            k: cache.k.tensor_mut(pool)?,
            v: cache.v.tensor_mut(pool)?,
        };
        let (k, v) = (rows_of(&rows.k, new)?, rows_of(&rows.v, new)?);
        let [cosines, sines] = &self.attention.angles;
        let angles = [cosines.len() / (dim / 2), dim / 2];
        let args = AppendArgs::new(k, v, pools, self.batch.slots()?, self.status)
            .queries(Queries::InPlace(rows_mut(
                &mut rows.q,
                [self.m, heads, dim],
            )?))
            .rotation(Rotation {
                positions: self.batch.positions()?,
                cosines: cosines.tensor(angles)?,
                sines: sines.tensor(angles)?,
            })
            .weights(Weights {
                q: Some(layer.head_norms[0].tensor([dim])?),
                k: layer.head_norms[1].tensor([dim])?,
            });
        Ok(self.plans.append.run(self.stream, args)?)
    }

    fn attend<T: Float>(
        &self,
        cache: &LayerCache<T>,
        rows: &mut Rows<T>,
        workspace: &mut Buffer<f32>,
    ) -> Result<(), Box<dyn Error>> {
        let &Config {
            heads,
            kv_heads,
            dim,
            ..
        } = self.config;
        let (shape, pool) = (
            [self.m, heads, dim],
            [self.batch.pages(), PAGE, kv_heads, dim],
        );
        let kv = Kv::Paged {
            k: cache.k.tensor(pool)?,
            v: cache.v.tensor(pool)?,
            pages: PageTable::Rows(self.batch.page_table()?),
            seqlens: self.batch.lens()?,
        };
        let q = rows_of(&rows.q, shape)?;
        let out = rows_mut(&mut rows.attended, shape)?;
        let offsets = CuSeqLens::Device(self.batch.offsets()?);
        match &self.attention.prefill {
            Some(prefill) if self.batch.longest() > 1 => {
                let args = PrefillArgs::new(q, kv, out, offsets, self.status);
                prefill.run(self.stream, args)?;
            }
            _ => {
                let mut args = DecodeArgs::new(q, kv, out, whole(workspace)?, self.status);
                args.seqlens_q = Some(offsets);
                self.attention.decode.run(self.stream, args)?;
            }
        }
        Ok(())
    }
}

/// The stream takes the last part's result, and is normalised.
pub fn add_norm<T: Float>(
    plans: &Plans,
    stream: &Stream,
    rows: &mut Rows<T>,
    weight: &Buffer<f32>,
    [m, hidden]: [usize; 2],
) -> Result<(), Box<dyn Error>> {
    let shape = [m, 1, hidden];
    let (x, y) = (
        rows_of(&rows.part, shape)?,
        rows_mut(&mut rows.normed, shape)?,
    );
    let args = NormArgs::new(x, y)
        .weight(weight.tensor([hidden])?)
        .residual(rows_mut(&mut rows.stream, shape)?);
    Ok(plans.add_norm.run(stream, args)?)
}

fn norm_in_place<T: Float>(
    plans: &Plans,
    stream: &Stream,
    rows: &mut Buffer<T>,
    weight: &Buffer<f32>,
    [m, hidden]: [usize; 2],
) -> Result<(), Box<dyn Error>> {
    let args = NormArgs::in_place(rows_mut(rows, [m, 1, hidden])?);
    Ok(plans
        .norm
        .run(stream, args.weight(weight.tensor([hidden])?))?)
}

/// The first rows of a buffer that has room for more.
pub fn rows_of<T: Float, const R: usize>(
    buffer: &Buffer<T>,
    shape: [usize; R],
) -> Result<Tensor<'_, R>, Box<dyn Error>> {
    let row: usize = shape[1..].iter().product();
    let mut whole = shape;
    whole[0] = buffer.len() / row;
    Ok(buffer.tensor(whole)?.narrow(0, 0..shape[0])?)
}

pub fn rows_mut<T: Float, const R: usize>(
    buffer: &mut Buffer<T>,
    shape: [usize; R],
) -> Result<TensorMut<'_, R>, Box<dyn Error>> {
    let row: usize = shape[1..].iter().product();
    let mut whole = shape;
    whole[0] = buffer.len() / row;
    Ok(buffer.tensor_mut(whole)?.narrow(0, 0..shape[0])?)
}

pub fn whole(buffer: &mut Buffer<f32>) -> Result<TensorMut<'_, 1>, Box<dyn Error>> {
    Ok(buffer.tensor_mut([buffer.len()])?)
}

impl DeviceLayer {
    pub fn new(stream: &Stream, products: Products, layer: &Layer) -> Result<Self, Box<dyn Error>> {
        let norm = |weights: &Vec<f32>| stream.upload(weights);
        // Those behind a part: what joins the residual stream is scaled as it is.
        let factor = stream_factor(products.dtype);
        let scaled = |weights: &Vec<f32>| {
            let weights: Vec<f32> = weights.iter().map(|weight| factor * weight).collect();
            stream.upload(&weights)
        };
        let [a, b, c, d] = &layer.norms;
        let [q, k] = &layer.head_norms;
        let linear = |weight| products.linear(stream, weight, products.dtype);
        let [to_q, to_k, to_v, from_attention] = &layer.attention;
        let [gate, up, down] = &layer.feed_forward;
        Ok(DeviceLayer {
            norms: [norm(a)?, scaled(b)?, norm(c)?, scaled(d)?],
            head_norms: [norm(q)?, norm(k)?],
            attention: [
                linear(to_q)?,
                linear(to_k)?,
                linear(to_v)?,
                linear(from_attention)?,
            ],
            gate_up: products.gated(stream, [gate, up])?,
            down: linear(down)?,
        })
    }

    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.attention.iter().chain([&self.gate_up, &self.down])
    }
}

impl<T: Float> Rows<T> {
    pub fn new(stream: &Stream, config: &Config, options: Options) -> Result<Self, Box<dyn Error>> {
        let rows = |elements: usize| stream.alloc(options.max_rows * elements);
        let (queries, keys) = (config.heads * config.dim, config.kv_heads * config.dim);
        Ok(Rows {
            stream: rows(config.hidden)?,
            normed: rows(config.hidden)?,
            part: rows(config.hidden)?,
            q: rows(queries)?,
            k: rows(keys)?,
            v: rows(keys)?,
            attended: rows(queries)?,
            inner: rows(config.inner)?,
            last: stream.alloc(options.max_logits * config.hidden)?,
            logits: stream.alloc(options.max_logits * config.vocab)?,
        })
    }
}

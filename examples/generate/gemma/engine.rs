//! The model on a device: weights, a paged cache, and steps that append tokens to sequences.

use std::error::Error;

use infer_kernels::attention::CuSeqLens;
use infer_kernels::attention::decode::DecodeArgs;
use infer_kernels::attention::prefill::{Kv, PageTable, PrefillArgs};
use infer_kernels::elementwise::{EmbedArgs, NormArgs, SampleArgs, Sampling, Table};
use infer_kernels::kv::{AppendArgs, CacheMut, Queries, Rotation, Weights};
use infer_kernels::{Buffer, DType, Device, Float, StatusWord, Stream, Tensor, TensorMut};

use super::batch::{Batch, Span};
use super::config::Config;
use super::linear::{Linear, Products};
use super::plans::{Attention, Plans, stream_factor};
use super::weights::{Layer, Model};

/// Keys on a page of the cache.
pub const PAGE: usize = 16;

/// How an engine is laid out. Everything is allocated and planned for it, once.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sequences that there may be at a time.
    pub sequences: usize,
    /// The most tokens of a sequence.
    pub max_keys: usize,
    /// The most tokens of a step, of all sequences.
    pub max_rows: usize,
    /// The most rows of logits of a step.
    pub max_logits: usize,
    /// Whether the bits of a sequence's results must not depend on what else is in a step, nor on how
    /// its tokens are shared out over steps.
    pub invariant: bool,
}

/// How tokens are drawn from logits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// What logits are divided by; 0: the most likely token.
    pub temperature: f32,
    /// Of how many tokens; 0: all.
    pub top_k: i32,
    /// Of how much of the probability.
    pub top_p: f32,
    pub seed: u64,
}

/// A layer's weights on the device.
struct DeviceLayer {
    norms: [Buffer<f32>; 4],
    head_norms: [Buffer<f32>; 2],
    attention: [Linear; 4],
    gate_up: Linear,
    down: Linear,
}

/// Keys and values of a layer, `[pages, PAGE, heads, dim]` each.
struct LayerCache<T: Float> {
    k: Buffer<T>,
    v: Buffer<T>,
}

/// What layers hand on, a row for each token of a step.
struct Rows<T: Float> {
    /// The residual stream.
    stream: Buffer<T>,
    normed: Buffer<T>,
    part: Buffer<T>,
    q: Buffer<T>,
    k: Buffer<T>,
    v: Buffer<T>,
    attended: Buffer<T>,
    inner: Buffer<T>,
    /// The rows that logits are wanted of.
    last: Buffer<T>,
    logits: Buffer<f32>,
}

/// A model on a device.
pub struct Engine<T: Float> {
    stream: Stream,
    config: Config,
    options: Options,
    plans: Plans,
    layers: Vec<DeviceLayer>,
    caches: Vec<LayerCache<T>>,
    norm: Buffer<f32>,
    embedding: (Buffer<i8>, Buffer<half::f16>),
    head: Linear,
    rows: Rows<T>,
    workspace: Buffer<f32>,
    status: StatusWord,
    batch: Batch,
}

impl<T: Float> Engine<T> {
    /// Uploads the weights, makes every plan, and allocates everything that steps need.
    pub fn new(device: &Device, model: &Model, options: Options) -> Result<Self, Box<dyn Error>> {
        let (config, stream) = (model.config.clone(), device.stream());
        let products = Products {
            dtype: T::DTYPE,
            max_rows: options.max_rows,
            invariant: options.invariant,
        };
        let layers = model.layers.iter();
        let layers = layers.map(|layer| DeviceLayer::new(&stream, products, layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let of_logits = Products {
            max_rows: options.max_logits,
            ..products
        };
        let head = of_logits.linear(&stream, &model.embedding, DType::F32)?;
        let (codes, scales) = model.embedding_rows()?;
        let plans = Plans::new(device, &stream, &config, options, T::DTYPE)?;
        let linears = layers.iter().flat_map(DeviceLayer::linears).chain([&head]);
        let attentions = plans.attention.iter();
        let elements = linears
            .map(Linear::workspace)
            .chain(attentions.map(|attention| attention.decode.workspace_elements()));
        let elements = elements.max().unwrap_or(0);
        let pages = options.sequences * options.max_keys.div_ceil(PAGE);
        let cache = || -> Result<_, Box<dyn Error>> {
            let elements = pages * PAGE * config.kv_heads * config.dim;
            Ok(LayerCache {
                k: stream.alloc(elements)?,
                v: stream.alloc(elements)?,
            })
        };
        Ok(Engine {
            caches: (0..config.layers)
                .map(|_| cache())
                .collect::<Result<_, _>>()?,
            norm: stream.upload(&model.norm)?,
            embedding: (stream.upload(&codes)?, stream.upload(&scales)?),
            rows: Rows::new(&stream, &config, options)?,
            workspace: stream.alloc(elements.max(1))?,
            status: StatusWord::new(&stream)?,
            batch: Batch::new(&stream, options, pages)?,
            plans,
            layers,
            head,
            stream,
            config,
            options,
        })
    }

    /// How it is laid out.
    pub fn options(&self) -> Options {
        self.options
    }

    /// How many tokens of a sequence are in the cache.
    pub fn len(&self, sequence: usize) -> usize {
        self.batch.len(sequence)
    }

    /// Forgets the tokens of a sequence from the given number on, and gives its pages back.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        self.batch.truncate(sequence, len);
    }

    /// Appends tokens to sequences, and computes the logits that are asked for: row by row, in the
    /// order of the sequences.
    pub fn step(&mut self, spans: &[Span<'_>]) -> Result<(), Box<dyn Error>> {
        self.batch.prepare(spans)?;
        self.enqueue()
    }

    /// The last step once more: it computes the same again.
    pub fn step_again(&mut self) -> Result<(), Box<dyn Error>> {
        self.enqueue()
    }

    /// Enqueues the step that the batch describes. Nothing here allocates, loads or waits: a graph can
    /// record it.
    fn enqueue(&mut self) -> Result<(), Box<dyn Error>> {
        let (stream, rows, m) = (&self.stream, &mut self.rows, self.batch.rows());
        let Config { hidden, vocab, .. } = self.config;
        let groups = hidden / 32;
        let (codes, scales) = &self.embedding;
        let table = Table::Int8 {
            codes: codes.tensor([vocab, hidden])?,
            scales: scales.tensor([vocab, groups])?,
        };
        let (ids, status) = (self.batch.ids()?, &self.status);
        let y = rows_mut(&mut rows.stream, [m, hidden])?;
        (self.plans.embed).run(
            stream,
            EmbedArgs {
                table,
                ids,
                y,
                status,
            },
        )?;
        for (i, layer) in self.layers.iter().enumerate() {
            let step = Step {
                stream,
                config: &self.config,
                plans: &self.plans,
                batch: &self.batch,
                status,
                m,
                attention: &self.plans.attention[usize::from(self.config.is_global(i))],
            };
            step.layer(
                layer,
                i == 0,
                &mut self.caches[i],
                rows,
                &mut self.workspace,
            )?;
        }
        let wanted = self.batch.wanted();
        if wanted == 0 {
            return Ok(());
        }
        add_norm(&self.plans, stream, rows, &self.norm, [m, hidden])?;
        let table = Table::Float(rows_of(&rows.normed, [m, hidden])?);
        let (ids, y) = (
            self.batch.wanted_rows()?,
            rows_mut(&mut rows.last, [wanted, hidden])?,
        );
        (self.plans.gather).run(
            stream,
            EmbedArgs {
                table,
                ids,
                y,
                status,
            },
        )?;
        let x = rows_of(&rows.last, [wanted, hidden])?;
        let y = rows_mut(&mut rows.logits, [wanted, vocab])?;
        self.head.run(stream, x, y, whole(&mut self.workspace)?)
    }

    /// The logits of the last step, `[rows wanted, vocab]`.
    #[cfg(test)]
    pub fn logits(&self) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut logits = self.rows.logits.download()?;
        logits.truncate(self.batch.wanted() * self.config.vocab);
        Ok(logits)
    }

    /// A token for each row of logits of the last step. A sequence's draws are counted by its tokens.
    pub fn draw(&mut self, draw: Draw) -> Result<Vec<u32>, Box<dyn Error>> {
        let rows = self.batch.wanted();
        let options = self.batch.draws(draw)?;
        let sampling = Sampling {
            temperature: options
                .temperature
                .tensor([self.options.max_logits])?
                .narrow(0, 0..rows)?,
            top_k: Some(
                options
                    .top_k
                    .tensor([self.options.max_logits])?
                    .narrow(0, 0..rows)?,
            ),
            top_p: Some(
                options
                    .top_p
                    .tensor([self.options.max_logits])?
                    .narrow(0, 0..rows)?,
            ),
            draws: options
                .draws
                .tensor([self.options.max_logits, 2])?
                .narrow(0, 0..rows)?,
        };
        let args = SampleArgs {
            logits: rows_of(&self.rows.logits, [rows, self.config.vocab])?,
            sampling: Some(sampling),
            tokens: options
                .tokens
                .tensor_mut([self.options.max_logits])?
                .narrow(0, 0..rows)?,
            status: &self.status,
        };
        self.plans.sample.run(&self.stream, args)?;
        let tokens = options.tokens.download()?;
        self.status.read()?.into_result()?;
        Ok(tokens[..rows].iter().map(|&token| token as u32).collect())
    }
}

/// What the layers of a step have in common.
struct Step<'a> {
    stream: &'a Stream,
    config: &'a Config,
    plans: &'a Plans,
    batch: &'a Batch,
    status: &'a StatusWord,
    attention: &'a Attention,
    /// Tokens.
    m: usize,
}

impl Step<'_> {
    /// One layer. Each part's result is normalised, joins the residual stream, and is normalised for
    /// the next part.
    fn layer<T: Float>(
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
fn add_norm<T: Float>(
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
fn rows_of<T: Float, const R: usize>(
    buffer: &Buffer<T>,
    shape: [usize; R],
) -> Result<Tensor<'_, R>, Box<dyn Error>> {
    let row: usize = shape[1..].iter().product();
    let mut whole = shape;
    whole[0] = buffer.len() / row;
    Ok(buffer.tensor(whole)?.narrow(0, 0..shape[0])?)
}

fn rows_mut<T: Float, const R: usize>(
    buffer: &mut Buffer<T>,
    shape: [usize; R],
) -> Result<TensorMut<'_, R>, Box<dyn Error>> {
    let row: usize = shape[1..].iter().product();
    let mut whole = shape;
    whole[0] = buffer.len() / row;
    Ok(buffer.tensor_mut(whole)?.narrow(0, 0..shape[0])?)
}

fn whole(buffer: &mut Buffer<f32>) -> Result<TensorMut<'_, 1>, Box<dyn Error>> {
    Ok(buffer.tensor_mut([buffer.len()])?)
}

impl DeviceLayer {
    fn new(stream: &Stream, products: Products, layer: &Layer) -> Result<Self, Box<dyn Error>> {
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

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.attention.iter().chain([&self.gate_up, &self.down])
    }
}

impl<T: Float> Rows<T> {
    fn new(stream: &Stream, config: &Config, options: Options) -> Result<Self, Box<dyn Error>> {
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

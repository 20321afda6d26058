//! The model on a device: weights, a paged cache, and steps that append tokens to sequences.

use std::error::Error;

use infer_kernels::elementwise::{EmbedArgs, SampleArgs, Sampling, Table};
use infer_kernels::{Buffer, DType, Device, Float, StatusWord, Stream};

use super::batch::{Batch, Span};
use super::config::Config;
use super::layer::{DeviceLayer, LayerCache, Rows, Step, add_norm, rows_mut, rows_of, whole};
use super::linear::{Linear, Products};
use super::plans::Plans;
use super::weights::Model;

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

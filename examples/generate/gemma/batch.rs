//! The sequences of an engine, and what a step is told about them.

use std::error::Error;

use infer_kernels::{Buffer, Stream, Tensor};

use super::engine::{Draw, Options, PAGE};

/// Tokens that a step appends to a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub sequence: usize,
    pub tokens: &'a [u32],
    /// Of how many of them, the last ones, logits are wanted.
    pub logits: usize,
}

/// A sequence's pages, in order, and how many tokens are on them.
#[derive(Clone, Debug, Default)]
struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

/// Sequences, free pages, and a step's numbers in device memory.
pub struct Batch {
    options: Options,
    pages: usize,
    free: Vec<u32>,
    sequences: Vec<Sequence>,
    /// Tokens of the step, and the most of a sequence.
    rows: usize,
    longest: usize,
    /// The tokens that each row of logits is behind: how many its sequence has.
    wanted: Vec<usize>,
    device: Numbers,
    draws: Draws,
}

/// What kernels read of a step.
struct Numbers {
    ids: Buffer<u32>,
    slots: Buffer<i64>,
    positions: Buffer<i64>,
    offsets: Buffer<i32>,
    lens: Buffer<i32>,
    table: Buffer<u32>,
    wanted_rows: Buffer<u32>,
}

/// How each row of logits is drawn from.
pub struct Draws {
    pub temperature: Buffer<f32>,
    pub top_k: Buffer<i32>,
    pub top_p: Buffer<f32>,
    pub draws: Buffer<u64>,
    pub tokens: Buffer<i32>,
}

impl Batch {
    pub fn new(stream: &Stream, options: Options, pages: usize) -> Result<Batch, Box<dyn Error>> {
        let Options {
            sequences,
            max_rows,
            max_logits,
            ..
        } = options;
        Ok(Batch {
            options,
            pages,
            free: (0..pages as u32).collect(),
            sequences: vec![Sequence::default(); sequences],
            rows: 0,
            longest: 0,
            wanted: vec![],
            device: Numbers {
                ids: stream.alloc(max_rows)?,
                slots: stream.alloc(max_rows)?,
                positions: stream.alloc(max_rows)?,
                offsets: stream.alloc(sequences + 1)?,
                lens: stream.alloc(sequences)?,
                table: stream.alloc(pages)?,
                wanted_rows: stream.alloc(max_logits)?,
            },
            draws: Draws {
                temperature: stream.alloc(max_logits)?,
                top_k: stream.alloc(max_logits)?,
                top_p: stream.alloc(max_logits)?,
                draws: stream.alloc(2 * max_logits)?,
                tokens: stream.alloc(max_logits)?,
            },
        })
    }

    pub fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len
    }

    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let sequence = &mut self.sequences[sequence];
        sequence.len = sequence.len.min(len);
        self.free
            .extend(sequence.pages.drain(sequence.len.div_ceil(PAGE)..));
    }

    /// Finds room for the tokens, and tells the device what the step consists of.
    pub fn prepare(&mut self, spans: &[Span<'_>]) -> Result<(), Box<dyn Error>> {
        let Options {
            sequences,
            max_keys,
            max_rows,
            max_logits,
            ..
        } = self.options;
        let mut tokens = vec![None; sequences];
        for span in spans {
            let place = tokens.get_mut(span.sequence);
            let place = place.ok_or_else(|| format!("there are {sequences} sequences"))?;
            if place.replace(span).is_some() {
                return Err("a sequence comes twice in a step".into());
            }
        }
        self.wanted.clear();
        (self.rows, self.longest) = (0, 0);
        let (mut ids, mut slots, mut positions) = (vec![], vec![], vec![]);
        let (mut offsets, mut wanted_rows) = (vec![0], vec![]);
        for (sequence, span) in self.sequences.iter_mut().zip(tokens) {
            if let Some(span) = span {
                let end = sequence.len + span.tokens.len();
                if end > max_keys {
                    return Err(format!("{end} tokens, expected at most {max_keys}").into());
                }
                for (i, &token) in span.tokens.iter().enumerate() {
                    let position = sequence.len + i;
                    if position / PAGE == sequence.pages.len() {
                        let page = self.free.pop();
                        sequence.pages.push(page.ok_or("no page is free")?);
                    }
                    let page = sequence.pages[position / PAGE] as usize;
                    ids.push(token);
                    slots.push((page * PAGE + position % PAGE) as i64);
                    positions.push(position as i64);
                    if i + span.logits >= span.tokens.len() {
                        wanted_rows.push(ids.len() as u32 - 1);
                        self.wanted.push(position + 1);
                    }
                }
                sequence.len = end;
                self.longest = self.longest.max(span.tokens.len());
            }
            offsets.push(ids.len() as i32);
        }
        self.rows = ids.len();
        if self.rows > max_rows || wanted_rows.len() > max_logits {
            let got = [self.rows, wanted_rows.len()];
            return Err(format!(
                "{got:?} tokens and rows of logits, expected at most {max_rows} and {max_logits}"
            )
            .into());
        }
        let lens: Vec<i32> = self.sequences.iter().map(|s| s.len as i32).collect();
        let columns = self.pages / sequences;
        let table = self.sequences.iter().flat_map(|sequence| {
            let pages = sequence.pages.iter().copied();
            pages.chain(std::iter::repeat(0)).take(columns)
        });
        let device = &mut self.device;
        upload(&mut device.ids, &ids)?;
        upload(&mut device.slots, &slots)?;
        upload(&mut device.positions, &positions)?;
        upload(&mut device.offsets, &offsets)?;
        upload(&mut device.lens, &lens)?;
        upload(&mut device.table, &table.collect::<Vec<_>>())?;
        upload(&mut device.wanted_rows, &wanted_rows)
    }

    /// The same options for each row of logits, and the number of its draw.
    pub fn draws(&mut self, draw: Draw) -> Result<&mut Draws, Box<dyn Error>> {
        let rows = self.wanted.len();
        let draws = self.wanted.iter().flat_map(|&len| [draw.seed, len as u64]);
        upload(&mut self.draws.draws, &draws.collect::<Vec<_>>())?;
        upload(&mut self.draws.temperature, &vec![draw.temperature; rows])?;
        upload(&mut self.draws.top_k, &vec![draw.top_k; rows])?;
        upload(&mut self.draws.top_p, &vec![draw.top_p; rows])?;
        Ok(&mut self.draws)
    }

    /// Tokens of the step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The most tokens of a sequence in the step.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Rows of logits.
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Pages of a layer's cache.
    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn ids(&self) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
        first(&self.device.ids, self.rows)
    }

    pub fn slots(&self) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
        first(&self.device.slots, self.rows)
    }

    pub fn positions(&self) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
        first(&self.device.positions, self.rows)
    }

    /// Where the tokens of each sequence begin and end.
    pub fn offsets(&self) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
        first(&self.device.offsets, self.sequences.len() + 1)
    }

    /// Tokens of each sequence, the new ones among them.
    pub fn lens(&self) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
        first(&self.device.lens, self.sequences.len())
    }

    pub fn page_table(&self) -> Result<Tensor<'_, 2>, Box<dyn Error>> {
        let sequences = self.sequences.len();
        Ok(self
            .device
            .table
            .tensor([sequences, self.pages / sequences])?)
    }

    pub fn wanted_rows(&self) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
        first(&self.device.wanted_rows, self.wanted.len())
    }
}

fn first<T: infer_kernels::Element>(
    buffer: &Buffer<T>,
    len: usize,
) -> Result<Tensor<'_, 1>, Box<dyn Error>> {
    Ok(buffer.tensor([buffer.len()])?.narrow(0, 0..len)?)
}

/// The first elements of a buffer; what is behind them does not matter.
fn upload<T: infer_kernels::Element>(
    buffer: &mut Buffer<T>,
    source: &[T],
) -> Result<(), Box<dyn Error>> {
    let mut whole = source.to_vec();
    whole.resize(buffer.len(), bytemuck::Zeroable::zeroed());
    Ok(buffer.upload(&whole)?)
}

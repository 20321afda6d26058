//! Matrix products in which each row meets the weights of its expert.

use std::fmt;

use super::check::{BoundLaunch, Check, Launches, Lie, Params, enqueue, optional};
use super::combine::MOST_SPLITS;
use super::error::count;
use super::experts::MOST_SLOTS;
use super::params::GroupedParams;
use super::route::MOST_PAIRS;
use super::{MoeError, entries};
use crate::catalog::Entry;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::gemm::{Activation, WeightLayout};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Which rows a grouped product reads and writes. A place is a position in the order that
/// [`PermutePlan`](super::PermutePlan) made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The first product of a layer: `x` has a row per token, read where it lies, `y` one per place.
    Up,
    /// The second: `x` has a row per place, `y` one per pair of token and slot.
    Down,
}

/// A product of each row with the weights of its expert, to be planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GroupedProblem {
    /// The type of `x`, weights and biases: `f16` or `bf16`.
    pub dtype: DType,
    /// Experts on this device.
    pub here: usize,
    /// Tokens: no call has more.
    pub max_tokens: usize,
    /// Experts of each token.
    pub slots: usize,
    /// Columns of `y`, a multiple of 8.
    pub n: usize,
    /// Columns of `x`, a multiple of 8.
    pub k: usize,
    /// Which rows are read and written.
    pub direction: Direction,
    /// How an expert's weights are stored.
    pub layout: WeightLayout,
    /// What is applied to the sums, after the bias.
    pub activation: Activation,
    /// Whether there are up weights, whose product the activated one is multiplied by.
    pub gated: bool,
    /// The type of `y`: `dtype` or `f32`.
    pub out: DType,
    /// Into how many ranges K is split, each with rows of `y` of its own, which
    /// [`CombinePlan`](super::CombinePlan) adds up.
    pub splits: usize,
    /// Rows of a tile; `None` leaves it to the plan.
    pub tile: Option<usize>,
}

impl GroupedProblem {
    /// `y = x·W`, with weights `[here, n, k]`.
    pub fn new(
        dtype: DType,
        direction: Direction,
        [here, n, k]: [usize; 3],
        max_tokens: usize,
        slots: usize,
    ) -> Self {
        GroupedProblem {
            dtype,
            here,
            max_tokens,
            slots,
            n,
            k,
            direction,
            layout: WeightLayout::Nk,
            activation: Activation::None,
            gated: false,
            out: dtype,
            splits: 1,
            tile: None,
        }
    }

    /// With [`GroupedProblem::layout`] set.
    #[must_use]
    pub fn layout(mut self, layout: WeightLayout) -> Self {
        self.layout = layout;
        self
    }

    /// With [`GroupedProblem::activation`] and [`GroupedProblem::gated`] set.
    #[must_use]
    pub fn activation(mut self, activation: Activation, gated: bool) -> Self {
        (self.activation, self.gated) = (activation, gated);
        self
    }

    /// With [`GroupedProblem::splits`] set, and `y` of `f32`.
    #[must_use]
    pub fn splits(mut self, splits: usize) -> Self {
        (self.splits, self.out) = (splits, DType::F32);
        self
    }

    /// With [`GroupedProblem::tile`] set, for those who measured.
    #[must_use]
    pub fn tile(mut self, tile: Option<usize>) -> Self {
        self.tile = tile;
        self
    }

    /// Whether there is a kernel for this product; if not, the reason.
    ///
    /// # Errors
    /// [`MoeError::UnsupportedDtype`], [`MoeError::Count`], [`MoeError::Multiple`],
    /// [`MoeError::NotGated`], [`MoeError::Splits`], [`MoeError::UnsupportedTile`].
    pub fn supports(&self) -> Result<(), MoeError> {
        self.candidates().map(drop)
    }

    /// The entries for it, those with small tiles first.
    fn candidates(&self) -> Result<Vec<&'static Entry>, MoeError> {
        check_dtype(self.dtype)?;
        if self.out != self.dtype && self.out != DType::F32 {
            return Err(MoeError::UnsupportedDtype {
                what: "y",
                expected: match self.dtype {
                    DType::F16 => &[DType::F16, DType::F32],
                    _ => &[DType::BF16, DType::F32],
                },
                got: self.out,
            });
        }
        count(
            "experts",
            self.here,
            0..=super::experts::MOST_EXPERTS + MOST_SLOTS,
        )?;
        count("slots", self.slots, 1..=2 * MOST_SLOTS)?;
        count("tokens", self.max_tokens, 0..=MOST_PAIRS / self.slots)?;
        for (what, got) in [("n", self.n), ("k", self.k)] {
            count(what, got, 1..=MOST_PAIRS)?;
            multiple(what, got)?;
        }
        if self.activation == Activation::ClampedSwiglu && !self.gated {
            return Err(MoeError::NotGated);
        }
        count("splits of K", self.splits, 1..=MOST_SPLITS)?;
        let plain = self.activation == Activation::None && !self.gated && self.out == DType::F32;
        if self.splits > 1 && !plain {
            return Err(MoeError::Splits { got: self.splits });
        }
        let variant = match self.layout {
            WeightLayout::Nk => "nk",
            WeightLayout::Kn => "kn",
        };
        let mut fitting: Vec<_> = entries("moe_grouped")
            .filter(|entry| entry.dtype == self.dtype.name() && entry.variant == variant)
            .collect();
        fitting.sort_by_key(|entry| entry.tile_q);
        let Some(got) = self.tile else {
            return Ok(fitting);
        };
        let expected = fitting.iter().map(|entry| entry.tile_q as usize).collect();
        fitting.retain(|entry| entry.tile_q as usize == got);
        match fitting.is_empty() {
            true => Err(MoeError::UnsupportedTile { expected, got }),
            false => Ok(fitting),
        }
    }
}

/// Operands of [`GroupedPlan::run`].
#[derive(Debug)]
pub struct GroupedArgs<'a> {
    /// `[tokens, k]` or `[tokens · slots, k]`, see [`Direction`]; rows at multiples of 16 bytes.
    pub x: Tensor<'a, 2>,
    /// `[here, n, k]` or `[here, k, n]`, rows at multiples of 16 bytes.
    pub w: Tensor<'a, 3>,
    /// Up weights, exactly if the plan is gated; with the strides of `w`. Gate and up may be halves
    /// of one tensor, or every other row of it.
    pub w_up: Option<Tensor<'a, 3>>,
    /// `[here, n]`, with any strides.
    pub bias: Option<Tensor<'a, 2>>,
    /// `[here, n]`, for the up product, with the strides of `bias`.
    pub bias_up: Option<Tensor<'a, 2>>,
    /// Pairs in the order of their experts, as [`PermutePlan`](super::PermutePlan) made it.
    pub order: Tensor<'a, 1>,
    /// `[here + 1]`, where each expert's begin.
    pub offsets: Tensor<'a, 1>,
    /// `[splits · tokens · slots, n]`. Rows of pairs without an expert on this device are not written.
    pub y: TensorMut<'a, 2>,
    /// Where an order or offsets that make no sense are reported.
    pub status: &'a StatusWord,
}

/// Kernels chosen and loaded for a [`GroupedProblem`]. Prints what it will launch, and why.
#[derive(Clone, Debug)]
pub struct GroupedPlan {
    problem: GroupedProblem,
    /// By tile, the small ones first: as many as calls of up to the planned tokens choose from.
    kernels: Vec<Kernel>,
}

impl GroupedPlan {
    /// Chooses the kernels and loads them, if they are not yet.
    ///
    /// # Errors
    /// What [`GroupedProblem::supports`] refuses, or [`MoeError::Device`].
    pub fn new(device: &Device, problem: &GroupedProblem) -> Result<Self, MoeError> {
        let entries = problem.candidates()?;
        let most = choose(problem, &entries, problem.max_tokens);
        let plan = GroupedPlan {
            problem: problem.clone(),
            kernels: entries[..=most]
                .iter()
                .map(|entry| device.kernel(entry))
                .collect::<Result<_, _>>()?,
        };
        count(
            "tiles",
            plan.most_tiles(problem.max_tokens, problem.splits),
            0..=MOST_TILES,
        )?;
        Ok(plan)
    }

    /// What was planned.
    pub fn problem(&self) -> &GroupedProblem {
        &self.problem
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernels[0].device()
    }

    /// The name of the kernel that so many tokens are multiplied by: the one with the smallest tile
    /// that holds the rows that an expert has on average.
    pub fn entry(&self, tokens: usize) -> &'static str {
        self.kernel(tokens).entry().name
    }

    /// How tiles are shared out if experts have so many rows: what the kernel will find out.
    pub fn schedule(&self, tokens: usize, rows_of_experts: &[usize]) -> Schedule {
        let entry = self.kernel(tokens).entry();
        let (tile, columns) = (entry.tile_q as usize, self.tile_columns(entry));
        let down: usize = rows_of_experts.iter().map(|rows| rows.div_ceil(tile)).sum();
        let most = self.most_tiles(tokens, self.problem.splits);
        Schedule {
            tile,
            tiles: down * self.problem.n.div_ceil(columns) * self.problem.splits,
            blocks: most.min(self.resident(tokens)),
        }
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates device memory,
    /// waits, loads or records an event.
    ///
    /// # Errors
    /// [`MoeError::Operand`], [`MoeError::Tokens`], [`MoeError::Optional`], [`MoeError::Strides`];
    /// [`MoeError::Device`] when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: GroupedArgs<'_>) -> Result<(), MoeError> {
        enqueue(&self.bind(stream, &args)?)
    }

    pub(crate) fn bind<'t>(
        &'t self,
        stream: &'t Stream,
        args: &'t GroupedArgs<'_>,
    ) -> Result<Launches<'t>, MoeError> {
        let GroupedProblem {
            dtype,
            here,
            slots,
            n,
            k,
            splits,
            ..
        } = self.problem;
        let rows = args.x.shape()[0];
        let tokens = match self.problem.direction {
            Direction::Up => rows,
            Direction::Down => rows / slots,
        };
        if tokens > self.problem.max_tokens {
            return Err(MoeError::Tokens {
                tensor: "x",
                expected: self.problem.max_tokens,
                got: tokens,
            });
        }
        let pairs = tokens * slots;
        let x_rows = match self.problem.direction {
            Direction::Up => tokens,
            Direction::Down => pairs,
        };
        let mut check = Check::new(self.device(), stream)?;
        let (x, [x_stride, _]) = check.read("x", args.x, dtype, [x_rows, k], Lie::Aligned)?;
        let weights = Weights {
            w: args.w,
            w_up: args.w_up,
            bias: args.bias,
            bias_up: args.bias_up,
        };
        let weights = self.weights(&mut check, weights, ["w", "w_up", "bias", "bias_up"])?;
        let (order, _) = check.read("order", args.order, DType::I32, [pairs], Lie::Dense)?;
        let (offsets, _) =
            check.read("offsets", args.offsets, DType::I32, [here + 1], Lie::Dense)?;
        let shape = [splits * pairs, n];
        let (y, [y_stride, _]) = check.write("y", &args.y, self.problem.out, shape, Lie::Rows)?;
        let params = GroupedParams {
            x,
            y,
            order,
            offsets,
            status: check.status(args.status)?,
            x_stride,
            y_stride,
            splits: splits as i32,
            y_is_f32: i32::from(self.problem.out == DType::F32),
            ..weights
        };
        Ok(vec![self.launch(stream, tokens, params)])
    }

    /// Weights and biases, checked; `names` are what errors call them.
    pub(super) fn weights<'t>(
        &self,
        check: &mut Check<'t>,
        given: Weights<'t>,
        names: [&'static str; 4],
    ) -> Result<GroupedParams, MoeError> {
        let GroupedProblem {
            dtype,
            here,
            n,
            k,
            gated,
            ..
        } = self.problem;
        let shape = match self.problem.layout {
            WeightLayout::Nk => [here, n, k],
            WeightLayout::Kn => [here, k, n],
        };
        let (w, w_strides) = check.read(names[0], given.w, dtype, shape, Lie::Aligned)?;
        let w_up = match optional(names[1], gated, given.w_up)? {
            Some(up) => {
                let (up, got) = check.read(names[1], up, dtype, shape, Lie::Aligned)?;
                alike([names[1], names[0]], got, w_strides)?;
                up
            }
            None => 0,
        };
        if given.bias_up.is_some() {
            optional(names[3], gated && given.bias.is_some(), given.bias_up)?;
        }
        let (bias, bias_strides) = match given.bias {
            Some(bias) => check.read(names[2], bias, dtype, [here, n], Lie::Anyhow)?,
            None => (0, [0; 2]),
        };
        let bias_up = match given.bias_up {
            Some(up) => {
                let (up, got) = check.read(names[3], up, dtype, [here, n], Lie::Anyhow)?;
                alike([names[3], names[2]], got, bias_strides)?;
                up
            }
            None => 0,
        };
        Ok(GroupedParams {
            w,
            w_up,
            bias,
            bias_up,
            w_expert: w_strides[0],
            w_stride: w_strides[1],
            bias_expert: bias_strides[0],
            bias_step: bias_strides[1],
            ..GroupedParams::default()
        })
    }

    /// The launch for so many tokens, at most the planned ones: `params` has all addresses and
    /// strides, splits and the type of `y`.
    pub(super) fn launch<'b>(
        &'b self,
        stream: &'b Stream,
        tokens: usize,
        params: GroupedParams,
    ) -> BoundLaunch<'b> {
        let GroupedProblem {
            here,
            slots,
            n,
            k,
            direction,
            activation,
            ..
        } = self.problem;
        let kernel = self.kernel(tokens);
        let tiles = self.most_tiles(tokens, params.splits as usize);
        // In range by the limits that `new` checked.
        let params = Params::Grouped(GroupedParams {
            y_split: params.y_stride * (tokens * slots) as i64,
            pairs: (tokens * slots) as i32,
            here: here as i32,
            n: n as i32,
            k: k as i32,
            activation: activation.code(),
            slots: if direction == Direction::Up {
                slots as i32
            } else {
                0
            },
            scatter: i32::from(direction == Direction::Down),
            ..params
        });
        BoundLaunch::new(kernel, stream, tiles.min(self.resident(tokens)), params)
    }

    fn kernel(&self, tokens: usize) -> &Kernel {
        let entries: Vec<_> = self.kernels.iter().map(Kernel::entry).collect();
        &self.kernels[choose(&self.problem, &entries, tokens)]
    }

    /// Blocks of the kernel for so many tokens that the device holds.
    pub(super) fn resident(&self, tokens: usize) -> usize {
        let blocks = self.kernel(tokens).blocks_per_multiprocessor().max(1);
        (blocks * self.device().limits().multiprocessors.max(1)) as usize
    }

    /// Columns of `y` that a tile has.
    fn tile_columns(&self, entry: &Entry) -> usize {
        match self.problem.gated {
            true => entry.tile_k as usize / 2,
            false => entry.tile_k as usize,
        }
    }

    /// Tiles of so many tokens, if they go to as many experts as they can.
    pub(super) fn most_tiles(&self, tokens: usize, splits: usize) -> usize {
        let entry = self.kernel(tokens).entry();
        let columns = self.tile_columns(entry);
        let pairs = tokens * self.problem.slots;
        let down = (pairs / entry.tile_q as usize + self.problem.here).min(pairs);
        down.saturating_mul(self.problem.n.div_ceil(columns))
            .saturating_mul(splits)
    }
}

/// How the tiles of a launch are shared out: tile t to block t modulo the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schedule {
    /// Rows of a tile.
    pub tile: usize,
    /// Tiles, all of which cost the same.
    pub tiles: usize,
    /// Blocks, as many as the device holds, or fewer if there cannot be as many tiles.
    pub blocks: usize,
}

impl Schedule {
    /// Tiles of the block that has most.
    pub fn rounds(&self) -> usize {
        self.tiles.div_ceil(self.blocks.max(1))
    }

    /// What share of the blocks' time is spent on tiles, if all take until the busiest is done.
    pub fn efficiency(&self) -> f64 {
        self.tiles as f64 / (self.rounds() * self.blocks).max(1) as f64
    }
}

/// The most tiles of a launch: counted, also beyond the last, in 32 bits.
const MOST_TILES: usize = 1 << 30;

/// Weights of a product, to be checked.
pub(super) struct Weights<'t> {
    pub w: Tensor<'t, 3>,
    pub w_up: Option<Tensor<'t, 3>>,
    pub bias: Option<Tensor<'t, 2>>,
    pub bias_up: Option<Tensor<'t, 2>>,
}

/// The smallest tile that holds the rows of an expert that has as many as the average, or the
/// largest tile: by place in `entries`. With up to 16 tokens, every expert has one tile of rows, and
/// its weights are read once.
fn choose(problem: &GroupedProblem, entries: &[&Entry], tokens: usize) -> usize {
    let rows = (tokens * problem.slots)
        .div_ceil(problem.here.max(1))
        .min(tokens);
    let holds = |entry: &&Entry| rows <= entry.tile_q as usize;
    entries.iter().position(holds).unwrap_or(entries.len() - 1)
}

fn alike<const R: usize>(
    [tensor, other]: [&'static str; 2],
    got: [i64; R],
    expected: [i64; R],
) -> Result<(), MoeError> {
    if got == expected {
        return Ok(());
    }
    Err(MoeError::Strides {
        tensor,
        other,
        expected: expected.into(),
        got: got.into(),
    })
}

/// Elements of a 16-byte chunk.
pub(super) const CHUNK: usize = 8;

pub(super) fn multiple(what: &'static str, got: usize) -> Result<(), MoeError> {
    if got.is_multiple_of(CHUNK) {
        return Ok(());
    }
    Err(MoeError::Multiple {
        what,
        expected: CHUNK,
        got,
    })
}

pub(super) fn check_dtype(got: DType) -> Result<(), MoeError> {
    const EXPECTED: &[DType] = &[DType::F16, DType::BF16];
    if EXPECTED.contains(&got) {
        return Ok(());
    }
    Err(MoeError::UnsupportedDtype {
        what: "rows and weights",
        expected: EXPECTED,
        got,
    })
}

impl fmt::Display for GroupedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupedProblem {
            here,
            n,
            k,
            activation,
            gated,
            max_tokens,
            ..
        } = self.problem;
        write!(
            f,
            "{}: {here} experts of {n} by {k}, {activation:?}{}, at most {} tiles in {} blocks",
            self.entry(max_tokens),
            if gated { ", gated" } else { "" },
            self.most_tiles(max_tokens, self.problem.splits),
            self.resident(max_tokens)
        )
    }
}

//! Rows of an embedding table, by token id.

use std::fmt;

use super::ElementwiseError;
use super::check::{Bound, CHUNK, Check, MOST, MOST_DIM, entry};
use super::error::{count, finite, one_of};
use crate::catalog::Entry;
use crate::device::{Device, Kernel, Stream};
use crate::dtype::DType;
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

crate::params::params! {
    /// What an `embed` entry is given, by value: `cuda/elementwise/embed_params.cuh`. Public for
    /// tests of the binary interface only.
    EmbedParams {
        table: u64,
        scales: u64,
        ids: u64,
        y: u64,
        status: u64,
        table_stride: i64,
        scales_stride: i64,
        y_stride: i64,
        rows: i32,
        dim: i32,
        group: i32,
        table_type: i32,
        scale_type: i32,
        ids_are_64: i32,
        factor: f32,
        reserved: i32,
    }
}

/// How a table stores its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableFormat {
    /// As numbers of this type: `bf16`, `f16` or `f32`.
    Float(DType),
    /// As `i8` codes with a scale for each group of a row: value = scale · code. GGUF's Q8_0, its
    /// blocks taken apart, has groups of 32 with `f16` scales.
    Int8 {
        /// The type of scales: `bf16`, `f16` or `f32`.
        scales: DType,
        /// Elements of a scale, a multiple of 8.
        group: usize,
    },
}

/// A gather to be planned: `y[t] = factor · table[ids[t]]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EmbedProblem {
    /// The type of the result.
    pub dtype: DType,
    /// Elements of a row.
    pub dim: usize,
    /// How the table stores its elements.
    pub table: TableFormat,
    /// What everything is multiplied by: √dim as Gemma has it.
    pub factor: f32,
}

impl EmbedProblem {
    /// Rows of a table of the result's type, as they are.
    pub fn new(dtype: DType, dim: usize) -> Self {
        EmbedProblem {
            dtype,
            dim,
            table: TableFormat::Float(dtype),
            factor: 1.0,
        }
    }

    /// With [`EmbedProblem::table`] set.
    #[must_use]
    pub fn table(mut self, table: TableFormat) -> Self {
        self.table = table;
        self
    }

    /// With [`EmbedProblem::factor`] set.
    #[must_use]
    pub fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// Whether there is a kernel for this problem on any device; if not, the reason.
    ///
    /// # Errors
    /// [`ElementwiseError::UnsupportedDtype`], [`ElementwiseError::Count`],
    /// [`ElementwiseError::Group`], [`ElementwiseError::Factor`].
    pub fn supports(&self) -> Result<(), ElementwiseError> {
        self.entry().map(drop)
    }

    fn entry(&self) -> Result<&'static Entry, ElementwiseError> {
        let entry = entry("embed", self.dtype)?;
        count("elements of a row", self.dim, 1..=MOST_DIM)?;
        finite(self.factor)?;
        match self.table {
            TableFormat::Float(dtype) => one_of("table", dtype, &FLOATS)?,
            TableFormat::Int8 { scales, group } => {
                one_of("scales", scales, &FLOATS)?;
                count("elements of a scale", group, CHUNK..=MOST)?;
                if !group.is_multiple_of(CHUNK) {
                    return Err(ElementwiseError::Group {
                        expected: CHUNK,
                        got: group,
                    });
                }
            }
        }
        Ok(entry)
    }
}

/// The types of tables and scales, by the numbers that the kernel knows them by.
const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

fn code(dtype: DType) -> i32 {
    match dtype {
        DType::F16 => 0,
        DType::BF16 => 1,
        DType::F32 => 2,
        _ => 3,
    }
}

/// An embedding table on the device, a row for each id.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Table<'a> {
    /// `[ids, dim]`, of the planned type.
    Float(Tensor<'a, 2>),
    /// Codes and their scales.
    Int8 {
        /// `[ids, dim]`, `i8`.
        codes: Tensor<'a, 2>,
        /// `[ids, ceil(dim / group)]`, of the planned type. May begin anywhere.
        scales: Tensor<'a, 2>,
    },
}

/// Operands of [`EmbedPlan::run`]; rows of table and result lie at multiples of 16 bytes.
#[derive(Debug)]
pub struct EmbedArgs<'a> {
    /// The table, as planned.
    pub table: Table<'a>,
    /// `[tokens]` as `i32`, `u32` or `i64`.
    pub ids: Tensor<'a, 1>,
    /// `[tokens, dim]`.
    pub y: TensorMut<'a, 2>,
    /// Where the kernel reports ids that it cannot use.
    pub status: &'a StatusWord,
}

/// A kernel chosen and loaded for an [`EmbedProblem`]. Prints what it will launch.
#[derive(Clone, Debug)]
pub struct EmbedPlan {
    problem: EmbedProblem,
    kernel: Kernel,
}

impl EmbedPlan {
    /// Chooses the kernel and loads it, if it is not yet.
    ///
    /// # Errors
    /// What [`EmbedProblem::supports`] refuses, or [`ElementwiseError::Device`] when the device
    /// cannot run the kernel.
    pub fn new(device: &Device, problem: &EmbedProblem) -> Result<Self, ElementwiseError> {
        Ok(EmbedPlan {
            kernel: device.kernel(problem.entry()?)?,
            problem: problem.clone(),
        })
    }

    /// What was planned.
    pub fn problem(&self) -> &EmbedProblem {
        &self.problem
    }

    /// The device that the plan was made for.
    pub fn device(&self) -> &Device {
        self.kernel.device()
    }

    /// The name of the kernel that will be launched.
    pub fn entry(&self) -> &'static str {
        self.kernel.entry().name
    }

    /// Bytes of so many rows, read and written: the least that a launch moves for different ids, but
    /// for the ids.
    pub fn row_bytes(&self, rows: usize) -> u128 {
        let EmbedProblem {
            dtype, dim, table, ..
        } = self.problem;
        let stored = match table {
            TableFormat::Float(of) => dim * of.size(),
            TableFormat::Int8 { scales, group } => dim + dim.div_ceil(group) * scales.size(),
        };
        rows as u128 * (stored + dim * dtype.size()) as u128
    }

    /// Checks every operand, then enqueues the kernel on `stream`. Never allocates, waits, loads or
    /// records an event.
    ///
    /// An id beyond the table gives a row of zeros and is reported in the status word.
    ///
    /// # Errors
    /// [`ElementwiseError::Operand`] for an operand of another type, shape, stride, alignment,
    /// device or stream than the plan and the kernel call for, or one that overlaps another that is
    /// written; [`ElementwiseError::Option`] for scales that are missing or not planned;
    /// [`ElementwiseError::Count`] for more ids or tokens than 32 bits count;
    /// [`ElementwiseError::Device`] when the launch fails, or the stream is recording a graph.
    pub fn run(&self, stream: &Stream, args: EmbedArgs<'_>) -> Result<(), ElementwiseError> {
        Ok(Stream::enqueue(&self.bind(stream, &args)?)?)
    }

    pub(crate) fn bind<'a>(
        &'a self,
        stream: &'a Stream,
        args: &'a EmbedArgs<'_>,
    ) -> Result<Bound<'a, EmbedParams>, ElementwiseError> {
        let EmbedProblem {
            dtype,
            dim,
            table,
            factor,
        } = self.problem;
        let mut check = Check::new(&self.kernel, stream)?;
        let (elements, scales) = match &args.table {
            Table::Float(rows) => (rows, None),
            Table::Int8 { codes, scales } => (codes, Some(scales)),
        };
        let [rows, _] = elements.shape();
        count("ids of the table", rows, 0..=MOST)?;
        let planned = matches!(table, TableFormat::Int8 { .. });
        super::check::unless_planned("scales", planned, scales.is_some())?;
        let table_type = match table {
            TableFormat::Float(of) => of,
            TableFormat::Int8 { .. } => DType::I8,
        };
        let (address, [table_stride, _]) =
            check.read("table", elements, table_type, [rows, dim])?;
        let mut params = EmbedParams {
            table: address,
            table_stride,
            table_type: code(table_type),
            group: CHUNK as i32,
            ..EmbedParams::default()
        };
        if let (TableFormat::Int8 { scales: of, group }, Some(scales)) = (table, scales) {
            let shape = [rows, dim.div_ceil(group)];
            let (address, [stride, _]) = check.read_anywhere("scales", scales, of, shape)?;
            (params.scales, params.scales_stride) = (address, stride);
            (params.scale_type, params.group) = (code(of), group as i32);
        }

        let [tokens] = args.ids.shape();
        count("tokens", tokens, 0..=MOST)?;
        let ids = args.ids.dtype();
        one_of("ids", ids, &[DType::I32, DType::U32, DType::I64])?;
        params.ids = check.read_anywhere("ids", &args.ids, ids, [tokens])?.0;
        params.ids_are_64 = i32::from(ids == DType::I64);
        (params.y, [params.y_stride, _]) = check.written("y", &args.y, dtype, [tokens, dim])?;
        params.status = check.status(args.status)?;
        check.finish()?;
        // In range by the limits checked here and in the problem.
        (params.rows, params.dim, params.factor) = (rows as i32, dim as i32, factor);
        Ok(Bound::new(&self.kernel, stream, tokens, params))
    }
}

impl fmt::Display for EmbedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EmbedProblem {
            dtype,
            dim,
            table,
            factor,
        } = self.problem;
        let entry = self.kernel.entry();
        write!(
            f,
            "{}: {} threads\n  rows of {dim} ",
            entry.name, entry.threads
        )?;
        match table {
            TableFormat::Float(of) => write!(f, "{of}")?,
            TableFormat::Int8 { scales, group } => {
                write!(f, "i8 with {scales} scales for {group} each")?;
            }
        }
        let bytes = self.row_bytes(1);
        write!(
            f,
            " to {dtype}, times {factor}\n  {bytes} bytes per row on {}",
            self.device()
        )
    }
}

//! Operands of a mixed batch, and those of its parts.

use std::ops::Range;

use super::MixedError;
use crate::attention::CuSeqLens;
use crate::attention::decode::DecodeArgs;
use crate::attention::prefill::{Kv, Mask, PageTable, PrefillArgs, PrefillError};
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`MixedPlan::run`](super::MixedPlan::run).
#[derive(Debug)]
pub struct MixedArgs<'a> {
    /// Those of the whole batch.
    pub attention: PrefillArgs<'a>,
    /// At least [`MixedPlan::workspace_elements`](super::MixedPlan::workspace_elements) of `f32`, the
    /// first at a multiple of 16 bytes; its contents do not matter.
    pub workspace: TensorMut<'a, 1>,
}

impl MixedArgs<'_> {
    /// The operands of the sequences `part` of a batch of `batch`, if they decode.
    pub(crate) fn decode(
        &mut self,
        batch: usize,
        part: Range<usize>,
    ) -> Result<DecodeArgs<'_>, MixedError> {
        let PrefillArgs {
            q,
            kv,
            out,
            lse,
            seqlens_q,
            alibi,
            sinks,
            mask,
            status,
        } = narrowed(&mut self.attention, batch, part)?;
        Ok(DecodeArgs {
            q,
            kv,
            out,
            lse,
            seqlens_q: Some(seqlens_q),
            alibi,
            sinks,
            mask,
            scales: None,
            workspace: self.workspace.reborrow(),
            status,
        })
    }

    /// The same, if they prefill.
    pub(crate) fn prefill(
        &mut self,
        batch: usize,
        part: Range<usize>,
    ) -> Result<PrefillArgs<'_>, MixedError> {
        narrowed(&mut self.attention, batch, part)
    }
}

/// Operands of some of the sequences. Rows of queries, keys and outputs stay those of all.
fn narrowed<'b>(
    args: &'b mut PrefillArgs<'_>,
    batch: usize,
    part: Range<usize>,
) -> Result<PrefillArgs<'b>, MixedError> {
    let mask = args.mask.map(|Mask { bits, offsets }| {
        let offsets = ends("mask offsets", offsets, batch, &part)?;
        Ok::<_, MixedError>(Mask { bits, offsets })
    });
    Ok(PrefillArgs {
        q: args.q,
        kv: keys(args.kv, batch, &part)?,
        out: args.out.reborrow(),
        lse: args.lse.as_mut().map(TensorMut::reborrow),
        seqlens_q: rows(args.seqlens_q, "seqlens_q", batch, &part)?,
        alibi: args.alibi,
        sinks: args.sinks,
        mask: mask.transpose()?,
        status: args.status,
    })
}

fn keys<'a>(kv: Kv<'a>, batch: usize, part: &Range<usize>) -> Result<Kv<'a>, MixedError> {
    Ok(match kv {
        Kv::Ragged { k, v, seqlens } => Kv::Ragged {
            k,
            v,
            seqlens: rows(seqlens, "seqlens_k", batch, part)?,
        },
        Kv::Paged {
            k,
            v,
            pages,
            seqlens,
        } => Kv::Paged {
            k,
            v,
            pages: match pages {
                PageTable::Rows(table) => {
                    sequences("page table", table.shape()[0], batch)?;
                    PageTable::Rows(table.narrow(0, part.clone())?)
                }
                PageTable::Csr { indptr, pages } => PageTable::Csr {
                    indptr: ends("indptr", indptr, batch, part)?,
                    pages,
                },
            },
            seqlens: {
                sequences("seqlens_k", seqlens.shape()[0], batch)?;
                seqlens.narrow(0, part.clone())?
            },
        },
    })
}

/// Where the rows of some sequences are. All of them: as they were given, so that what was checked as
/// a whole is.
fn rows<'a>(
    offsets: CuSeqLens<'a>,
    name: &'static str,
    batch: usize,
    part: &Range<usize>,
) -> Result<CuSeqLens<'a>, MixedError> {
    if *part == (0..batch) {
        return Ok(offsets);
    }
    let offsets = match offsets {
        CuSeqLens::Checked(checked) => checked.tensor()?,
        CuSeqLens::Device(offsets) => offsets,
    };
    Ok(CuSeqLens::Device(ends(name, offsets, batch, part)?))
}

/// Where each of some sequences begins and, last, where the last one ends.
fn ends<'a>(
    name: &'static str,
    offsets: Tensor<'a, 1>,
    batch: usize,
    part: &Range<usize>,
) -> Result<Tensor<'a, 1>, MixedError> {
    sequences(name, offsets.shape()[0].saturating_sub(1), batch)?;
    Ok(offsets.narrow(0, part.start..part.end + 1)?)
}

fn sequences(tensor: &'static str, got: usize, expected: usize) -> Result<(), PrefillError> {
    if got == expected {
        return Ok(());
    }
    Err(PrefillError::Batch {
        tensor,
        expected,
        got,
    })
}

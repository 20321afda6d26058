//! Batch-invariant attention: cases run by its kernels, and batches made of pieces of others.

use std::error::Error;
use std::ops::Range;

use infer_kernels::attention::decode::{DecodePlan, DecodeProblem};
use infer_kernels::{Device, Float};

use super::decode::run;
use super::{Arrangement, Bits, Case, Operand, Outcome, Table};

/// More keys than any case has.
pub const MOST: usize = 1 << 13;

/// Some queries of a sequence of a case, as if those behind them had not come yet.
#[derive(Clone, Debug)]
pub struct Piece {
    pub sequence: usize,
    pub queries: Range<usize>,
}

impl<T: Float> Case<T> {
    /// Runs the case by the batch-invariant kernels, the work shared by so many blocks, or by as many
    /// as the plan wants.
    pub fn decode_invariant(
        &self,
        device: &Device,
        blocks: impl Into<Option<usize>>,
    ) -> Result<Outcome<T>, Box<dyn Error>> {
        let problem = DecodeProblem::of(self.problem.clone())
            .blocks(blocks)
            .batch_invariant(MOST);
        let uniform = !self.device_offsets && self.has_even_queries();
        self.run_by(device, |stream, args| {
            let plan = DecodePlan::new(device, &problem)?;
            run(&plan, stream, args, uniform)?;
            Ok(plan.entry())
        })
    }

    /// A batch of pieces of this one's sequences, in this order. Keys and values stay where they are.
    pub fn pieces(&self, pieces: &[Piece]) -> Case<T> {
        let mut case = self.clone();
        let [_, heads, dim] = self.q.shape;
        let mut offsets = vec![0];
        let mut rows = Vec::new();
        for Piece { sequence, queries } in pieces {
            let first = self.offsets_q[*sequence] as usize;
            rows.extend(queries.clone().map(|i| first + i));
            offsets.push(rows.len() as i32);
        }
        case.q = Operand::filled([rows.len(), heads, dim], Arrangement::Dense, |[i, h, d]| {
            self.q.data[self.q.at([rows[i], h, d])].to_f64()
        });
        case.offsets_q = offsets;
        case.problem.batch = pieces.len();
        let from = self.pages.as_ref().expect("pages");
        let to = case.pages.as_mut().expect("pages");
        to.seqlens = pieces
            .iter()
            .map(|piece| from.seqlens[piece.sequence] - self.unborn(piece) as i32)
            .collect();
        to.table = self.table_of(pieces);
        if self.problem.mask {
            case.mask = self.mask_of(pieces);
        }
        case
    }

    /// Queries behind those of a piece.
    fn unborn(&self, piece: &Piece) -> usize {
        self.lengths(piece.sequence)[0] - piece.queries.end
    }

    fn table_of(&self, pieces: &[Piece]) -> Table {
        match &self.pages.as_ref().expect("pages").table {
            Table::Rows {
                offset,
                stride,
                len,
                entries,
            } => Table::Rows {
                offset: 0,
                stride: *len,
                len: *len,
                entries: pieces
                    .iter()
                    .flat_map(|piece| &entries[offset + piece.sequence * stride..][..*len])
                    .copied()
                    .collect(),
            },
            Table::Csr { indptr, entries } => {
                let (mut ends, mut listed) = (vec![0], Vec::new());
                for piece in pieces {
                    let range =
                        indptr[piece.sequence] as usize..indptr[piece.sequence + 1] as usize;
                    listed.extend_from_slice(&entries[range]);
                    ends.push(listed.len() as i32);
                }
                Table::Csr {
                    indptr: ends,
                    entries: listed,
                }
            }
        }
    }

    fn mask_of(&self, pieces: &[Piece]) -> Bits {
        let mut mask = Bits::default();
        for piece in pieces {
            mask.offsets.push(mask.bits.len() as i32);
            let [_, all] = self.lengths(piece.sequence);
            let keys = all - self.unborn(piece);
            let mut bits = vec![0u8; (piece.queries.len() * keys).div_ceil(8)];
            let first = 8 * self.mask.offsets[piece.sequence] as usize;
            for (to, i) in piece.queries.clone().enumerate() {
                for j in 0..keys {
                    let (from, to) = (first + i * all + j, to * keys + j);
                    bits[to / 8] |= (self.mask.bits[from / 8] >> (from % 8) & 1) << (to % 8);
                }
            }
            mask.bits.extend(bits);
        }
        mask.offsets.push(mask.bits.len() as i32);
        mask
    }

    /// Fails unless what came of pieces of this case has the bits of what came of all of it.
    pub fn compare(&self, whole: &Outcome<T>, pieces: &[Piece], got: &Outcome<T>) {
        let row = self.problem.heads.query * self.problem.v_dim;
        let bits = |outcome: &Outcome<T>, at: usize| -> Vec<u64> {
            let row = &outcome.out[at * row..][..row];
            row.iter().map(|x| x.to_f64().to_bits()).collect()
        };
        let lse = |outcome: &Outcome<T>, at: usize| -> Vec<u32> {
            let rows = outcome.out.len() / row;
            let heads = outcome.lse.chunks(rows.max(1));
            heads.map(|head| head[at].to_bits()).collect()
        };
        let mut at = 0;
        for piece in pieces {
            for i in piece.queries.clone() {
                let of_whole = self.offsets_q[piece.sequence] as usize + i;
                let place = format!("query {i} of {piece:?} in {pieces:?}");
                assert_eq!(bits(got, at), bits(whole, of_whole), "{place}");
                assert_eq!(lse(got, at), lse(whole, of_whole), "log-sum-exp of {place}");
                at += 1;
            }
        }
    }
}

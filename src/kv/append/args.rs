//! Operands of an append.

use crate::kv::{CacheMut, Scales};
use crate::status::StatusWord;
use crate::tensor::{Tensor, TensorMut};

/// Operands of [`AppendPlan::run`](super::AppendPlan::run). What the plan's options need is given
/// exactly if they are planned.
#[derive(Debug)]
pub struct AppendArgs<'a> {
    /// New keys, `[tokens, heads, dim]`.
    pub k: Tensor<'a, 3>,
    /// New values, `[tokens, heads, v_dim]`.
    pub v: Tensor<'a, 3>,
    /// Where they are stored.
    pub cache: CacheMut<'a>,
    /// The slot of each token, `[tokens]` as `i64` or `i32`.
    pub slots: Tensor<'a, 1>,
    /// Queries that are normalised and rotated too.
    pub queries: Queries<'a>,
    /// Positions and angles.
    pub rotation: Option<Rotation<'a>>,
    /// Weights of the norm.
    pub weights: Option<Weights<'a>>,
    /// Scales of a cache in 8 bits.
    pub scales: Option<Scales<'a>>,
    /// Where the kernel reports what it cannot use.
    pub status: &'a StatusWord,
}

/// Queries of an append, `[tokens, query_heads, dim]`.
#[derive(Debug, Default)]
pub enum Queries<'a> {
    /// None.
    #[default]
    None,
    /// The result takes their place.
    InPlace(TensorMut<'a, 3>),
    /// The result goes elsewhere.
    To {
        /// The queries.
        q: Tensor<'a, 3>,
        /// The result.
        out: TensorMut<'a, 3>,
    },
}

/// Positions of tokens, and the angles of each position.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// The position of each token, `[tokens]` as `i64` or `i32`.
    pub positions: Tensor<'a, 1>,
    /// Cosines, `[positions, rope.dim / 2]`, as `f32` or as the keys' type. A table that has both in
    /// one row is [narrowed](Tensor::narrow) to either.
    pub cosines: Tensor<'a, 2>,
    /// Sines, likewise.
    pub sines: Tensor<'a, 2>,
}

/// Weights of the norm, `[dim]` each, as `f32` or as the keys' type.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Of keys.
    pub k: Tensor<'a, 1>,
    /// Of queries, exactly if there are some.
    pub q: Option<Tensor<'a, 1>>,
}

impl<'a> AppendArgs<'a> {
    /// Operands without those of options.
    pub fn new(
        k: Tensor<'a, 3>,
        v: Tensor<'a, 3>,
        cache: CacheMut<'a>,
        slots: impl Into<Tensor<'a, 1>>,
        status: &'a StatusWord,
    ) -> Self {
        AppendArgs {
            k,
            v,
            cache,
            slots: slots.into(),
            queries: Queries::None,
            rotation: None,
            weights: None,
            scales: None,
            status,
        }
    }

    /// With [`AppendArgs::queries`] set.
    #[must_use]
    pub fn queries(mut self, queries: Queries<'a>) -> Self {
        self.queries = queries;
        self
    }

    /// With [`AppendArgs::rotation`] set.
    #[must_use]
    pub fn rotation(mut self, rotation: Rotation<'a>) -> Self {
        self.rotation = Some(rotation);
        self
    }

    /// With [`AppendArgs::weights`] set.
    #[must_use]
    pub fn weights(mut self, weights: Weights<'a>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// With [`AppendArgs::scales`] set.
    #[must_use]
    pub fn scales(mut self, scales: Scales<'a>) -> Self {
        self.scales = Some(scales);
        self
    }
}

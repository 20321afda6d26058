//! Copies that run by themselves.
use super::prelude::*;

pub(super) static ROWS: &[Row] = &[];

/// Asynchronous copies of a warp that are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {}

impl Copies {
    pub(crate) fn reset(&mut self) {}
}

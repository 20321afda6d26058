//! `mma.sync`: every shape and type by its definition, and rounding against an independent model.

// Several matrices are walked at once, by row and column.
#![allow(clippy::needless_range_loop)]

mod fragments;
mod rounding;
mod shapes;

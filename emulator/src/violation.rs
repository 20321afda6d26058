//! What a program can do wrong.

/// What is wrong, as found by the instruction that met it.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// What.
    pub kind: Kind,
    /// Lanes concerned.
    pub lanes: u32,
    /// Address concerned (of the first lane).
    pub address: Option<u64>,
}

/// Kinds of violations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// An integer division by zero, whose result PTX leaves open.
    #[error("integer division by zero")]
    DivisionByZero,
}

//! Options of a prefill that have values of their own.

use std::fmt;

/// How far from its own position a query sees, in keys. `None`: to the end.
///
/// A query's position `p` is that of the key it is aligned with: the last query's is the last key.
/// It sees key `j` if `p - left <= j <= p + right`; both edges are seen.
///
/// Models state a window as the number of keys that a query sees, its own among them: a
/// `sliding_window` of 4096 is `Window::left(4095)`, beside `causal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// How many keys before its own position a query sees.
    pub left: Option<usize>,
    /// How many keys behind its own position a query sees. Of no effect beside `causal`.
    pub right: Option<usize>,
}

impl Window {
    /// Everything is seen.
    pub const ALL: Window = Window {
        left: None,
        right: None,
    };

    /// So many keys before a query's own position, and all behind it.
    pub const fn left(keys: usize) -> Window {
        Window {
            left: Some(keys),
            right: None,
        }
    }

    /// So many keys before and behind a query's own position.
    pub const fn new(left: usize, right: usize) -> Window {
        Window {
            left: Some(left),
            right: Some(right),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |keys: Option<usize>| keys.map_or("all".to_owned(), |keys| keys.to_string());
        let (left, right) = (side(self.left), side(self.right));
        write!(f, "window of {left} keys before and {right} behind")
    }
}

/// Bends a score `s` to `cap · tanh(s / cap)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SoftCap {
    /// By the hardware's approximation: a score may be off by `cap · 2⁻¹¹`.
    Approx(f32),
    /// To within `cap · 2⁻²⁰`, at the price of more instructions.
    Exact(f32),
}

impl SoftCap {
    /// The cap.
    pub const fn cap(self) -> f32 {
        match self {
            SoftCap::Approx(cap) | SoftCap::Exact(cap) => cap,
        }
    }
}

impl fmt::Display for SoftCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SoftCap::Approx(cap) => write!(f, "soft-cap {cap}"),
            SoftCap::Exact(cap) => write!(f, "exact soft-cap {cap}"),
        }
    }
}

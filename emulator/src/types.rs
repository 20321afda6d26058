//! Names and sizes of the fundamental types.

use crate::ast::Type;

/// Name, width in bits, and type.
const TYPES: &[(&str, u32, Type)] = &[
    ("b8", 8, Type::B8),
    ("b16", 16, Type::B16),
    ("b32", 32, Type::B32),
    ("b64", 64, Type::B64),
    ("b128", 128, Type::B128),
    ("u8", 8, Type::U8),
    ("u16", 16, Type::U16),
    ("u32", 32, Type::U32),
    ("u64", 64, Type::U64),
    ("s8", 8, Type::S8),
    ("s16", 16, Type::S16),
    ("s32", 32, Type::S32),
    ("s64", 64, Type::S64),
    ("f16", 16, Type::F16),
    ("f16x2", 32, Type::F16x2),
    ("bf16", 16, Type::BF16),
    ("bf16x2", 32, Type::BF16x2),
    ("tf32", 32, Type::TF32),
    ("f32", 32, Type::F32),
    ("f64", 64, Type::F64),
    ("e4m3", 8, Type::E4M3),
    ("e5m2", 8, Type::E5M2),
    ("e4m3x2", 16, Type::E4M3x2),
    ("e5m2x2", 16, Type::E5M2x2),
    ("pred", 1, Type::Pred),
];

impl Type {
    /// The type of this name, written without its dot.
    pub(crate) fn from_token(token: &str) -> Option<Type> {
        TYPES
            .iter()
            .find(|(name, ..)| *name == token)
            .map(|(.., ty)| *ty)
    }

    /// Its name, without the dot.
    pub(crate) fn token(self) -> &'static str {
        TYPES
            .iter()
            .find(|(.., ty)| *ty == self)
            .map_or("?", |(name, ..)| name)
    }

    /// Width in bits; 1 for a predicate.
    pub(crate) fn bits(self) -> u32 {
        TYPES
            .iter()
            .find(|(.., ty)| *ty == self)
            .map_or(0, |(_, bits, _)| *bits)
    }
}

//! The parser's one error type.

use crate::lex::{Kind, Token};

/// Text that is not PTX, or not PTX that this crate knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The offending token; empty at the end of the text.
    pub token: String,
    /// What is wrong with it.
    pub message: String,
    /// What could have stood there instead, where there are only a few possibilities.
    pub expected: Vec<&'static str>,
}

/// Longest piece of a token that a message repeats.
const MAX_TOKEN: usize = 80;

impl ParseError {
    pub(crate) fn new(
        source: &str,
        token: Token<'_>,
        message: impl Into<String>,
        expected: &[&'static str],
    ) -> Self {
        let before = source.get(..token.offset as usize).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ParseError {
            line: token.line,
            column: before[line_start..].chars().count() as u32 + 1,
            token: token.text.chars().take(MAX_TOKEN).collect(),
            message: message.into(),
            expected: expected.to_vec(),
        }
    }

    pub(crate) fn unexpected(source: &str, token: Token<'_>, expected: &[&'static str]) -> Self {
        let message = match token.kind {
            Kind::End => "the text ends too early".to_string(),
            _ => "unexpected token".to_string(),
        };
        ParseError::new(source, token, message, expected)
    }
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )?;
        if !self.token.is_empty() {
            write!(f, ": `{}`", self.token)?;
        }
        if !self.expected.is_empty() {
            write!(f, " (expected {})", self.expected.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}

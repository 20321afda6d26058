//! A position in the token list, with the small steps that every rule is made of.

use super::ParseError;
use crate::lex::{Kind, Token};

pub(super) struct Cursor<'a> {
    source: &'a str,
    tokens: &'a [Token<'a>],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// `tokens` ends in [`Kind::End`], as [`crate::lex::lex`] makes them.
    pub(super) fn new(source: &'a str, tokens: &'a [Token<'a>]) -> Self {
        Cursor {
            source,
            tokens,
            at: 0,
        }
    }

    pub(super) fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    /// The token `ahead` of the next one; the end token for ever after the end.
    pub(super) fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        if token.kind != Kind::End {
            self.at += 1;
        }
        token
    }

    /// Line of the next token.
    pub(super) fn line(&self) -> u32 {
        self.peek().line
    }

    pub(super) fn at(&self, text: &str) -> bool {
        self.peek().text == text
    }

    /// Steps over `text` if it comes next.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let found = self.at(text);
        if found {
            self.at += 1;
        }
        found
    }

    pub(super) fn expect(&mut self, text: &'static str) -> Result<Token<'a>, ParseError> {
        if self.at(text) {
            Ok(self.next())
        } else {
            Err(self.unexpected(&[text]))
        }
    }

    pub(super) fn expect_kind(
        &mut self,
        kind: Kind,
        what: &'static str,
    ) -> Result<Token<'a>, ParseError> {
        if self.peek().kind == kind {
            Ok(self.next())
        } else {
            Err(self.unexpected(&[what]))
        }
    }

    /// An identifier.
    pub(super) fn name(&mut self) -> Result<String, ParseError> {
        Ok(self.expect_kind(Kind::Word, "a name")?.text.to_string())
    }

    /// The text between the quotes.
    pub(super) fn string(&mut self) -> Result<String, ParseError> {
        let token = self.expect_kind(Kind::Text, "a string")?;
        Ok(token.text[1..token.text.len() - 1].to_string())
    }

    /// An unsigned integer literal of at most 32 bits.
    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        let token = self.peek();
        let value = self.u64()?;
        u32::try_from(value).map_err(|_| self.error_at(token, "too large: 32 bits are the limit"))
    }

    /// An unsigned integer literal.
    pub(super) fn u64(&mut self) -> Result<u64, ParseError> {
        let token = self.expect_kind(Kind::Int, "an integer")?;
        self.value(token)
    }

    /// The value of an integer token.
    pub(super) fn value(&self, token: Token<'a>) -> Result<u64, ParseError> {
        let text = token.text.strip_suffix('U').unwrap_or(token.text);
        let (digits, radix) = match text.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&text[2..], 16),
            [b'0', b'b' | b'B', ..] => (&text[2..], 2),
            [b'0', _, ..] => (&text[1..], 8),
            _ => (text, 10),
        };
        u64::from_str_radix(digits, radix)
            .map_err(|_| self.error_at(token, "not an integer of at most 64 bits"))
    }

    pub(super) fn unexpected(&self, expected: &[&'static str]) -> ParseError {
        ParseError::unexpected(self.source, self.peek(), expected)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> ParseError {
        self.error_at(self.peek(), message)
    }

    pub(super) fn error_at(&self, token: Token<'a>, message: impl Into<String>) -> ParseError {
        ParseError::new(self.source, token, message, &[])
    }
}

//! Text to tokens.
//!
//! A token borrows its spelling from the source. Numbers keep their spelling too and are valued
//! by the parser, which knows whether a `.version` or an operand is wanted. Modifiers are single
//! tokens (`.shared::cta`, `.L2::128B`), since PTX allows blanks between them but not inside.

use crate::parse::ParseError;

/// What a token is; its spelling tells the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Identifier, `%` included: `%r1`, `add`, `$L__BB0_1`, `_`.
    Word,
    /// Dot and what follows it: `.global`, `.x`, `.L2::cache_hint`.
    Dot,
    /// Integer in any base, with its `U` suffix.
    Int,
    /// Decimal floating literal, or one of the forms `0f3F800000`, `0d3FF0000000000000`.
    Float,
    /// String with its quotes.
    Text,
    /// Punctuation: one or two characters.
    Mark,
    /// After the last token; empty.
    End,
}

/// A token and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its spelling.
    pub text: &'a str,
    /// Line, from 1.
    pub line: u32,
    /// Byte offset in the source.
    pub offset: u32,
}

impl Token<'_> {
    /// Offset just behind the token.
    pub fn end(&self) -> u32 {
        self.offset + self.text.len() as u32
    }
}

/// Largest source accepted: offsets are 32 bits wide.
const MAX_BYTES: usize = u32::MAX as usize;

/// Splits `source` into tokens; the last one is of kind [`Kind::End`].
///
/// # Errors
/// A character that starts no token, a malformed number, an unterminated comment or string.
pub fn lex(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    // Texts that went through C end in a NUL.
    let source = source.trim_end_matches('\0');
    if source.len() > MAX_BYTES {
        let token = Token {
            kind: Kind::End,
            text: "",
            line: 1,
            offset: 0,
        };
        return Err(ParseError::new(
            "",
            token,
            "the text is larger than 4 GiB",
            &[],
        ));
    }
    let mut lexer = Lexer {
        source,
        bytes: source.as_bytes(),
        at: 0,
        line: 1,
    };
    let mut tokens = Vec::with_capacity(source.len() / 4);
    loop {
        let token = lexer.next()?;
        tokens.push(token);
        if token.kind == Kind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

/// May stand inside an identifier.
fn is_follow(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, length: usize, message: &str) -> ParseError {
        let end = (self.at + length).min(self.source.len());
        let text = self.source.get(self.at..end).unwrap_or("");
        let token = Token {
            kind: Kind::Mark,
            text,
            line: self.line,
            offset: self.at as u32,
        };
        ParseError::new(self.source, token, message, &[])
    }

    /// Cuts the next `length` bytes off as a token.
    fn take(&mut self, kind: Kind, length: usize) -> Token<'a> {
        let text = &self.source[self.at..self.at + length];
        let token = Token {
            kind,
            text,
            line: self.line,
            offset: self.at as u32,
        };
        self.at += length;
        token
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blanks()?;
        let byte = self.peek(0);
        match byte {
            _ if self.at >= self.bytes.len() => Ok(self.take(Kind::End, 0)),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => Ok(self.word()),
            b'%' if is_follow(self.peek(1)) => Ok(self.word()),
            b'0'..=b'9' => self.number(),
            b'.' if is_follow(self.peek(1)) => Ok(self.dot()),
            b'"' => self.text(),
            _ => self.mark(),
        }
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    while self.at < self.bytes.len() && self.bytes[self.at] != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    /// `/* ... */`, which does not nest.
    fn skip_comment(&mut self) -> Result<(), ParseError> {
        let Some(length) = self.source[self.at + 2..].find("*/") else {
            return Err(self.error(2, "this comment is never closed"));
        };
        let end = self.at + 2 + length + 2;
        self.line += self.bytes[self.at..end]
            .iter()
            .filter(|&&b| b == b'\n')
            .count() as u32;
        self.at = end;
        Ok(())
    }

    fn word(&mut self) -> Token<'a> {
        let mut length = 1;
        while is_follow(self.peek(length)) {
            length += 1;
        }
        self.take(Kind::Word, length)
    }

    fn dot(&mut self) -> Token<'a> {
        let mut length = 1;
        loop {
            if is_follow(self.peek(length)) {
                length += 1;
            } else if self.peek(length) == b':'
                && self.peek(length + 1) == b':'
                && is_follow(self.peek(length + 2))
            {
                length += 2;
            } else {
                break;
            }
        }
        // `.5` in an operand.
        let digits = &self.bytes[self.at + 1..self.at + length];
        let kind = if digits.iter().all(u8::is_ascii_digit) {
            Kind::Float
        } else {
            Kind::Dot
        };
        self.take(kind, length)
    }

    fn digits(&self, from: usize, of: fn(&u8) -> bool) -> usize {
        (from..).take_while(|&i| of(&self.peek(i))).count()
    }

    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let (kind, mut length) = match (self.peek(0), self.peek(1)) {
            (b'0', b'x' | b'X') => {
                let n = self.digits(2, u8::is_ascii_hexdigit);
                (Kind::Int, if n == 0 { 0 } else { 2 + n })
            }
            (b'0', b'b' | b'B') => {
                let n = self.digits(2, |b| matches!(b, b'0' | b'1'));
                (Kind::Int, if n == 0 { 0 } else { 2 + n })
            }
            (b'0', b'f' | b'F') => {
                let n = self.digits(2, u8::is_ascii_hexdigit);
                (Kind::Float, if n == 8 { 10 } else { 0 })
            }
            (b'0', b'd' | b'D') => {
                let n = self.digits(2, u8::is_ascii_hexdigit);
                (Kind::Float, if n == 16 { 18 } else { 0 })
            }
            _ => self.decimal(),
        };
        if kind == Kind::Int && length > 0 && self.peek(length) == b'U' {
            length += 1;
        }
        if length == 0 || is_follow(self.peek(length)) {
            let whole = self.digits(0, |&b| is_follow(b));
            return Err(self.error(whole, "malformed number"));
        }
        Ok(self.take(kind, length))
    }

    /// Kind and length of a decimal or octal integer, or of a decimal floating literal.
    fn decimal(&self) -> (Kind, usize) {
        let mut kind = Kind::Int;
        let mut length = self.digits(0, u8::is_ascii_digit);
        if self.peek(length) == b'.' {
            kind = Kind::Float;
            length += 1 + self.digits(length + 1, u8::is_ascii_digit);
        }
        if matches!(self.peek(length), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(length + 1), b'+' | b'-'));
            let exponent = self.digits(length + 1 + sign, u8::is_ascii_digit);
            if exponent > 0 {
                kind = Kind::Float;
                length += 1 + sign + exponent;
            }
        }
        (kind, length)
    }

    fn text(&mut self) -> Result<Token<'a>, ParseError> {
        let mut length = 1;
        loop {
            match self.peek(length) {
                b'"' => return Ok(self.take(Kind::Text, length + 1)),
                b'\\' if self.peek(length + 1) != b'\n' => length += 2,
                b'\n' => return Err(self.error(1, "this string is never closed")),
                _ if self.at + length >= self.bytes.len() => {
                    return Err(self.error(1, "this string is never closed"));
                }
                _ => length += 1,
            }
        }
    }

    fn mark(&mut self) -> Result<Token<'a>, ParseError> {
        const DOUBLE: [&[u8]; 8] = [b"<<", b">>", b"<=", b">=", b"==", b"!=", b"&&", b"||"];
        if DOUBLE.contains(&[self.peek(0), self.peek(1)].as_slice()) {
            return Ok(self.take(Kind::Mark, 2));
        }
        if b"(){}[]<>,;:+-*/%&|^~!?=@".contains(&self.peek(0)) {
            return Ok(self.take(Kind::Mark, 1));
        }
        let length = self.source[self.at..]
            .chars()
            .next()
            .map_or(0, char::len_utf8);
        Err(self.error(length, "no PTX token starts with this character"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spellings(source: &str) -> Vec<&str> {
        let tokens = lex(source).expect("tokens");
        tokens[..tokens.len() - 1].iter().map(|t| t.text).collect()
    }

    #[test]
    fn modifiers_are_single_tokens() {
        assert_eq!(
            spellings("cp.async.cg.shared::cta.global.L2::128B [%r1+-4], p|q;"),
            [
                "cp",
                ".async",
                ".cg",
                ".shared::cta",
                ".global",
                ".L2::128B",
                "[",
                "%r1",
                "+",
                "-",
                "4",
                "]",
                ",",
                "p",
                "|",
                "q",
                ";"
            ]
        );
    }

    #[test]
    fn numbers_in_every_base() {
        let source = "0x1fU 0b101 017 42 1.5 1. 1e-5 .5 0f3F800000 0d3FF0000000000000";
        let tokens = lex(source).expect("tokens");
        let kinds: Vec<_> = tokens.iter().map(|t| t.kind).collect();
        use Kind::{End, Float, Int};
        let expected = [
            Int, Int, Int, Int, Float, Float, Float, Float, Float, Float, End,
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn lines_and_columns() {
        let error = lex("ok // fine\n /* two\nlines */ \u{e9} #").expect_err("not a token");
        assert_eq!(
            (error.line, error.column, error.token.as_str()),
            (3, 10, "\u{e9}")
        );
    }

    #[test]
    fn malformed_texts_are_errors() {
        for source in [
            "0f3f8",
            "0x",
            "12abc",
            "\"open",
            "\"open\n\"",
            "/* open",
            "#",
            "0d12",
            "\"\\",
        ] {
            assert!(lex(source).is_err(), "{source}");
        }
    }

    #[test]
    fn a_final_nul_ends_the_text() {
        assert_eq!(spellings("ret;\0"), ["ret", ";"]);
        assert!(lex("ret\0;").is_err());
    }
}

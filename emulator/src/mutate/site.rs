//! An instruction as tokens, and edits of them that keep the rest of its text.

use std::ops::Range;

use crate::lex::{Kind, Token, lex};

/// An instruction, from guard to semicolon.
pub(super) struct Site<'a> {
    pub text: &'a str,
    tokens: Vec<Token<'a>>,
    /// Token of the opcode; those before are the guard.
    opcode: usize,
    /// Tokens of the modifiers.
    modifiers: Range<usize>,
    /// Tokens of each operand.
    operands: Vec<Range<usize>>,
}

impl<'a> Site<'a> {
    /// Nothing for what is no instruction.
    pub fn new(text: &'a str) -> Option<Site<'a>> {
        let tokens = lex(text).ok()?;
        let opcode = match (tokens.first()?.text, tokens.get(1)?.text) {
            ("@", "!") => 3,
            ("@", _) => 2,
            _ => 0,
        };
        let is_modifier = |at: usize| tokens.get(at).is_some_and(|t| t.kind == Kind::Dot);
        let first = opcode + 1;
        let mut end = first;
        while is_modifier(end) {
            end += 1;
        }
        let modifiers = first..end;
        let mut operands = Vec::new();
        let (mut start, mut depth) = (end, 0u32);
        for (at, token) in tokens.iter().enumerate().skip(end) {
            match token.text {
                "[" | "{" | "(" => depth += 1,
                "]" | "}" | ")" => depth = depth.checked_sub(1)?,
                "," | ";" if depth == 0 => {
                    if at > start {
                        operands.push(start..at);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        tokens.get(opcode)?;
        Some(Site {
            text,
            tokens,
            opcode,
            modifiers,
            operands,
        })
    }

    /// The opcode without modifiers.
    pub fn op(&self) -> &'a str {
        self.tokens[self.opcode].text
    }

    /// The modifiers, without their dots.
    pub fn modifiers(&self) -> impl DoubleEndedIterator<Item = &'a str> + '_ {
        self.tokens[self.modifiers.clone()]
            .iter()
            .map(|token| &token.text[1..])
    }

    /// Whether it has a modifier.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers().any(|m| m == modifier)
    }

    /// Its last modifier, which most often is the type.
    pub fn ty(&self) -> &'a str {
        self.modifiers().next_back().unwrap_or("")
    }

    /// The guard as written, up to the opcode.
    pub fn guard(&self) -> &'a str {
        &self.text[..self.tokens[self.opcode].offset as usize]
    }

    pub fn is_guarded(&self) -> bool {
        self.opcode > 0
    }

    pub fn operand_count(&self) -> usize {
        self.operands.len()
    }

    /// An operand as written.
    pub fn operand(&self, n: usize) -> &'a str {
        let bytes = self.operands.get(n).map(|tokens| self.bytes(tokens));
        bytes.map_or("", |bytes| &self.text[bytes])
    }

    /// The tokens of an operand.
    pub fn tokens(&self, n: usize) -> &[Token<'a>] {
        let tokens = self.operands.get(n).cloned().unwrap_or(0..0);
        &self.tokens[tokens]
    }

    fn bytes(&self, tokens: &Range<usize>) -> Range<usize> {
        let start = self.tokens[tokens.start].offset as usize;
        start..self.tokens[tokens.end - 1].end() as usize
    }

    /// The text with some byte ranges, in order, written anew.
    fn edit(&self, edits: &[(Range<usize>, &str)]) -> String {
        let mut text = String::with_capacity(self.text.len() + 16);
        let mut at = 0;
        for (range, new) in edits {
            text += &self.text[at..range.start];
            text += new;
            at = range.end;
        }
        text + &self.text[at..]
    }

    /// With another opcode.
    pub fn with_op(&self, op: &str) -> String {
        let at = self.opcode;
        self.edit(&[(self.bytes(&(at..at + 1)), op)])
    }

    /// With a modifier more, right behind the opcode.
    pub fn with_first(&self, modifier: &str) -> String {
        self.with_op(&format!("{}.{modifier}", self.op()))
    }

    /// With its `n`th modifier as another, or, if that is empty, without it.
    pub fn with_nth(&self, n: usize, modifier: &str) -> String {
        let at = self.modifiers.start + n;
        let new = match modifier {
            "" => String::new(),
            _ => format!(".{modifier}"),
        };
        self.edit(&[(self.bytes(&(at..at + 1)), &new)])
    }

    /// With a modifier, if it has it, as another, or, if that is empty, without it.
    pub fn with(&self, modifier: &str, new: &str) -> Option<String> {
        let n = self.modifiers().position(|m| m == modifier)?;
        Some(self.with_nth(n, new))
    }

    /// With the first of these modifiers that it has as another.
    pub fn with_one(&self, pairs: &[(&str, &str)]) -> Option<String> {
        pairs.iter().find_map(|(old, new)| self.with(old, new))
    }

    /// With one modifier, wherever it stands, as another.
    pub fn with_each(&self, old: &str, new: &str) -> Option<String> {
        let edits: Vec<_> = self
            .modifiers
            .clone()
            .filter(|at| &self.tokens[*at].text[1..] == old)
            .map(|at| self.bytes(&(at..at + 1)))
            .collect();
        let new = format!(".{new}");
        let edits: Vec<_> = edits.into_iter().map(|range| (range, &*new)).collect();
        (!edits.is_empty()).then(|| self.edit(&edits))
    }

    /// With an operand as another.
    pub fn with_operand(&self, n: usize, new: &str) -> String {
        self.edit(&[(self.bytes(&self.operands[n]), new)])
    }

    /// Without its last operand, and with another opcode.
    pub fn without_last(&self, op: &str) -> Option<String> {
        let [.., before, last] = &self.operands[..] else {
            return None;
        };
        let gone = self.bytes(before).end..self.bytes(last).end;
        let at = self.opcode;
        Some(self.edit(&[(self.bytes(&(at..at + 1)), op), (gone, "")]))
    }

    /// With two operands in each other's place, if that makes a difference.
    pub fn swapped(&self, a: usize, b: usize) -> Option<String> {
        let (first, second) = (self.operands.get(a)?, self.operands.get(b)?);
        self.swap(self.bytes(first), self.bytes(second))
    }

    fn swap(&self, a: Range<usize>, b: Range<usize>) -> Option<String> {
        let (first, second) = (&self.text[a.clone()], &self.text[b.clone()]);
        (first != second).then(|| self.edit(&[(a.clone(), second), (b.clone(), first)]))
    }

    /// The elements of a vector operand.
    pub fn elements(&self, n: usize) -> usize {
        self.element_bytes(n).len()
    }

    fn element_bytes(&self, n: usize) -> Vec<Range<usize>> {
        let Some(operand) = self.operands.get(n) else {
            return Vec::new();
        };
        let inner = &self.tokens[operand.clone()];
        if inner.first().is_none_or(|token| token.text != "{") {
            return Vec::new();
        }
        let start = operand.start + 1;
        let separators =
            (start..operand.end).filter(|at| matches!(self.tokens[*at].text, "," | "}"));
        let mut elements = Vec::new();
        let mut from = start;
        for at in separators {
            elements.push(self.bytes(&(from..at)));
            from = at + 1;
        }
        elements
    }

    /// With two elements of a vector operand in each other's place, if that makes a difference.
    pub fn elements_swapped(&self, n: usize, a: usize, b: usize) -> Option<String> {
        let elements = self.element_bytes(n);
        self.swap(elements.get(a)?.clone(), elements.get(b)?.clone())
    }

    /// With the guard turned around.
    pub fn guard_negated(&self) -> Option<String> {
        if self.opcode == 0 {
            return None;
        }
        let at = self.tokens[0].end() as usize;
        Some(match self.opcode {
            3 => self.edit(&[(self.bytes(&(1..2)), "")]),
            _ => self.edit(&[(at..at, "!")]),
        })
    }

    /// Without the guard.
    pub fn guard_dropped(&self) -> Option<String> {
        let start = self.tokens[self.opcode].offset as usize;
        (self.opcode > 0).then(|| self.text[start..].to_string())
    }

    /// The value of an operand that is an integer constant.
    pub fn integer(&self, n: usize) -> Option<i128> {
        integer(self.tokens(n))
    }
}

/// The value of `12`, `0xcU`, `-12`.
pub(super) fn integer(tokens: &[Token<'_>]) -> Option<i128> {
    let (negative, token) = match tokens {
        [token] => (false, token),
        [sign, token] if sign.text == "-" => (true, token),
        _ => return None,
    };
    if token.kind != Kind::Int {
        return None;
    }
    let digits = token.text.strip_suffix('U').unwrap_or(token.text);
    let value = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => i128::from_str_radix(&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => i128::from_str_radix(&digits[2..], 2),
        [b'0', _, ..] => i128::from_str_radix(digits, 8),
        _ => digits.parse(),
    };
    let value = value.ok()?;
    Some(if negative { -value } else { value })
}

//! Operands: names, constants, addresses, vectors, pairs and lists.

use super::{ParseError, cursor::Cursor, declaration::address_offset, expression};
use crate::ast::Operand;
use crate::lex::Kind;

const OPERANDS: &[&str] = &["a name", "a constant", "[", "{", "(", "_"];

/// An operand of an instruction; only `call` takes parenthesised lists, elsewhere a parenthesis
/// opens a constant. Vectors and lists hold only [`simple`] operands, so nothing
/// nests more than three deep.
pub(super) fn operand(cursor: &mut Cursor<'_>, call: bool) -> Result<Operand, ParseError> {
    match cursor.peek().text {
        "[" => address(cursor),
        "{" => vector(cursor),
        "(" if call => list(cursor),
        _ => {
            let first = simple(cursor)?;
            if cursor.eat("|") {
                let second = simple(cursor)?;
                return Ok(Operand::Pair(Box::new(first), Box::new(second)));
            }
            Ok(first)
        }
    }
}

fn list(cursor: &mut Cursor<'_>) -> Result<Operand, ParseError> {
    cursor.expect("(")?;
    let mut items = Vec::new();
    if !cursor.at(")") {
        loop {
            items.push(match cursor.peek().text {
                "{" => vector(cursor)?,
                "[" => address(cursor)?,
                _ => simple(cursor)?,
            });
            if !cursor.eat(",") {
                break;
            }
        }
    }
    cursor.expect(")")?;
    Ok(Operand::List(items))
}

fn vector(cursor: &mut Cursor<'_>) -> Result<Operand, ParseError> {
    cursor.expect("{")?;
    let mut items = vec![simple(cursor)?];
    while cursor.eat(",") {
        items.push(simple(cursor)?);
    }
    cursor.expect("}")?;
    Ok(Operand::Vector(items))
}

/// `[base+offset]`, `[offset]`, `[base, index]`.
fn address(cursor: &mut Cursor<'_>) -> Result<Operand, ParseError> {
    cursor.expect("[")?;
    let operand = if expression::starts(cursor) {
        let token = cursor.peek();
        let offset = expression::integer(cursor)?;
        let offset = i64::try_from(offset).or_else(|_| u64::try_from(offset).map(|o| o as i64));
        let offset = offset.map_err(|_| cursor.error_at(token, "not a 64-bit address"))?;
        Operand::Address { base: None, offset }
    } else {
        let base = dotted_name(cursor)?;
        if cursor.eat(",") {
            let index = if cursor.at("{") {
                vector(cursor)?
            } else {
                simple(cursor)?
            };
            Operand::Indexed {
                base,
                index: Box::new(index),
            }
        } else {
            let offset = address_offset(cursor)?;
            Operand::Address {
                base: Some(base),
                offset,
            }
        }
    };
    cursor.expect("]")?;
    Ok(operand)
}

/// A name, constant or sink.
fn simple(cursor: &mut Cursor<'_>) -> Result<Operand, ParseError> {
    let token = cursor.peek();
    let next = cursor.peek_at(1);
    if token.kind == Kind::Float || (matches!(token.text, "-" | "+") && next.kind == Kind::Float) {
        let (value, bits32) = float(cursor)?;
        return Ok(Operand::Float { value, bits32 });
    }
    if token.text == "!" && next.kind == Kind::Word && next.text != "WARP_SZ" {
        cursor.next();
        return Ok(Operand::Name {
            name: dotted_name(cursor)?,
            negated: true,
        });
    }
    if token.text == "_" {
        cursor.next();
        return Ok(Operand::Sink);
    }
    if expression::starts(cursor) {
        return Ok(Operand::Int(expression::integer(cursor)?));
    }
    if token.kind != Kind::Word {
        return Err(cursor.unexpected(OPERANDS));
    }
    let name = dotted_name(cursor)?;
    match address_offset(cursor)? {
        0 => Ok(Operand::Name {
            name,
            negated: false,
        }),
        offset => Ok(Operand::NamePlus { name, offset }),
    }
}

/// `name`, `%tid.x`, `v.y`.
fn dotted_name(cursor: &mut Cursor<'_>) -> Result<String, ParseError> {
    let mut name = cursor.name()?;
    while cursor.peek().kind == Kind::Dot {
        name.push_str(cursor.next().text);
    }
    Ok(name)
}

/// A floating literal with its sign: the value, and the bits if it was written as `0f`.
pub(super) fn float(cursor: &mut Cursor<'_>) -> Result<(f64, Option<u32>), ParseError> {
    let negative = cursor.at("-");
    if negative || cursor.at("+") {
        cursor.next();
    }
    let token = cursor.expect_kind(Kind::Float, "a floating constant")?;
    let malformed = || cursor.error_at(token, "malformed number");
    let (value, bits32) = match token.text.as_bytes() {
        [b'0', b'f' | b'F', ..] => {
            let bits = u32::from_str_radix(&token.text[2..], 16).map_err(|_| malformed())?;
            let bits = if negative { bits ^ 1 << 31 } else { bits };
            return Ok((widen(bits), Some(bits)));
        }
        [b'0', b'd' | b'D', ..] => {
            let bits = u64::from_str_radix(&token.text[2..], 16).map_err(|_| malformed())?;
            (f64::from_bits(bits), None)
        }
        _ => (token.text.parse::<f64>().map_err(|_| malformed())?, None),
    };
    Ok((if negative { -value } else { value }, bits32))
}

/// Exact, and NaNs keep sign and payload (a cast would quieten signalling ones).
fn widen(bits: u32) -> f64 {
    let value = f32::from_bits(bits);
    if !value.is_nan() {
        return f64::from(value);
    }
    let sign = u64::from(bits >> 31) << 63;
    let payload = u64::from(bits & 0x7f_ffff) << 29;
    f64::from_bits(sign | 0x7ff << 52 | payload)
}

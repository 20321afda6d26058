//! Constant expressions: 64-bit arithmetic, signed unless an operand is unsigned.

use super::{ParseError, cursor::Cursor};
use crate::lex::Kind;

/// Deepest nesting of parentheses, prefixes and conditions.
const MAX_DEPTH: u32 = 64;

/// A constant: its bits and whether they are to be read as signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Constant {
    bits: u64,
    signed: bool,
}

impl Constant {
    fn truth(value: bool) -> Self {
        Constant {
            bits: u64::from(value),
            signed: true,
        }
    }
}

/// Whether a constant expression can start here.
pub(super) fn starts(cursor: &Cursor<'_>) -> bool {
    let token = cursor.peek();
    token.kind == Kind::Int
        || token.text == "WARP_SZ"
        || (token.kind == Kind::Mark && matches!(token.text, "-" | "+" | "~" | "(" | "!"))
}

/// Parses and evaluates a constant integer expression.
pub(super) fn integer(cursor: &mut Cursor<'_>) -> Result<i128, ParseError> {
    let value = condition(cursor, 0)?;
    Ok(if value.signed {
        i128::from(value.bits as i64)
    } else {
        i128::from(value.bits)
    })
}

/// Parses a product or a sum of products: what may follow the `+` of an address.
pub(super) fn offset(cursor: &mut Cursor<'_>) -> Result<i64, ParseError> {
    Ok(binary(cursor, level_of("+"), 0)?.bits as i64)
}

fn condition(cursor: &mut Cursor<'_>, depth: u32) -> Result<Constant, ParseError> {
    let test = binary(cursor, 0, depth)?;
    if !cursor.eat("?") {
        return Ok(test);
    }
    let deeper = descend(cursor, depth)?;
    let yes = condition(cursor, deeper)?;
    cursor.expect(":")?;
    let no = condition(cursor, deeper)?;
    let bits = if test.bits != 0 { yes.bits } else { no.bits };
    Ok(Constant {
        bits,
        signed: yes.signed && no.signed,
    })
}

/// Binary operators, loosest first.
const LEVELS: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<", "<=", ">", ">="],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

fn level_of(operator: &str) -> usize {
    LEVELS
        .iter()
        .position(|l| l.contains(&operator))
        .unwrap_or(0)
}

/// Operators of `level` and tighter, left-associative, by precedence climbing.
fn binary(cursor: &mut Cursor<'_>, level: usize, depth: u32) -> Result<Constant, ParseError> {
    let mut left = unary(cursor, depth)?;
    loop {
        let operator = cursor.peek();
        if operator.kind != Kind::Mark {
            return Ok(left);
        }
        let Some(found) = LEVELS.iter().position(|l| l.contains(&operator.text)) else {
            return Ok(left);
        };
        if found < level {
            return Ok(left);
        }
        cursor.next();
        let right = binary(cursor, found + 1, descend(cursor, depth)?)?;
        left = apply(operator.text, left, right)
            .ok_or_else(|| cursor.error_at(operator, "division by zero in a constant"))?;
    }
}

fn unary(cursor: &mut Cursor<'_>, depth: u32) -> Result<Constant, ParseError> {
    let token = cursor.next();
    let deeper = descend(cursor, depth)?;
    match token.text {
        "+" => unary(cursor, deeper),
        "-" => {
            let value = unary(cursor, deeper)?;
            Ok(Constant {
                bits: value.bits.wrapping_neg(),
                ..value
            })
        }
        "~" => {
            let value = unary(cursor, deeper)?;
            Ok(Constant {
                bits: !value.bits,
                ..value
            })
        }
        "!" => Ok(Constant::truth(unary(cursor, deeper)?.bits == 0)),
        "(" => {
            for (cast, signed) in [(".s64", true), (".u64", false)] {
                if cursor.eat(cast) {
                    cursor.expect(")")?;
                    return Ok(Constant {
                        signed,
                        ..unary(cursor, deeper)?
                    });
                }
            }
            let value = condition(cursor, deeper)?;
            cursor.expect(")")?;
            Ok(value)
        }
        "WARP_SZ" => Ok(Constant {
            bits: 32,
            signed: true,
        }),
        _ if token.kind == Kind::Int => {
            let bits = cursor.value(token)?;
            let signed = !token.text.ends_with('U') && bits <= i64::MAX as u64;
            Ok(Constant { bits, signed })
        }
        _ => Err(cursor.error_at(token, "not a constant")),
    }
}

fn apply(operator: &str, left: Constant, right: Constant) -> Option<Constant> {
    let signed = left.signed && right.signed;
    let (a, b) = (left.bits, right.bits);
    let (sa, sb) = (a as i64, b as i64);
    let less = if signed { sa < sb } else { a < b };
    let bits = match operator {
        "||" => return Some(Constant::truth(a != 0 || b != 0)),
        "&&" => return Some(Constant::truth(a != 0 && b != 0)),
        "==" => return Some(Constant::truth(a == b)),
        "!=" => return Some(Constant::truth(a != b)),
        "<" => return Some(Constant::truth(less)),
        "<=" => return Some(Constant::truth(less || a == b)),
        ">" => return Some(Constant::truth(!less && a != b)),
        ">=" => return Some(Constant::truth(!less)),
        "|" => a | b,
        "^" => a ^ b,
        "&" => a & b,
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        "/" if b == 0 => return None,
        "%" if b == 0 => return None,
        "/" if signed => sa.wrapping_div(sb) as u64,
        "%" if signed => sa.wrapping_rem(sb) as u64,
        "/" => a / b,
        "%" => a % b,
        // The type of a shift is that of its left operand.
        "<<" => {
            let bits = if b < 64 { a << b } else { 0 };
            return Some(Constant {
                bits,
                signed: left.signed,
            });
        }
        _ => {
            let bits = if left.signed {
                (sa >> b.min(63)) as u64
            } else if b < 64 {
                a >> b
            } else {
                0
            };
            return Some(Constant {
                bits,
                signed: left.signed,
            });
        }
    };
    Some(Constant { bits, signed })
}

fn descend(cursor: &Cursor<'_>, depth: u32) -> Result<u32, ParseError> {
    if depth == MAX_DEPTH {
        return Err(cursor.error("this constant expression is nested too deeply"));
    }
    Ok(depth + 1)
}

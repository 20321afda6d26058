//! Variables, registers and parameters with their types and initialisers.

use super::{ParseError, cursor::Cursor, expression};
use crate::ast::{Init, Space, Type, Variable};
use crate::lex::Kind;

const SPACES: &[&str] = &[".reg", ".param", ".const", ".global", ".shared", ".local"];

const TYPES: &[&str] = &[
    ".pred", ".b8", ".b16", ".b32", ".b64", ".b128", ".u8", ".u16", ".u32", ".u64", ".s8", ".s16",
    ".s32", ".s64", ".f16", ".f16x2", ".bf16", ".bf16x2", ".f32", ".f64",
];

/// Most elements that an initialiser may spell out or imply by short rows.
const MAX_ELEMENTS: u64 = 1 << 26;

pub(super) fn space(text: &str) -> Option<Space> {
    Some(match text {
        ".reg" => Space::Reg,
        ".param" => Space::Param,
        ".const" => Space::Const,
        ".global" => Space::Global,
        ".shared" | ".shared::cta" => Space::Shared,
        ".local" => Space::Local,
        _ => return None,
    })
}

fn fundamental(text: &str) -> Option<Type> {
    Some(match text {
        ".pred" => Type::Pred,
        ".b8" => Type::B8,
        ".b16" => Type::B16,
        ".b32" => Type::B32,
        ".b64" => Type::B64,
        ".b128" => Type::B128,
        ".u8" => Type::U8,
        ".u16" => Type::U16,
        ".u32" => Type::U32,
        ".u64" => Type::U64,
        ".s8" => Type::S8,
        ".s16" => Type::S16,
        ".s32" => Type::S32,
        ".s64" => Type::S64,
        ".f16" => Type::F16,
        ".f16x2" => Type::F16x2,
        ".bf16" => Type::BF16,
        ".bf16x2" => Type::BF16x2,
        ".f32" => Type::F32,
        ".f64" => Type::F64,
        _ => return None,
    })
}

/// `.space ... type name[N] = ..., name, ...;`
pub(super) fn variables(
    cursor: &mut Cursor<'_>,
    into: &mut Vec<Variable>,
) -> Result<(), ParseError> {
    let prefix = prefix(cursor)?;
    loop {
        let mut variable = declarator(cursor, &prefix)?;
        if cursor.eat("=") {
            variable.init = initialiser(cursor, &variable)?;
        }
        into.push(variable);
        if !cursor.eat(",") {
            break;
        }
    }
    cursor.expect(";")?;
    Ok(())
}

/// `(a, b)` of a function's head: declarations separated by commas; empty is allowed.
pub(super) fn parameters(cursor: &mut Cursor<'_>) -> Result<Vec<Variable>, ParseError> {
    cursor.expect("(")?;
    let mut parameters = Vec::new();
    if cursor.eat(")") {
        return Ok(parameters);
    }
    loop {
        if !matches!(cursor.peek().text, ".param" | ".reg") {
            return Err(cursor.unexpected(&[".param", ".reg"]));
        }
        let prefix = prefix(cursor)?;
        parameters.push(declarator(cursor, &prefix)?);
        if !cursor.eat(",") {
            break;
        }
    }
    cursor.expect(")")?;
    Ok(parameters)
}

/// What stands in front of the first name, as a variable without a name.
fn prefix(cursor: &mut Cursor<'_>) -> Result<Variable, ParseError> {
    let token = cursor.next();
    let Some(space) = space(token.text) else {
        return Err(cursor.error_at(token, "not a state space"));
    };
    let mut variable = Variable {
        name: String::new(),
        space,
        ty: Type::Pred,
        vector: 1,
        dims: Vec::new(),
        align: None,
        count: None,
        init: Vec::new(),
        linkage: None,
        ptr: None,
        attributes: Vec::new(),
        line: token.line,
    };
    loop {
        let token = cursor.peek();
        match token.text {
            ".align" => {
                cursor.next();
                variable.align = Some(alignment(cursor)?);
            }
            ".attribute" => {
                cursor.next();
                variable.attributes = attributes(cursor)?;
            }
            ".v2" | ".v4" | ".v8" => {
                cursor.next();
                variable.vector = u32::from(token.text.as_bytes()[2] - b'0');
            }
            _ => break,
        }
    }
    let token = cursor.peek();
    variable.ty = fundamental(token.text).ok_or_else(|| cursor.unexpected(TYPES))?;
    cursor.next();
    if cursor.eat(".ptr") {
        variable.ptr = Some(pointer(cursor)?);
    }
    Ok(variable)
}

/// What follows `.ptr`: pointed-to space and alignment.
fn pointer(cursor: &mut Cursor<'_>) -> Result<(Option<Space>, u64), ParseError> {
    let pointed = match cursor.peek().text {
        text @ (".const" | ".global" | ".local" | ".shared") => {
            cursor.next();
            space(text)
        }
        _ => None,
    };
    let align = if cursor.eat(".align") {
        alignment(cursor)?
    } else {
        4
    };
    Ok((pointed, align))
}

fn alignment(cursor: &mut Cursor<'_>) -> Result<u64, ParseError> {
    let token = cursor.peek();
    let align = cursor.u64()?;
    if align.is_power_of_two() {
        Ok(align)
    } else {
        Err(cursor.error_at(token, "an alignment is a power of two"))
    }
}

/// `(.managed, .unified(1, 2))`
fn attributes(cursor: &mut Cursor<'_>) -> Result<Vec<String>, ParseError> {
    cursor.expect("(")?;
    let mut attributes = Vec::new();
    loop {
        let token = cursor.peek();
        if !matches!(token.text, ".managed" | ".unified") {
            return Err(cursor.unexpected(&[".managed", ".unified"]));
        }
        cursor.next();
        let mut text = token.text.to_string();
        if token.text == ".unified" {
            cursor.expect("(")?;
            let high = cursor.u64()?;
            cursor.expect(",")?;
            let low = cursor.u64()?;
            cursor.expect(")")?;
            text = format!(".unified({high}, {low})");
        }
        attributes.push(text);
        if !cursor.eat(",") {
            break;
        }
    }
    cursor.expect(")")?;
    Ok(attributes)
}

/// `name`, `name<N>`, `name[N][M]`.
fn declarator(cursor: &mut Cursor<'_>, prefix: &Variable) -> Result<Variable, ParseError> {
    let mut variable = prefix.clone();
    variable.line = cursor.line();
    variable.name = cursor.name()?;
    if cursor.eat("<") {
        variable.count = Some(cursor.u32()?);
        cursor.expect(">")?;
    }
    while cursor.eat("[") {
        variable.dims.push(if cursor.at("]") {
            None
        } else {
            Some(dimension(cursor)?)
        });
        cursor.expect("]")?;
    }
    if variable.dims.iter().skip(1).any(Option::is_none) {
        return Err(cursor.error("only the first dimension may be left open"));
    }
    Ok(variable)
}

fn dimension(cursor: &mut Cursor<'_>) -> Result<u64, ParseError> {
    let token = cursor.peek();
    u64::try_from(expression::integer(cursor)?)
        .map_err(|_| cursor.error_at(token, "a dimension is not negative"))
}

/// What follows `=`, flattened row by row.
fn initialiser(cursor: &mut Cursor<'_>, variable: &Variable) -> Result<Vec<Init>, ParseError> {
    let mut dims = variable.dims.clone();
    if variable.vector > 1 {
        dims.push(Some(u64::from(variable.vector)));
    }
    let mut into = Vec::new();
    if dims.is_empty() {
        into.push(element(cursor)?);
    } else {
        rows(cursor, &dims, &mut into)?;
    }
    Ok(into)
}

/// `{a, b}` for an array of dimensions `dims`, of which there is at least one. Depth is bounded
/// by the number of dimensions, which [`declarator`] read one by one without recursion, so it is
/// limited here.
fn rows(
    cursor: &mut Cursor<'_>,
    dims: &[Option<u64>],
    into: &mut Vec<Init>,
) -> Result<(), ParseError> {
    if dims.len() > 8 {
        return Err(cursor.error("initialisers of more than 8 dimensions are not supported"));
    }
    let row = dims[1..]
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(d.unwrap_or(0)));
    let row = row.filter(|&n| n <= MAX_ELEMENTS);
    let row = row.ok_or_else(|| cursor.error("this initialised array is too large"))?;
    cursor.expect("{")?;
    let mut count = 0u64;
    while !cursor.at("}") {
        if dims[0].is_some_and(|limit| count >= limit) {
            return Err(cursor.error("more elements than the array has"));
        }
        let start = into.len() as u64;
        if dims.len() == 1 {
            into.push(element(cursor)?);
        } else {
            rows(cursor, &dims[1..], into)?;
            // A short row is filled up only if another one follows.
            if cursor.at(",") {
                if start + row > MAX_ELEMENTS {
                    return Err(cursor.error("this initialised array is too large"));
                }
                into.resize((start + row) as usize, Init::Int(0));
            }
        }
        count += 1;
        if !cursor.eat(",") {
            break;
        }
    }
    cursor.expect("}")?;
    Ok(())
}

/// Number, `name+4`, `generic(name)+4`, `0xff00(name)`.
fn element(cursor: &mut Cursor<'_>) -> Result<Init, ParseError> {
    let token = cursor.peek();
    let negative = token.text == "-" && cursor.peek_at(1).kind == Kind::Float;
    if negative || token.kind == Kind::Float {
        let (value, _) = super::operand::float(cursor)?;
        return Ok(Init::Float(value));
    }
    if token.text == "generic" && cursor.peek_at(1).text == "(" {
        cursor.next();
        cursor.next();
        let name = cursor.name()?;
        cursor.expect(")")?;
        let offset = address_offset(cursor)?;
        return Ok(Init::Address {
            name,
            offset,
            generic: true,
            mask: None,
        });
    }
    if token.kind == Kind::Int && cursor.peek_at(1).text == "(" {
        let mask = cursor.u64()?;
        cursor.expect("(")?;
        let generic = cursor.at("generic") && cursor.peek_at(1).text == "(";
        if generic {
            cursor.next();
            cursor.next();
        }
        let name = cursor.name()?;
        if generic {
            cursor.expect(")")?;
        }
        let offset = address_offset(cursor)?;
        cursor.expect(")")?;
        return Ok(Init::Address {
            name,
            offset,
            generic,
            mask: Some(mask),
        });
    }
    if expression::starts(cursor) {
        return Ok(Init::Int(expression::integer(cursor)?));
    }
    let name = cursor.name()?;
    let offset = address_offset(cursor)?;
    Ok(Init::Address {
        name,
        offset,
        generic: false,
        mask: None,
    })
}

/// `+4`, `-8` or nothing.
pub(super) fn address_offset(cursor: &mut Cursor<'_>) -> Result<i64, ParseError> {
    if cursor.at("+") || cursor.at("-") {
        expression::offset(cursor)
    } else {
        Ok(0)
    }
}

/// For messages: what a declaration starts with.
pub(super) fn expected_spaces() -> &'static [&'static str] {
    SPACES
}

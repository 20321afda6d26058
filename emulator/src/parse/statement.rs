//! Bodies: labels, declarations, line information and instructions.

use super::{ParseError, cursor::Cursor, declaration, operand, pragma};
use crate::ast::{Instruction, Statement};
use crate::lex::Kind;

/// Deepest nesting of `{ }` in a body.
const MAX_DEPTH: usize = 128;

/// `{ ... }`, without recursion: `open` holds the unfinished outer blocks.
pub(super) fn body(cursor: &mut Cursor<'_>) -> Result<Vec<Statement>, ParseError> {
    cursor.expect("{")?;
    let mut open: Vec<Vec<Statement>> = Vec::new();
    let mut current = Vec::new();
    loop {
        if cursor.at("{") {
            if open.len() == MAX_DEPTH {
                return Err(cursor.error("blocks are nested too deeply"));
            }
            cursor.next();
            open.push(std::mem::take(&mut current));
        } else if cursor.eat("}") {
            let Some(outer) = open.pop() else {
                return Ok(current);
            };
            let inner = std::mem::replace(&mut current, outer);
            current.push(Statement::Block(inner));
        } else {
            statement(cursor, &mut current)?;
        }
    }
}

fn statement(cursor: &mut Cursor<'_>, into: &mut Vec<Statement>) -> Result<(), ParseError> {
    let token = cursor.peek();
    match token.kind {
        Kind::Word if cursor.peek_at(1).text == ":" => {
            cursor.next();
            cursor.next();
            into.push(label(cursor, token.text, token.line)?);
            Ok(())
        }
        Kind::Word => {
            into.push(Statement::Instruction(instruction(cursor)?));
            Ok(())
        }
        Kind::Mark if token.text == "@" => {
            into.push(Statement::Instruction(instruction(cursor)?));
            Ok(())
        }
        Kind::Dot => directive(cursor, into),
        _ => Err(cursor.unexpected(&["an instruction", "a label", "a directive", "{", "}"])),
    }
}

fn directive(cursor: &mut Cursor<'_>, into: &mut Vec<Statement>) -> Result<(), ParseError> {
    let token = cursor.peek();
    match token.text {
        ".loc" => into.push(location(cursor)?),
        ".pragma" => {
            let texts = pragma(cursor)?;
            into.extend(
                texts
                    .into_iter()
                    .map(|text| Statement::Pragma(text, token.line)),
            );
        }
        text if declaration::space(text).is_some() => {
            let mut variables = Vec::new();
            declaration::variables(cursor, &mut variables)?;
            into.extend(variables.into_iter().map(Statement::Variable));
        }
        _ => {
            let mut expected = declaration::expected_spaces().to_vec();
            expected.extend([".loc", ".pragma"]);
            return Err(cursor.unexpected(&expected));
        }
    }
    Ok(())
}

/// `.loc 1 20 5[, function_name name[+N], inlined_at 1 33 7]`
fn location(cursor: &mut Cursor<'_>) -> Result<Statement, ParseError> {
    cursor.next();
    let (file, line, column) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let mut inlined_at = None;
    while cursor.eat(",") {
        if cursor.eat("function_name") {
            cursor.name()?;
            declaration::address_offset(cursor)?;
        } else if cursor.eat("inlined_at") {
            inlined_at = Some([cursor.u32()?, cursor.u32()?, cursor.u32()?]);
        } else {
            return Err(cursor.unexpected(&["function_name", "inlined_at"]));
        }
    }
    Ok(Statement::Loc {
        file,
        line,
        column,
        inlined_at,
    })
}

/// What follows `name:`: nothing, a table of targets, or a prototype.
fn label(cursor: &mut Cursor<'_>, name: &str, line: u32) -> Result<Statement, ParseError> {
    let token = cursor.peek();
    let items = match token.text {
        ".branchtargets" | ".calltargets" => {
            cursor.next();
            let mut items = vec![cursor.name()?];
            while cursor.eat(",") {
                items.push(cursor.name()?);
            }
            items
        }
        ".callprototype" => return prototype(cursor, name, line),
        _ => return Ok(Statement::Label(name.to_string(), line)),
    };
    cursor.expect(";")?;
    let kind = token.text[1..].to_string();
    Ok(Statement::Table {
        label: name.to_string(),
        kind,
        items,
        line,
    })
}

/// `.callprototype (returns) _ (params) .noreturn;`
fn prototype(cursor: &mut Cursor<'_>, name: &str, line: u32) -> Result<Statement, ParseError> {
    cursor.next();
    let mut lists = [Vec::new(), Vec::new()];
    if cursor.at("(") {
        lists[0] = declaration::parameters(cursor)?;
    }
    cursor.expect("_")?;
    if cursor.at("(") {
        lists[1] = declaration::parameters(cursor)?;
    }
    while cursor.peek().kind == Kind::Dot {
        super::function::directive(cursor)?;
    }
    cursor.expect(";")?;
    let [returns, params] = lists;
    Ok(Statement::Prototype {
        label: name.to_string(),
        returns,
        params,
        line,
    })
}

/// `@!p opcode.mods a, b;`
fn instruction(cursor: &mut Cursor<'_>) -> Result<Instruction, ParseError> {
    let start = cursor.peek().offset;
    let mut guard = None;
    if cursor.eat("@") {
        let negated = cursor.eat("!");
        guard = Some((cursor.name()?, negated));
    }
    let token = cursor.expect_kind(Kind::Word, "an opcode")?;
    let mut opcode = Vec::with_capacity(4);
    opcode.push(token.text.to_string());
    while cursor.peek().kind == Kind::Dot {
        opcode.push(cursor.next().text[1..].to_string());
    }
    let mut operands = Vec::with_capacity(4);
    if !cursor.at(";") {
        loop {
            operands.push(operand::operand(cursor, token.text == "call")?);
            if !cursor.eat(",") {
                break;
            }
        }
    }
    let end = cursor.expect(";")?.end();
    Ok(Instruction {
        guard,
        opcode,
        operands,
        line: token.line,
        span: start..end,
    })
}

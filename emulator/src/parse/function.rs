//! `.entry` and `.func`: heads, performance directives and bodies.

use super::{ParseError, cursor::Cursor, declaration, pragma, statement};
use crate::ast::{Function, Linkage};
use crate::lex::Kind;

/// Directives between a head and its body, and how many numbers each may take.
const DIRECTIVES: &[(&str, usize, usize)] = &[
    (".maxntid", 1, 3),
    (".reqntid", 1, 3),
    (".minnctapersm", 1, 1),
    (".maxnctapersm", 1, 1),
    (".maxnreg", 1, 1),
    (".noreturn", 0, 0),
    (".reqnctapercluster", 1, 3),
    (".maxclusterrank", 1, 1),
    (".explicitcluster", 0, 0),
    (".blocksareclusters", 0, 0),
    (".abi_preserve", 1, 1),
    (".abi_preserve_control", 1, 1),
];

const AFTER_HEAD: &[&str] = &[
    "{",
    ";",
    ".maxntid",
    ".reqntid",
    ".minnctapersm",
    ".maxnctapersm",
    ".maxnreg",
    ".noreturn",
    ".pragma",
];

/// A kernel or device function, from `.entry` or `.func` on.
pub(super) fn function(
    cursor: &mut Cursor<'_>,
    linkage: Option<Linkage>,
) -> Result<Function, ParseError> {
    let entry = cursor.next().text == ".entry";
    let returns = if !entry && cursor.at("(") {
        declaration::parameters(cursor)?
    } else {
        Vec::new()
    };
    let line = cursor.line();
    let name = cursor.name()?;
    let params = if cursor.at("(") {
        declaration::parameters(cursor)?
    } else {
        Vec::new()
    };
    let mut function = Function {
        name,
        entry,
        returns,
        params,
        directives: Vec::new(),
        pragmas: Vec::new(),
        linkage,
        body: None,
        line,
    };
    while cursor.peek().kind == Kind::Dot {
        if cursor.at(".pragma") {
            function.pragmas.extend(pragma(cursor)?);
        } else {
            function.directives.push(directive(cursor)?);
        }
    }
    if cursor.at("{") {
        function.body = Some(statement::body(cursor)?);
    } else if !cursor.eat(";") {
        return Err(cursor.unexpected(AFTER_HEAD));
    }
    Ok(function)
}

/// `.maxntid 128, 1, 1`
pub(super) fn directive(cursor: &mut Cursor<'_>) -> Result<(String, Vec<u64>), ParseError> {
    let token = cursor.peek();
    let known = DIRECTIVES.iter().find(|(name, ..)| *name == token.text);
    let &(name, least, most) = known.ok_or_else(|| cursor.unexpected(AFTER_HEAD))?;
    cursor.next();
    let mut numbers = Vec::new();
    while cursor.peek().kind == Kind::Int {
        numbers.push(cursor.u64()?);
        if !cursor.eat(",") {
            break;
        }
    }
    if numbers.len() < least || numbers.len() > most {
        let message = format!(
            "{name} takes {least} to {most} numbers, not {}",
            numbers.len()
        );
        return Err(cursor.error_at(token, message));
    }
    Ok((name[1..].to_string(), numbers))
}

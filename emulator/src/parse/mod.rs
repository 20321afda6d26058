//! Tokens to [`Module`].
//!
//! The parser knows PTX's grammar but none of its opcodes: an instruction is a word, its
//! modifiers and operands of a few shapes. Directives are all known by name, and one that is not
//! is an error; only `.section` blocks, which hold debugging data, are skipped.

mod cursor;
mod declaration;
mod error;
mod expression;
mod function;
mod operand;
mod statement;
#[cfg(test)]
mod tests;

pub use error::ParseError;

use crate::ast::{Linkage, Module};
use crate::lex::{Kind, lex};
use cursor::Cursor;

/// Parses one PTX file.
///
/// ```
/// let text = ".version 7.0\n.target sm_80\n.entry k() { ret; }";
/// let module = ptx_emulator::parse::parse(text)?;
/// assert_eq!(module.functions[0].name, "k");
/// # Ok::<(), ptx_emulator::parse::ParseError>(())
/// ```
///
/// # Errors
/// The first token that does not belong, with its line and column, and what could have stood
/// there.
pub fn parse(source: &str) -> Result<Module, ParseError> {
    let tokens = lex(source)?;
    let mut cursor = Cursor::new(source, &tokens);
    let mut module = Module {
        address_size: 64,
        ..Module::default()
    };
    header(&mut cursor, &mut module)?;
    while cursor.peek().kind != Kind::End {
        item(&mut cursor, &mut module)?;
    }
    Ok(module)
}

/// `.version`, `.target`, which must come first, and `.address_size`.
fn header(cursor: &mut Cursor<'_>, module: &mut Module) -> Result<(), ParseError> {
    cursor.expect(".version")?;
    let token = cursor.expect_kind(Kind::Float, "a version such as 7.0")?;
    module.version = token
        .text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| cursor.error_at(token, "not a version of the form major.minor"))?;
    cursor.expect(".target")?;
    module.target.push(cursor.name()?);
    while cursor.eat(",") {
        module.target.push(cursor.name()?);
    }
    if cursor.eat(".address_size") {
        let token = cursor.peek();
        if cursor.u32()? != 64 {
            return Err(cursor.error_at(token, "only 64-bit addresses are supported"));
        }
    }
    Ok(())
}

const ITEMS: &[&str] = &[
    ".entry", ".func", ".const", ".global", ".shared", ".extern", ".visible", ".weak", ".common",
    ".file", ".section", ".pragma", ".alias",
];

/// One directive at module scope.
fn item(cursor: &mut Cursor<'_>, module: &mut Module) -> Result<(), ParseError> {
    match cursor.peek().text {
        ".file" => file(cursor, module),
        ".section" => section(cursor),
        ".pragma" => {
            let line = cursor.line();
            let texts = pragma(cursor)?;
            module
                .pragmas
                .extend(texts.into_iter().map(|text| (text, line)));
            Ok(())
        }
        ".alias" => {
            cursor.next();
            let name = cursor.name()?;
            cursor.expect(",")?;
            module.aliases.push((name, cursor.name()?));
            cursor.expect(";")?;
            Ok(())
        }
        _ => {
            let linkage = linkage(cursor)?;
            match cursor.peek().text {
                ".entry" | ".func" => module.functions.push(function::function(cursor, linkage)?),
                ".const" | ".global" | ".shared" => {
                    let first = module.variables.len();
                    declaration::variables(cursor, &mut module.variables)?;
                    for variable in &mut module.variables[first..] {
                        variable.linkage = linkage;
                    }
                }
                _ => return Err(cursor.unexpected(ITEMS)),
            }
            Ok(())
        }
    }
}

/// `.extern`, `.visible`, `.weak`, `.common`: at most one.
fn linkage(cursor: &mut Cursor<'_>) -> Result<Option<Linkage>, ParseError> {
    let linkage = match cursor.peek().text {
        ".extern" => Linkage::Extern,
        ".visible" => Linkage::Visible,
        ".weak" => Linkage::Weak,
        ".common" => Linkage::Common,
        _ => return Ok(None),
    };
    cursor.next();
    Ok(Some(linkage))
}

/// `.file 1 "path"[, timestamp, size]`
fn file(cursor: &mut Cursor<'_>, module: &mut Module) -> Result<(), ParseError> {
    cursor.next();
    let number = cursor.u32()?;
    let path = cursor.string()?;
    module.files.push((number, path));
    if cursor.eat(",") {
        cursor.u64()?;
        cursor.expect(",")?;
        cursor.u64()?;
    }
    Ok(())
}

/// `.section name { ... }`: debugging data, whose content is skipped.
fn section(cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
    cursor.next();
    cursor.expect_kind(Kind::Dot, "a section's name")?;
    cursor.expect("{")?;
    while !cursor.at("}") {
        if cursor.at("{") || cursor.peek().kind == Kind::End {
            return Err(cursor.unexpected(&["}"]));
        }
        cursor.next();
    }
    cursor.next();
    Ok(())
}

/// `.pragma "text", "text";`
fn pragma(cursor: &mut Cursor<'_>) -> Result<Vec<String>, ParseError> {
    cursor.expect(".pragma")?;
    let mut texts = vec![cursor.string()?];
    while cursor.eat(",") {
        texts.push(cursor.string()?);
    }
    cursor.expect(";")?;
    Ok(texts)
}

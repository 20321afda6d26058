//! Mutants that somebody has argued to compute the same.

use std::path::Path;

use ptx_emulator::mutate::Mutant;

/// One line of the list: `LINE: BEFORE => AFTER # REASON`.
#[derive(Debug, PartialEq)]
struct Rule {
    /// Line of the PTX; nothing for any.
    line: Option<u32>,
    before: String,
    after: String,
    reason: String,
}

#[derive(Debug, Default)]
pub struct Equivalents(Vec<Rule>);

/// A mutant that is on the list.
pub struct Argued {
    pub mutant: Mutant,
    pub reason: String,
    rule: usize,
}

impl Equivalents {
    pub fn read(file: &Path) -> Result<Equivalents, String> {
        let text = crate::run::read(file)?;
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let rule = rule(line)
                    .map_err(|problem| format!("{}:{}: {problem}", file.display(), number + 1))?;
                rules.push(rule);
            }
        }
        Ok(Equivalents(rules))
    }

    /// Takes those that are on the list out of `mutants`.
    pub fn split(&self, mutants: &mut Vec<Mutant>) -> Vec<Argued> {
        let mut argued = Vec::new();
        mutants.retain(
            |mutant| match self.0.iter().position(|rule| rule.matches(mutant)) {
                None => true,
                Some(rule) => {
                    let reason = self.0[rule].reason.clone();
                    argued.push(Argued {
                        mutant: mutant.clone(),
                        reason,
                        rule,
                    });
                    false
                }
            },
        );
        argued
    }

    /// Lines of the list that no mutant fits: the text may have changed since.
    pub fn unused(&self, argued: &[Argued]) -> Vec<String> {
        let used = |at: usize| argued.iter().any(|argued| argued.rule == at);
        let rules = self.0.iter().enumerate().filter(|(at, _)| !used(*at));
        rules
            .map(|(_, rule)| {
                let line = rule.line.map_or("*".to_string(), |line| line.to_string());
                format!("{line}: {} => {}", rule.before, rule.after)
            })
            .collect()
    }
}

impl Rule {
    fn matches(&self, mutant: &Mutant) -> bool {
        self.line.is_none_or(|line| line == mutant.line)
            && fits(&self.before, &plain(&mutant.before))
            && fits(&self.after, &plain(&mutant.after))
    }
}

/// One blank between words, and no semicolon.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_end_matches(';').to_string()
}

fn rule(text: &str) -> Result<Rule, String> {
    let form = "expected PTX_LINE: BEFORE => AFTER # REASON";
    let (change, reason) = text.split_once('#').ok_or(form)?;
    let (line, change) = change.split_once(": ").ok_or(form)?;
    let (before, after) = change.split_once("=>").ok_or(form)?;
    let line = match line.trim() {
        "*" => None,
        line => Some(line.parse().map_err(|_| form)?),
    };
    if reason.trim().is_empty() {
        return Err("the reason is missing".into());
    }
    Ok(Rule {
        line,
        before: plain(before),
        after: plain(after),
        reason: reason.trim().into(),
    })
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some((_, behind)) = text.split_once(part) else {
            return false;
        };
        text = behind;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_anything() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "acb", false),
            ("*b*", "abc", true),
            ("a*b*a", "aba", true),
            ("a*ab", "ab", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_have_a_line_two_texts_and_a_reason() {
        let expected = Rule {
            line: Some(12),
            before: "mul.f32 %f1, %f2, %f3".into(),
            after: String::new(),
            reason: "never read".into(),
        };
        assert_eq!(
            rule("12: mul.f32 \t%f1, %f2, %f3; => # never read"),
            Ok(expected)
        );
        assert_eq!(rule("*: a => b # c").map(|rule| rule.line), Ok(None));
        for wrong in [
            "12: a => b",
            "12: a => b #",
            "a => b # c",
            "x: a => b # c",
            "12: a # c",
        ] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
    }
}

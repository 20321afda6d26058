//! Mutants that somebody has argued to compute the same.

use std::fmt;
use std::path::Path;

use ptx_emulator::mutate::Mutant;

/// One line of the list: `PLACE: BEFORE => AFTER # REASON`.
#[derive(Debug, PartialEq)]
struct Rule {
    place: Place,
    before: String,
    after: String,
    reason: String,
}

#[derive(Debug, PartialEq)]
enum Place {
    /// `*`
    Any,
    /// `12`: a line of the PTX.
    Ptx(u32),
    /// `kernel.cuh:12`: a line of the CUDA source, or of the call that was inlined there.
    Source(String, u32),
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
            .map(|(_, rule)| format!("{}: {} => {}", rule.place, rule.before, rule.after))
            .collect()
    }
}

impl Rule {
    fn matches(&self, mutant: &Mutant) -> bool {
        self.place.holds(mutant)
            && fits(&self.before, &plain(&mutant.before))
            && fits(&self.after, &plain(&mutant.after))
    }
}

impl Place {
    fn holds(&self, mutant: &Mutant) -> bool {
        match self {
            Place::Any => true,
            Place::Ptx(line) => *line == mutant.line,
            Place::Source(name, line) => {
                let places = [&mutant.source, &mutant.caller].into_iter().flatten();
                let mut those = places.filter(|(_, l)| l == line);
                those.any(|(path, _)| Path::new(path).ends_with(name))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Any => f.write_str("*"),
            Place::Ptx(line) => write!(f, "{line}"),
            Place::Source(name, line) => write!(f, "{name}:{line}"),
        }
    }
}

/// One blank between words, and no semicolon.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_end_matches(';').to_string()
}

fn rule(text: &str) -> Result<Rule, String> {
    let form = "expected PTX_LINE, FILE:LINE or *: BEFORE => AFTER # REASON";
    let (change, reason) = text.split_once('#').ok_or(form)?;
    let (place, change) = change.split_once(": ").ok_or(form)?;
    let (before, after) = change.split_once("=>").ok_or(form)?;
    let number = |text: &str| text.parse().map_err(|_| form);
    let place = match place.trim() {
        "*" => Place::Any,
        place => match place.rsplit_once(':') {
            None => Place::Ptx(number(place)?),
            Some((name, line)) => Place::Source(name.into(), number(line)?),
        },
    };
    if reason.trim().is_empty() {
        return Err("the reason is missing".into());
    }
    Ok(Rule {
        place,
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
            place: Place::Ptx(12),
            before: "mul.f32 %f1, %f2, %f3".into(),
            after: String::new(),
            reason: "never read".into(),
        };
        assert_eq!(
            rule("12: mul.f32 \t%f1, %f2, %f3; => # never read"),
            Ok(expected)
        );
        let place = |text| rule(text).map(|rule| rule.place);
        assert_eq!(place("*: a => b # c"), Ok(Place::Any));
        let source = Place::Source("a/b.cuh".into(), 7);
        assert_eq!(place("a/b.cuh:7: a => b # c"), Ok(source));
        for wrong in [
            "12: a => b",
            "12: a => b #",
            "a => b # c",
            "x: a => b # c",
            "x.cu:y: a => b # c",
            "12: a # c",
        ] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
    }
}

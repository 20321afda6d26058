//! What came of the mutants, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use ptx_emulator::mutate::{Kind, Mutant, Score};
use serde_json::{Value as Json, json};

use super::Verdict;
use super::equivalent::Argued;

pub struct Report<'a> {
    /// All that could have been drawn.
    pub population: &'a [Mutant],
    pub sample: &'a [Mutant],
    /// One for each of the sample.
    pub verdicts: &'a [Verdict],
    pub argued: &'a [Argued],
    /// Rules of equivalence that fit nothing.
    pub unused: Vec<String>,
    /// It was not known which lines are executed.
    pub every_line: bool,
    pub draw: u64,
}

/// Of one kind, or of all.
#[derive(Default, Clone, Copy)]
struct Row {
    known: usize,
    drawn: usize,
    violations: usize,
    refused: usize,
    outputs: usize,
    endless: usize,
    tests: usize,
    survived: usize,
}

impl Row {
    fn count(&mut self, verdict: Verdict) {
        self.drawn += 1;
        *match verdict {
            Verdict::Violation => &mut self.violations,
            Verdict::Refused => &mut self.refused,
            Verdict::Output => &mut self.outputs,
            Verdict::Endless => &mut self.endless,
            Verdict::Test => &mut self.tests,
            Verdict::Survived => &mut self.survived,
        } += 1;
    }

    fn json(&self) -> Json {
        json!({
            "known": self.known, "drawn": self.drawn, "violation": self.violations,
            "refused": self.refused, "output": self.outputs, "endless": self.endless,
            "test": self.tests, "survived": self.survived,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7} {:>6} {:>10} {:>8} {:>7} {:>8} {:>5} {:>9}",
            self.known,
            self.drawn,
            self.violations,
            self.refused,
            self.outputs,
            self.endless,
            self.tests,
            self.survived
        )
    }
}

impl Report<'_> {
    pub fn score(&self) -> Score {
        let survived = self.survivors().count() as u64;
        let tried = self.sample.len() as u64;
        Score {
            noticed: tried - survived,
            tried,
        }
    }

    fn survivors(&self) -> impl Iterator<Item = &Mutant> {
        let both = self.sample.iter().zip(self.verdicts);
        both.filter(|(_, verdict)| **verdict == Verdict::Survived)
            .map(|(mutant, _)| mutant)
    }

    fn rows(&self) -> (BTreeMap<Kind, Row>, Row) {
        let mut rows: BTreeMap<Kind, Row> = BTreeMap::new();
        let mut all = Row {
            known: self.population.len(),
            ..Row::default()
        };
        for mutant in self.population {
            rows.entry(mutant.kind).or_default().known += 1;
        }
        for (mutant, verdict) in self.sample.iter().zip(self.verdicts) {
            rows.entry(mutant.kind).or_default().count(*verdict);
            all.count(*verdict);
        }
        (rows, all)
    }

    pub fn json(&self) -> Json {
        let (rows, all) = self.rows();
        let score = self.score();
        let kinds: serde_json::Map<_, _> = rows
            .iter()
            .map(|(kind, row)| (kind.to_string(), row.json()))
            .collect();
        let argued: Vec<_> = self
            .argued
            .iter()
            .map(|Argued { mutant, reason, .. }| {
                let mut json = mutant_json(mutant);
                json["reason"] = reason.clone().into();
                json
            })
            .collect();
        json!({
            "draw": self.draw,
            "score": score.share(),
            "score_at_least": score.at_least(),
            "confidence": 0.95,
            "only_executed": !self.every_line,
            "all": all.json(),
            "kinds": kinds,
            "survivors": self.survivors().map(mutant_json).collect::<Vec<_>>(),
            "equivalent": argued,
            "equivalent_unused": self.unused,
        })
    }
}

fn place_json((file, line): &(String, u32)) -> Json {
    json!({"file": file, "line": line})
}

fn mutant_json(mutant: &Mutant) -> Json {
    json!({
        "kind": mutant.kind.name(),
        "ptx_line": mutant.line,
        "source": mutant.source.as_ref().map(place_json),
        "caller": mutant.caller.as_ref().map(place_json),
        "before": mutant.before,
        "after": mutant.after,
    })
}

/// Where it is, and the line before and after.
fn describe(f: &mut fmt::Formatter<'_>, mutant: &Mutant) -> fmt::Result {
    write!(f, "{} at PTX line {}", mutant.kind, mutant.line)?;
    if let Some((file, line)) = &mutant.source {
        write!(f, ", {file}:{line}")?;
    }
    if let Some((file, line)) = &mutant.caller {
        write!(f, ", called at {file}:{line}")?;
    }
    writeln!(f, "\n  - {}", mutant.before)?;
    match mutant.after.as_str() {
        "" => writeln!(f, "  + (left out)"),
        after => writeln!(f, "  + {after}"),
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mutant in self.survivors() {
            write!(f, "survived: ")?;
            describe(f, mutant)?;
        }
        for Argued { mutant, reason, .. } in self.argued {
            write!(f, "equivalent: ")?;
            describe(f, mutant)?;
            writeln!(f, "  because {reason}")?;
        }
        for rule in &self.unused {
            writeln!(f, "listed as equivalent, but no such mutant: {rule}")?;
        }
        let (rows, all) = self.rows();
        writeln!(
            f,
            "kind         known  drawn  violation  refused  output  endless  test  survived"
        )?;
        for (kind, row) in &rows {
            writeln!(f, "{kind:<10} {row}")?;
        }
        writeln!(f, "{:<10} {all}", "all")?;
        let score = self.score();
        writeln!(
            f,
            "{} of {} noticed, {:.1} %; with 95 % confidence at least {:.1} % of mutants drawn like these",
            score.noticed,
            score.tried,
            100.0 * score.share(),
            100.0 * score.at_least()
        )?;
        writeln!(
            f,
            "(one-sided bound of Clopper and Pearson; each kind as often as it can be, seed {} of the draw)",
            self.draw
        )?;
        if self.every_line {
            writeln!(
                f,
                "which lines the command executes is not known: mutants of all lines were drawn"
            )?;
        }
        Ok(())
    }
}

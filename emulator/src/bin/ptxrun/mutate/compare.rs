//! Mutants judged by a launch: by the rules that it breaks, and by what it leaves in its outputs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use half::{bf16, f16};
use ptx_emulator::Kind as ViolationKind;

use super::{MutateArguments, Verdict, quiet};
use crate::Failure;
use crate::npy::Array;
use crate::run::{Outcome, Run, Saved};

/// What an output has to be.
#[derive(Clone, Debug)]
pub struct Expected {
    output: PathBuf,
    file: PathBuf,
}

pub fn expected(text: &str) -> Result<Expected, String> {
    let (output, file) = text.split_once('=').ok_or("expected OUT.npy=FILE.npy")?;
    Ok(Expected {
        output: output.into(),
        file: file.into(),
    })
}

pub struct Comparison<'a> {
    arguments: &'a MutateArguments,
    /// Of each seed, what comes out.
    references: Vec<(u64, Vec<Saved>)>,
    pub executed: BTreeSet<u32>,
    budget: u64,
}

impl<'a> Comparison<'a> {
    /// Runs the unchanged kernel, which has to be clean and right.
    pub fn new(arguments: &'a MutateArguments, text: &str) -> Result<Comparison<'a>, Failure> {
        let launch = &arguments.launch;
        let mut comparison = Comparison {
            arguments,
            references: Vec::new(),
            executed: BTreeSet::new(),
            budget: 0,
        };
        for seed in launch.seeds()? {
            let outcome = launch.launch(text, &quiet(launch, seed))?;
            let stats = match &outcome.result {
                Ok(stats) => stats,
                Err(violation) => {
                    eprintln!("the unchanged kernel breaks a rule:\n{violation}");
                    return Err(Failure::Violation);
                }
            };
            let lines = stats
                .lines()
                .iter()
                .filter(|line| line.counts.executions > 0);
            comparison.executed.extend(lines.map(|line| line.line));
            comparison.budget = comparison
                .budget
                .max(stats.warp_instructions * arguments.limit);
            if outcome.saved.is_empty() {
                let message = "there is nothing to compare: give an --arg an OUT.npy, or a --test";
                return Err(Failure::Usage(message.into()));
            }
            let wanted = comparison.wanted(&outcome)?;
            if let Some(difference) = comparison.difference(&outcome.saved, &wanted) {
                let message = format!("the unchanged kernel is not right: {difference}");
                return Err(Failure::Usage(message));
            }
            comparison.references.push((seed, wanted));
        }
        Ok(comparison)
    }

    /// What is expected, where it is told, and what came out elsewhere.
    fn wanted(&self, outcome: &Outcome) -> Result<Vec<Saved>, String> {
        let mut outputs = outcome.saved.clone();
        for Expected { output, file } in &self.arguments.expect {
            let found = outputs.iter_mut().find(|saved| saved.path == *output);
            let Some(Saved { layout, bytes, .. }) = found else {
                return Err(format!(
                    "--expect: no --arg has the output {}",
                    output.display()
                ));
            };
            let array = Array::read(file)?;
            if (&*array.descr, &array.shape) != (layout.descr, &layout.shape) {
                return Err(format!(
                    "{}: {} {:?}, the output is {} {:?}",
                    file.display(),
                    array.descr,
                    array.shape,
                    layout.descr,
                    layout.shape
                ));
            }
            *bytes = array.bytes;
        }
        Ok(outputs)
    }

    pub fn judge(&self, text: &str) -> Verdict {
        let launch = &self.arguments.launch;
        for (seed, wanted) in &self.references {
            let run = Run {
                budget: Some(self.budget),
                ..quiet(launch, *seed)
            };
            let Ok(outcome) = launch.launch(text, &run) else {
                return Verdict::Refused;
            };
            match &outcome.result {
                Err(violation) if matches!(violation.kind, ViolationKind::Budget(_)) => {
                    return Verdict::Endless;
                }
                Err(_) => return Verdict::Violation,
                Ok(_) if self.difference(&outcome.saved, wanted).is_some() => {
                    return Verdict::Output;
                }
                Ok(_) => {}
            }
        }
        Verdict::Survived
    }

    /// The first difference that is too big.
    fn difference(&self, got: &[Saved], wanted: &[Saved]) -> Option<String> {
        let mut pairs = got.iter().zip(wanted);
        pairs.find_map(|(got, wanted)| self.differs(got, wanted))
    }

    fn differs(&self, got: &Saved, wanted: &Saved) -> Option<String> {
        let Saved { path, layout, .. } = got;
        let named = |text: String| format!("{}: element {text}", path.display());
        let known = |at: &&usize| wanted.unwritten.binary_search(at).is_err();
        if let Some(at) = got.unwritten.iter().find(known) {
            return Some(named(format!("{at} is made of what was never written")));
        }
        let (got, wanted) = (&got.bytes, &wanted.bytes);
        if got == wanted {
            return None;
        }
        let size = layout.element_bytes();
        let (rtol, atol) = (self.arguments.rtol, self.arguments.atol);
        let elements = got.chunks_exact(size).zip(wanted.chunks_exact(size));
        let mut wrong = elements.enumerate().filter(|(_, (got, wanted))| {
            let close = match (number(layout.kind, got), number(layout.kind, wanted)) {
                (Some(got), Some(wanted)) => {
                    got == wanted
                        || got.is_nan() && wanted.is_nan()
                        || (got - wanted).abs() <= atol + rtol * wanted.abs() && wanted.is_finite()
                }
                _ => false,
            };
            got != wanted && !close
        });
        let (at, (got, wanted)) = wrong.next()?;
        let show = |bytes: &[u8]| match number(layout.kind, bytes) {
            Some(value) => value.to_string(),
            None => format!("{bytes:02x?}"),
        };
        Some(named(format!(
            "{at} is {}, expected {}",
            show(got),
            show(wanted)
        )))
    }
}

/// The value of an element, if its type is one of numbers.
fn number(kind: &str, bytes: &[u8]) -> Option<f64> {
    macro_rules! of {
        ($ty:ty) => {
            <$ty>::from_le_bytes(bytes.try_into().ok()?)
        };
    }
    Some(match kind {
        "u8" => of!(u8).into(),
        "i8" => of!(i8).into(),
        "u16" => of!(u16).into(),
        "i16" => of!(i16).into(),
        "u32" => of!(u32).into(),
        "i32" => of!(i32).into(),
        "u64" => of!(u64) as f64,
        "i64" => of!(i64) as f64,
        "f16" => of!(f16).into(),
        "bf16" => of!(bf16).into(),
        "f32" => of!(f32).into(),
        "f64" => of!(f64),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn elements_are_valued_by_their_type() {
        assert_eq!(number("f16", &[0, 0x3c]), Some(1.0));
        assert_eq!(number("bf16", &[0x80, 0x3f]), Some(1.0));
        assert_eq!(number("i8", &[0xff]), Some(-1.0));
        assert_eq!(number("f64", &2.5f64.to_le_bytes()), Some(2.5));
        assert_eq!(number("e4m3", &[1]), None);
        assert_eq!(number("f32", &[0, 0]), None);
    }
}

//! The source, line by line, with what was counted of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maud::{Markup, html};
use ptx_emulator::{Counts, LaunchStats, Traffic};

use super::ProfileArguments;
use super::page::grouped;

/// Lines around those that count which are shown with them.
const AROUND: u32 = 4;

type Lines = BTreeMap<u32, (Counts, Traffic)>;

/// The files of the source that are found, and the PTX.
pub fn sections(arguments: &ProfileArguments, ptx: &str, stats: &LaunchStats) -> Markup {
    let mut files: BTreeMap<&str, Lines> = BTreeMap::new();
    for line in stats.source_lines() {
        let lines = files.entry(&line.file).or_default();
        lines.insert(line.line, (line.counts, line.traffic));
    }
    let found: Vec<_> = files
        .iter()
        .map(|(name, lines)| (*name, lines, find(arguments, name)))
        .collect();
    let none = found.iter().all(|(.., text)| text.is_none());
    let lines: Lines = stats
        .lines()
        .iter()
        .map(|line| (line.line, (line.counts, line.traffic)))
        .collect();
    html! {
        section #source {
            h2 { "Source" }
            p.note.narrow { "A wider window has more columns." }
            @if files.is_empty() {
                p.note { "The PTX does not tell lines of a source: compile with -lineinfo. Its own lines are below." }
            }
            @for (name, lines, text) in &found {
                h3 { code { (name) } }
                @match text {
                    Some(text) => (listing(text, lines, &stats.counts)),
                    None => p.note {
                        "Not found: " (lines.len()) " lines of it were executed. Name its folder with --source. "
                        (alone(lines, &stats.counts))
                    },
                }
            }
        }
        section #ptx {
            h2 { "PTX" }
            @if none { (listing(ptx, &lines, &stats.counts)) }
            @else { details { summary { "every line" } (listing(ptx, &lines, &stats.counts)) } }
        }
    }
}

/// A file by its name, as it is, beside the PTX, or in a folder of the source by what its name ends in.
fn find(arguments: &ProfileArguments, name: &str) -> Option<String> {
    let mut places = vec![PathBuf::from(name)];
    let beside = arguments.launch.file.parent().unwrap_or(Path::new(""));
    let folders = arguments
        .source
        .iter()
        .map(PathBuf::as_path)
        .chain([beside]);
    for folder in folders {
        let parts: Vec<_> = Path::new(name).components().collect();
        for first in 0..parts.len() {
            let ending: PathBuf = parts[first..].iter().collect();
            if ending.is_relative() {
                places.push(folder.join(ending));
            }
        }
    }
    places
        .iter()
        .find_map(|place| std::fs::read_to_string(place).ok())
}

/// What a column shows of a line, and of all.
struct Column {
    name: &'static str,
    title: &'static str,
    of: fn(&Counts, &Traffic) -> u64,
}

const COLUMNS: [Column; 6] = [
    Column {
        name: "executed",
        title: "instructions, each counted once per warp",
        of: |counts, _| counts.executions,
    },
    Column {
        name: "idle",
        title: "lanes that did not take part",
        of: |counts, _| (32 * counts.executions).saturating_sub(counts.thread_executions),
    },
    Column {
        name: "sectors",
        title: "sectors of 32 bytes of global memory asked for",
        of: |counts, _| counts.global_sectors,
    },
    Column {
        name: "excess",
        title: "sectors beyond those that the same bytes side by side would need",
        of: |counts, _| {
            counts
                .global_sectors
                .saturating_sub(counts.global_ideal_sectors)
        },
    },
    Column {
        name: "conflicts",
        title: "passes through shared memory by bank conflicts",
        of: |counts, _| counts.bank_conflicts,
    },
    Column {
        name: "DRAM",
        title: "bytes that the model of L2 fetched",
        of: |_, traffic| traffic.fetched_bytes,
    },
];

/// A table of the lines that count, and those around them.
fn listing(text: &str, lines: &Lines, all: &Counts) -> Markup {
    let columns = used(lines);
    let texts: Vec<&str> = text.lines().collect();
    let near = |line: u32| {
        lines
            .range(line.saturating_sub(AROUND)..=line.saturating_add(AROUND))
            .next()
            .is_some()
    };
    // Runs of lines that are not shown become one row.
    let mut rows = Vec::new();
    let mut hidden = 0;
    for (at, text) in texts.iter().enumerate() {
        let line = at as u32 + 1;
        if !near(line) {
            hidden += 1;
            continue;
        }
        rows.extend(gap(&mut hidden, columns.len()));
        rows.push(row(line, Some(text), lines.get(&line), &columns, all));
    }
    rows.extend(gap(&mut hidden, columns.len()));
    // A file that has changed since may be too short.
    let beyond = lines
        .range(texts.len() as u32 + 1..)
        .map(|(line, counts)| row(*line, None, Some(counts), &columns, all));
    rows.extend(beyond);
    table(&columns, rows)
}

/// The same of a file that is not there.
fn alone(lines: &Lines, all: &Counts) -> Markup {
    let columns = used(lines);
    let rows = lines
        .iter()
        .map(|(line, counts)| row(*line, None, Some(counts), &columns, all));
    table(&columns, rows.collect())
}

/// The columns that are not all zero, each with its greatest value.
fn used(lines: &Lines) -> Vec<(&'static Column, u64)> {
    let most = |column: &Column| {
        lines
            .values()
            .map(|(counts, traffic)| (column.of)(counts, traffic))
            .max()
    };
    let columns = COLUMNS
        .iter()
        .map(|column| (column, most(column).unwrap_or(0)));
    columns.filter(|(_, most)| *most > 0).collect()
}

fn table(columns: &[(&Column, u64)], rows: Vec<Markup>) -> Markup {
    html! {
        div.scroll {
            table.code {
                thead {
                    tr {
                        @for (at, (column, _)) in columns.iter().enumerate() {
                            th.more[at > 0] scope="col" title=(column.title) { (column.name) }
                        }
                        th scope="col" { "line" } th {}
                    }
                }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

fn gap(hidden: &mut usize, columns: usize) -> Option<Markup> {
    let row = |text: String| html! { tr.gap { td colspan=(columns + 2) { (text) } } };
    match std::mem::take(hidden) {
        0 => None,
        1 => Some(row("1 line not executed".into())),
        count => Some(row(format!("{count} lines not executed"))),
    }
}

fn row(
    line: u32,
    text: Option<&str>,
    counts: Option<&(Counts, Traffic)>,
    columns: &[(&Column, u64)],
    all: &Counts,
) -> Markup {
    let share = counts.map_or(0.0, |(counts, _)| {
        counts.executions as f64 / all.executions.max(1) as f64
    });
    // The square root, so that lines with a hundredth of all can be told from none.
    let heat = |part: f64| format!("--heat:{:.1}%", 60.0 * part.clamp(0.0, 1.0).sqrt());
    html! {
        tr {
            @for (at, (column, most)) in columns.iter().enumerate() {
                @let value = counts.map_or(0, |(counts, traffic)| (column.of)(counts, traffic));
                @if value == 0 { td.more[at > 0] {} }
                @else { td.heat.more[at > 0] style=(heat(value as f64 / *most as f64)) { (grouped(value)) } }
            }
            th scope="row" { (line) }
            td.text.heat[share > 0.0] style=[(share > 0.0).then(|| heat(share))] { code { (text.unwrap_or("")) } }
        }
    }
}

//! The page of a profile: one file, without scripts, that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use ptx_emulator::{Bound, Gpu, LaunchStats, Report, si};

use super::{ProfileArguments, roofline, source};

const STYLE: &str = include_str!("page.css");

/// All of it is a model, and each part that could be taken for a measurement says so.
pub fn page(arguments: &ProfileArguments, kernel: &str, ptx: &str, stats: &LaunchStats) -> Markup {
    let launch = &arguments.launch;
    let gpus = match &arguments.on[..] {
        [] => std::slice::from_ref(&launch.gpu),
        gpus => gpus,
    };
    let [grid, block] =
        [launch.grid, launch.block].map(|extents| extents_text(extents.unwrap_or([1; 3])));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (kernel) " - ptxrun profile" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (kernel) }
                    p {
                        (launch.file.display()) ", grid " (grid) ", block " (block)
                        ", " (stats.shared_per_block) " bytes of shared memory a block, seed " (launch.seed)
                    }
                    p.model {
                        strong { "A model, no measurement." }
                        " Counts are of a run on the emulator; each time, rate and energy follows from counts and "
                        "published figures of the GPU. Nothing here was timed on one."
                    }
                    nav {
                        a href="#counters" { "Counters" }
                        a href="#models" { "Speed of light" }
                        a href="#source" { "Source" }
                        a href="#ptx" { "PTX" }
                    }
                }
                main {
                    section #counters { h2 { "Counters" } (counters(stats)) }
                    section #models {
                        h2 { "Speed of light " span.tag { "model" } }
                        @for gpu in gpus { (on(gpu, stats, arguments.registers)) }
                    }
                    (source::sections(arguments, ptx, stats))
                }
            }
        }
    }
}

fn extents_text(extents: [u32; 3]) -> String {
    extents.map(|extent| extent.to_string()).join(" × ")
}

/// `1234567` as `1 234 567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn counters(stats: &LaunchStats) -> Markup {
    let counts = &stats.counts;
    let mut rows = vec![
        ("blocks", grouped(stats.blocks)),
        ("warp instructions", grouped(stats.warp_instructions)),
        (
            "lanes that took part, of 32",
            format!("{:.2}", counts.lanes_per_execution()),
        ),
        ("branches that diverged", grouped(counts.divergent_branches)),
        ("barriers, by warps", grouped(stats.barriers)),
        (
            "tensor operations",
            format!("{} flop", grouped(stats.tensor_flops)),
        ),
        ("f32", format!("{} flop", grouped(counts.f32_flops))),
        ("f16, bf16", format!("{} flop", grouped(counts.half_flops))),
        ("f64", format!("{} flop", grouped(counts.f64_flops))),
        (
            "global memory asked for",
            format!("{} bytes", grouped(stats.global_bytes)),
        ),
        ("sectors of 32 bytes", grouped(stats.global_sectors)),
        (
            "sectors that would do",
            format!(
                "{} ({})",
                grouped(counts.global_ideal_sectors),
                percent(counts.coalescing())
            ),
        ),
        (
            "passes through shared memory",
            grouped(stats.shared_wavefronts),
        ),
        ("of these by bank conflicts", grouped(stats.bank_conflicts)),
    ];
    if let Some(traffic) = &stats.traffic {
        rows.extend([
            ("different bytes read", grouped(traffic.read_bytes)),
            ("different bytes written", grouped(traffic.written_bytes)),
            (
                "fetched from DRAM (model of L2)",
                format!("{} bytes", grouped(traffic.fetched_bytes)),
            ),
            (
                "written back to DRAM (model of L2)",
                format!("{} bytes", grouped(traffic.written_back_bytes)),
            ),
        ]);
    }
    // What a kernel has nothing of is left out.
    rows.retain(|(_, value)| value != "0 flop");
    let mut opcodes: Vec<_> = stats.by_opcode.iter().collect();
    opcodes.sort_by_key(|((opcode, _), count)| (std::cmp::Reverse(**count), *opcode));
    let most = opcodes.first().map_or(1, |(_, count)| **count).max(1);
    html! {
        div.columns {
            table.figures {
                tbody { @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } } }
            }
            div.scroll {
                table.figures {
                    thead { tr { th scope="col" { "opcode" } th scope="col" { "executed by warps" } th {} } }
                    tbody {
                        @for ((opcode, class), count) in &opcodes {
                            tr {
                                th scope="row" title=(format!("{class:?}")) { code { (opcode) } }
                                td { (grouped(**count)) }
                                td.bar { (bar(**count as f64 / most as f64)) }
                            }
                        }
                        @for (shape, count) in &stats.mma {
                            tr { th scope="row" { code { (shape) } } td { (grouped(*count)) } td {} }
                        }
                    }
                }
            }
        }
        @for warning in &stats.warnings { pre.warning { (warning) } }
    }
}

/// A bar of a table, from 0 to 1.
fn bar(part: f64) -> Markup {
    html! { span.fill style=(format!("inline-size:{:.2}%", 100.0 * part.clamp(0.0, 1.0))) {} }
}

/// What the model says of one GPU.
fn on(gpu: &Gpu, stats: &LaunchStats, registers: Option<u32>) -> Markup {
    let report = stats.speed_of_light(gpu, registers);
    let slowest = report.bounds.first().map_or(0.0, Bound::seconds);
    html! {
        article {
            h3 { (gpu.name) " " span.tag { "model, no measurement" } }
            p.lead {
                "At least " strong { (si(report.lower_bound(), "s")) }
                @if let Some(limit) = report.limit() { ", by " (limit.pipe) }
                "; " (si(report.energy.joules.0, "J")) " to " (si(report.energy.joules.1, "J")) "."
            }
            div.columns {
                div {
                    div.scroll { (bounds(&report, slowest)) }
                    div.scroll { (energy(&report)) }
                }
                div {
                    (roofline::plot(gpu, stats, &report))
                    div.scroll { (occupancy(&report)) }
                }
            }
            @for note in &report.notes { p.note { (note) } }
        }
    }
}

fn occupancy(report: &Report) -> Markup {
    let occupancy = &report.occupancy;
    html! {
        table.figures {
            caption {
                "Occupancy: " (occupancy.warps) " of " (occupancy.most_warps) " warps ("
                (percent(occupancy.fraction())) ")"
            }
            thead { tr { th scope="col" { "resource" } th scope="col" { "blocks that it allows" } } }
            tbody {
                @for (resource, most) in &occupancy.limits {
                    tr.limit[*most == occupancy.blocks] { th scope="row" { (resource) } td { (most) } }
                }
            }
        }
    }
}

fn energy(report: &Report) -> Markup {
    html! {
        table.figures {
            caption { "Energy" }
            thead { tr { th scope="col" { "part" } th scope="col" { "from" } th scope="col" { "to" } } }
            tbody {
                @for part in &report.energy.parts {
                    tr {
                        th scope="row" { (part.name) }
                        td { (si(part.joules.0, "J")) }
                        td { (si(part.joules.1, "J")) }
                    }
                }
            }
        }
    }
}

fn bounds(report: &Report, slowest: f64) -> Markup {
    let limit = report.limit().map(|limit| limit.pipe);
    html! {
        table.figures {
            caption { "Time that each part needs at least" }
            thead {
                tr { @for head in ["part", "work", "rate", "at least"] { th scope="col" { (head) } } th.wide {} }
            }
            tbody {
                @for bound in &report.bounds {
                    tr.limit[limit == Some(bound.pipe)].soft[!bound.firm] {
                        th scope="row" { (bound.pipe) @if !bound.firm { sup { "1" } } }
                        td { (si(bound.work, bound.unit)) }
                        td { (si(bound.rate, &format!("{}/s", bound.unit))) }
                        td { (si(bound.seconds(), "s")) }
                        td.bar.wide { (bar(bound.seconds() / slowest)) }
                    }
                }
            }
            tfoot {
                tr { td colspan="5" { sup { "1" } " no bound: the assembler may need fewer instructions, L1 may hit" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_stand_in_groups() {
        let plain = |value| grouped(value).replace('\u{202f}', " ");
        assert_eq!(plain(0), "0");
        assert_eq!(plain(999), "999");
        assert_eq!(plain(1000), "1 000");
        assert_eq!(plain(1_234_567), "1 234 567");
    }
}

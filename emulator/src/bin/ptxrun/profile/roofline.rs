//! The roofline of a GPU, with a launch on it: operations a second over operations per byte of DRAM.
//!
//! Everything is of the model. The launch stands where its bounds allow it to be at most; a real
//! one is below.

use maud::{Markup, html};
use ptx_emulator::{Gpu, LaunchStats, Pipe, Report, si};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;

/// A range of powers of ten along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    /// Exponents.
    from: i32,
    to: i32,
    start: f64,
    end: f64,
}

impl Axis {
    /// Covers values with room on both sides.
    fn covering(values: &[f64], start: f64, end: f64) -> Axis {
        let logs = values.iter().map(|value| value.log10());
        let from = logs.clone().fold(f64::INFINITY, f64::min);
        let to = logs.fold(f64::NEG_INFINITY, f64::max);
        Axis {
            from: (from - 0.3).floor() as i32,
            to: (to + 0.3).ceil() as i32,
            start,
            end,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        self.start + part * (self.end - self.start)
    }

    fn powers(&self) -> impl Iterator<Item = f64> + use<> {
        (self.from..=self.to).map(|exponent| 10f64.powi(exponent))
    }
}

/// A flat part of the roof.
struct Roof {
    name: String,
    rate: f64,
}

/// What is counted along the vertical axis.
struct Work {
    unit: &'static str,
    amount: f64,
    roofs: Vec<Roof>,
}

/// Floating-point operations, or, in a launch without, instructions of lanes.
fn work(stats: &LaunchStats, report: &Report, gpu: &Gpu) -> Work {
    let counts = &stats.counts;
    let clocks = f64::from(gpu.sms) * gpu.clock_hz();
    let flops = |rate: u32, each: f64| f64::from(rate) * each * clocks;
    let mut roofs = Vec::new();
    if stats.tensor_flops > 0
        && let Some(tensor) = report
            .bounds
            .iter()
            .find(|bound| bound.pipe == Pipe::Tensor)
    {
        // The report counts the multiprocessors that are busy.
        let busy = f64::from(gpu.sms).min(stats.blocks as f64).max(1.0);
        let rate = tensor.rate / busy * f64::from(gpu.sms);
        roofs.push(Roof {
            name: "tensor".into(),
            rate,
        });
    }
    for (name, done, rate) in [
        ("f32", counts.f32_flops, flops(gpu.rates.f32, 2.0)),
        ("f16, bf16", counts.half_flops, flops(gpu.rates.half2, 4.0)),
        ("f64", counts.f64_flops, flops(gpu.rates.f64, 2.0)),
    ] {
        if done > 0 {
            roofs.push(Roof {
                name: name.into(),
                rate,
            });
        }
    }
    let amount = stats.tensor_flops + counts.f32_flops + counts.half_flops + counts.f64_flops;
    if amount > 0 && !roofs.is_empty() {
        return Work {
            unit: "flop",
            amount: amount as f64,
            roofs,
        };
    }
    Work {
        unit: "lane",
        amount: counts.thread_executions as f64,
        roofs: vec![Roof {
            name: "issue".into(),
            rate: flops(gpu.rates.issue, 1.0),
        }],
    }
}

/// The plot, or why there is none.
pub fn plot(gpu: &Gpu, stats: &LaunchStats, report: &Report) -> Markup {
    let bytes = stats
        .traffic
        .map_or(0, |t| t.fetched_bytes + t.written_back_bytes) as f64;
    let Work {
        unit,
        amount,
        mut roofs,
    } = work(stats, report, gpu);
    let seconds = report.lower_bound();
    if bytes == 0.0 || amount == 0.0 || seconds == 0.0 {
        return html! { p.note { "No roofline: the launch moves no bytes of DRAM, or does nothing that is counted." } };
    }
    roofs.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let bandwidth = 1e9 * gpu.bandwidth;
    let peak = roofs[0].rate;
    let (intensity, speed) = (amount / bytes, amount / seconds);
    let ridge = peak / bandwidth;
    let x = Axis::covering(&[intensity, ridge, 0.1, 100.0], LEFT, WIDTH - RIGHT);
    let lowest = roofs.iter().map(|roof| roof.rate).fold(speed, f64::min);
    let y = Axis::covering(&[lowest, peak, peak / 1e3], HEIGHT - BOTTOM, TOP);
    let leftmost = 10f64.powi(x.from);
    let rightmost = 10f64.powi(x.to);
    let floor = 10f64.powi(y.from);
    // The slope leaves the plot at the left or at the bottom.
    let slope = leftmost.max(floor / bandwidth);
    let point = |value: f64, rate: f64| format!("{:.1},{:.1}", x.at(value), y.at(rate));
    let roof = format!(
        "{} {} {}",
        point(slope, slope * bandwidth),
        point(ridge, peak),
        point(rightmost, peak)
    );
    let under = format!("{} {roof} {}", point(slope, floor), point(rightmost, floor));
    let label = format!(
        "Roofline of the model of {}: {} at {:.3} {unit} per byte",
        gpu.name,
        si(speed, &format!("{unit}/s")),
        intensity
    );
    html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
                polygon.under points=(under) {}
                @for value in x.powers() {
                    line.grid x1=(px(x.at(value))) x2=(px(x.at(value))) y1=(px(TOP)) y2=(px(HEIGHT - BOTTOM)) {}
                    text.tick x=(px(x.at(value))) y=(px(HEIGHT - BOTTOM + 18.0)) text-anchor="middle" { (power(value)) }
                }
                @for value in y.powers() {
                    line.grid x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y.at(value))) y2=(px(y.at(value))) {}
                    text.tick x=(px(LEFT - 6.0)) y=(px(y.at(value) + 4.0)) text-anchor="end" { (short(value)) }
                }
                text.axis x=(px((LEFT + WIDTH - RIGHT) / 2.0)) y=(px(HEIGHT - 8.0)) text-anchor="middle" {
                    (unit) " per byte of DRAM (model of L2)"
                }
                text.axis x=(px(LEFT + 6.0)) y=(px(TOP + 14.0)) { (unit) "/s" }
                polyline.roof points=(roof) {}
                @for Roof { name, rate } in &roofs[1..] {
                    line.ceiling x1=(px(x.at(rate / bandwidth))) x2=(px(WIDTH - RIGHT)) y1=(px(y.at(*rate))) y2=(px(y.at(*rate))) {}
                    (ceiling(name, *rate, unit, y))
                }
                (ceiling(&roofs[0].name, peak, unit, y))
                (slope_label(&x, &y, [slope, ridge], bandwidth, intensity))
                line.drop x1=(px(x.at(intensity))) x2=(px(x.at(intensity))) y1=(px(y.at(speed))) y2=(px(HEIGHT - BOTTOM)) {}
                circle.launch cx=(px(x.at(intensity))) cy=(px(y.at(speed))) r="5" {}
                (launch_label(&x, intensity, speed, unit))
            }
            figcaption {
                "Modelled, not measured: the launch stands at the most that its bounds allow. "
                "Each roof is the rate of all " (gpu.sms) " multiprocessors."
            }
        }
    }
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

fn ceiling(name: &str, rate: f64, unit: &str, y: Axis) -> Markup {
    html! {
        text.name x=(px(WIDTH - RIGHT - 4.0)) y=(px(y.at(rate) - 5.0)) text-anchor="end" {
            (name) " " (si(rate, &format!("{unit}/s")))
        }
    }
}

/// Along the slope, away from the launch.
fn slope_label(x: &Axis, y: &Axis, [from, to]: [f64; 2], bandwidth: f64, launch: f64) -> Markup {
    let along = |part: f64| from * (to / from).powf(part);
    let near = |part: f64| (x.at(along(part)) - x.at(launch)).abs() < 70.0;
    let middle = along(if near(0.4) { 0.75 } else { 0.4 });
    let (dx, dy) = (
        x.at(to) - x.at(from),
        y.at(to * bandwidth) - y.at(from * bandwidth),
    );
    let (cx, cy) = (x.at(middle), y.at(middle * bandwidth));
    let turn = dy.atan2(dx).to_degrees();
    html! {
        text.name x=(px(cx)) y=(px(cy - 6.0)) text-anchor="middle" transform=(format!("rotate({turn:.1} {cx:.1} {cy:.1})")) {
            "DRAM " (si(bandwidth, "B/s"))
        }
    }
}

/// At the foot of the line from the point, where no roof is, on the side that has room.
fn launch_label(x: &Axis, intensity: f64, speed: f64, unit: &str) -> Markup {
    let cx = x.at(intensity);
    let left = cx > WIDTH - RIGHT - 210.0;
    let (at, anchor) = if left {
        (cx - 9.0, "end")
    } else {
        (cx + 9.0, "start")
    };
    let foot = HEIGHT - BOTTOM - 9.0;
    html! {
        text.launch x=(px(at)) y=(px(foot - 18.0)) text-anchor=(anchor) { "at most " (si(speed, &format!("{unit}/s"))) }
        text.launch x=(px(at)) y=(px(foot)) text-anchor=(anchor) { (format!("{intensity:.3}")) " " (unit) " per byte" }
    }
}

/// `100`, `0.01`.
fn power(value: f64) -> String {
    if value >= 1e4 {
        return short(value);
    }
    let digits = (-value.log10().round()).max(0.0) as usize;
    format!("{value:.digits$}")
}

/// `10 T`.
fn short(value: f64) -> String {
    const PREFIXES: [(f64, &str); 5] = [
        (1e15, " P"),
        (1e12, " T"),
        (1e9, " G"),
        (1e6, " M"),
        (1e3, " k"),
    ];
    let fits = PREFIXES.iter().find(|(scale, _)| value >= *scale * 0.999);
    let (scale, prefix) = fits.copied().unwrap_or((1.0, ""));
    format!("{:.0}{prefix}", value / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_cover_their_values_and_are_logarithmic() {
        let axis = Axis::covering(&[0.2, 900.0], 0.0, 500.0);
        assert_eq!((axis.from, axis.to), (-1, 4));
        assert_eq!(axis.at(0.1), 0.0);
        assert_eq!(axis.at(1e4), 500.0);
        assert!((axis.at(1.0) - 100.0).abs() < 1e-9);
        assert_eq!(axis.powers().count(), 6);
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!(
            [0.01, 1.0, 100.0, 1e4].map(power),
            ["0.01", "1", "100", "10 k"]
        );
        assert_eq!([1e9, 1e13, 100.0].map(short), ["1 G", "10 T", "100"]);
    }
}

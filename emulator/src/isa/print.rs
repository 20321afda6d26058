//! `vprintf`: formatted output, as the C library formats.

use super::prelude::*;
use crate::memory::{LOCAL_BASE, Window};

pub(super) static ROWS: &[Row] = &[
    // Addresses in local memory of the format's address, of that of the arguments, and of the result.
    row(" print", "System calls: vprintf", Class::Control)
        .args(&[A, A, Opt(&A)])
        .exec(|_| Some(exec!(cold | w, i, m | print(w, i, m)))),
];

fn print(w: &mut Warp<'_>, i: &Inst, m: u32) -> Step {
    let places: [[u64; 32]; 3] = std::array::from_fn(|k| {
        let base = w.get::<u64>(i.s[k]);
        base.map(|base| base.wrapping_add_signed(i.imm[k]))
    });
    let (order, count) = w.shuffled(m);
    for lane in order[..count].iter().map(|lane| usize::from(*lane)) {
        let pointer = |place: u64| w.local_pointer(lane, place as i64);
        let (Some(format), Some(mut at)) = (pointer(places[0][lane]), pointer(places[1][lane]))
        else {
            continue;
        };
        let text = w.launch.text(format).unwrap_or_default();
        let mut wrong = None;
        let argument = |size: u32| {
            at = at.next_multiple_of(u64::from(size));
            let here = at;
            at += u64::from(size);
            let value = argument(w, lane, here, size);
            wrong = wrong.or(value.is_none().then_some(here));
            value
        };
        let (text, arguments) = format_text(&text, argument, |at| w.launch.text(at));
        if let Some(at) = wrong {
            let kind = Kind::Uninitialised {
                what: "an argument of printf",
            };
            return Err(w.fault_at(kind, 1 << lane, at));
        }
        w.launch.print(w.block, text);
        if i.ns > 2
            && let Some(local) = w.local.get_mut(lane)
        {
            let offset = (places[2][lane] as u32).wrapping_sub(LOCAL_BASE);
            local.set_part(offset, 4, if format == 0 { u32::MAX } else { arguments });
            local.mark(offset, 4, true);
        }
    }
    Ok(Flow::Next)
}

/// An argument of 4 or 8 bytes in local memory, if it was written.
fn argument(w: &Warp<'_>, lane: usize, at: u64, size: u32) -> Option<u64> {
    if Window::of(at) != Window::Local {
        return None;
    }
    let offset = (at as u32).checked_sub(LOCAL_BASE)?;
    let local = w.local.get(lane)?;
    let low = u64::from(local.part(offset, 4));
    let high = if size == 8 {
        u64::from(local.part(offset + 4, 4))
    } else {
        0
    };
    local.initialised(offset, size).then_some(low | high << 32)
}

/// A conversion specification.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternative: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of an integer.
    bytes: u32,
}

/// The text that a format and its arguments give, and how many arguments it took. `argument` is the
/// next one of 4 or 8 bytes, `text` the string at an address.
fn format_text(
    format: &str,
    mut argument: impl FnMut(u32) -> Option<u64>,
    text: impl Fn(u64) -> Option<String>,
) -> (String, u32) {
    let mut out = String::new();
    let mut taken = 0;
    let mut next = |size: u32| {
        taken += 1;
        argument(size).unwrap_or(0)
    };
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let written = &rest[at..];
        let (spec, conversion, after) = parse(&written[1..], &mut next);
        rest = after;
        let Some(conversion) = conversion else {
            out.push_str(written);
            rest = "";
            break;
        };
        match conversion {
            '%' => out.push('%'),
            'd' | 'i' => {
                let value = next(spec.bytes.max(4)) as i64;
                let unused = 64 - 8 * spec.bytes;
                let value = value << unused >> unused;
                out.push_str(&pad(
                    &spec,
                    sign(&spec, value < 0),
                    digits(&spec, value.unsigned_abs(), 10),
                    true,
                ));
            }
            'u' | 'x' | 'X' | 'o' => {
                let unused = 64 - 8 * spec.bytes;
                let value = next(spec.bytes.max(4)) << unused >> unused;
                out.push_str(&unsigned(&spec, conversion, value));
            }
            'c' => out.push_str(&pad(
                &spec,
                "",
                char::from(next(4) as u8).to_string(),
                false,
            )),
            's' => {
                let at = next(8);
                let string = if at == 0 {
                    "(null)".to_string()
                } else {
                    text(at).unwrap_or_default()
                };
                let length = spec.precision.unwrap_or(usize::MAX);
                out.push_str(&pad(
                    &spec,
                    "",
                    string.chars().take(length).collect(),
                    false,
                ));
            }
            'p' => {
                let value = next(8);
                let string = if value == 0 {
                    "(nil)".to_string()
                } else {
                    format!("{value:#x}")
                };
                out.push_str(&pad(&spec, "", string, false));
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'a' | 'A' => {
                let value = f64::from_bits(next(8));
                out.push_str(&float(&spec, conversion, value));
            }
            // What is no conversion stays as it is.
            _ => out.push_str(&written[..written.len() - rest.len()]),
        }
    }
    out.push_str(rest);
    (out, taken)
}

/// Reads what follows a `%`; the conversion is missing if the text ends before it.
fn parse<'a>(text: &'a str, next: &mut impl FnMut(u32) -> u64) -> (Spec, Option<char>, &'a str) {
    let mut spec = Spec {
        bytes: 4,
        ..Spec::default()
    };
    let mut rest = text;
    let eat = |rest: &mut &'a str, c: char| match rest.strip_prefix(c) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    };
    loop {
        match rest.chars().next() {
            Some('-') => spec.left = true,
            Some('+') => spec.plus = true,
            Some(' ') => spec.space = true,
            Some('#') => spec.alternative = true,
            Some('0') => spec.zero = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let mut number = |rest: &mut &'a str| -> i64 {
        if eat(rest, '*') {
            return i64::from(next(4) as i32);
        }
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let value = rest[..end].parse().unwrap_or(0);
        *rest = &rest[end..];
        value
    };
    let width = number(&mut rest);
    spec.left |= width < 0;
    spec.width = width.unsigned_abs().min(4096) as usize;
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = usize::try_from(number(&mut rest)).ok().map(|p| p.min(4096));
    }
    for (length, bytes) in [
        ("hh", 1),
        ("h", 2),
        ("ll", 8),
        ("l", 8),
        ("j", 8),
        ("z", 8),
        ("t", 8),
    ] {
        if let Some(after) = rest.strip_prefix(length) {
            (rest, spec.bytes) = (after, bytes);
            break;
        }
    }
    let conversion = rest.chars().next();
    let after = conversion.map_or(rest, |c| &rest[c.len_utf8()..]);
    (spec, conversion, after)
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    match (negative, spec.plus, spec.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    }
}

/// At least as many digits as the precision says; none for a zero with the precision 0.
fn digits(spec: &Spec, value: u64, base: u32) -> String {
    let text = match base {
        8 => format!("{value:o}"),
        16 => format!("{value:x}"),
        _ => value.to_string(),
    };
    match spec.precision {
        Some(0) if value == 0 => String::new(),
        Some(least) => format!("{text:0>least$}"),
        None => text,
    }
}

fn unsigned(spec: &Spec, conversion: char, value: u64) -> String {
    let base = match conversion {
        'o' => 8,
        'u' => 10,
        _ => 16,
    };
    let mut text = digits(spec, value, base);
    if base == 8 && spec.alternative && !text.starts_with('0') {
        text.insert(0, '0');
    }
    let prefix = if base == 16 && spec.alternative && value != 0 {
        "0x"
    } else {
        ""
    };
    let text = pad(spec, prefix, text, true);
    if conversion == 'X' {
        text.to_uppercase()
    } else {
        text
    }
}

/// Fills up to the width: with zeros behind the prefix where that is allowed, or with spaces.
fn pad(spec: &Spec, prefix: &str, text: String, number: bool) -> String {
    let width = spec.width.saturating_sub(prefix.len());
    let whole = format!("{prefix}{text}");
    if spec.left {
        format!("{whole:<0$}", spec.width)
    } else if spec.zero && number && spec.precision.is_none() {
        format!("{prefix}{text:0>width$}")
    } else {
        format!("{whole:>0$}", spec.width)
    }
}

fn float(spec: &Spec, conversion: char, value: f64) -> String {
    let magnitude = value.abs();
    let mut prefix = sign(spec, value.is_sign_negative()).to_string();
    let precision = spec.precision.unwrap_or(6);
    let text = if !value.is_finite() {
        if value.is_nan() { "nan" } else { "inf" }.to_string()
    } else {
        match conversion.to_ascii_lowercase() {
            'e' => scientific(magnitude, precision, spec.alternative),
            'f' => fixed(magnitude, precision, spec.alternative),
            'a' => {
                prefix.push_str("0x");
                hexadecimal(magnitude, spec.precision, spec.alternative)
            }
            _ => shortest(magnitude, precision.max(1), spec.alternative),
        }
    };
    let spec = Spec {
        precision: None,
        zero: spec.zero && value.is_finite(),
        ..*spec
    };
    let text = pad(&spec, &prefix, text, true);
    if conversion.is_ascii_uppercase() {
        text.to_uppercase()
    } else {
        text
    }
}

fn fixed(value: f64, precision: usize, point: bool) -> String {
    let text = format!("{value:.precision$}");
    if point && precision == 0 {
        text + "."
    } else {
        text
    }
}

fn scientific(value: f64, precision: usize, point: bool) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let point = if point && precision == 0 { "." } else { "" };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{point}e{sign}{:02}", exponent.unsigned_abs())
}

/// `%g`: fixed where the exponent is between -4 and the precision, without zeros at the end.
fn shortest(value: f64, precision: usize, all: bool) -> String {
    let text = format!("{value:.0$e}", precision - 1);
    let exponent: i32 = text
        .split_once('e')
        .map_or(0, |(_, e)| e.parse().unwrap_or(0));
    let trim = |text: String| match (all, text.contains('.')) {
        (false, true) => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        _ => text,
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(value, precision - 1, all);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(digits.to_string()));
    }
    trim(fixed(
        value,
        (precision as i32 - 1 - exponent) as usize,
        all,
    ))
}

/// `%a` without its `0x`.
fn hexadecimal(value: f64, precision: Option<usize>, point: bool) -> String {
    let bits = value.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    let mut fraction = bits & ((1 << 52) - 1);
    let mut lead = u64::from(field != 0);
    let exponent = if value == 0.0 { 0 } else { field.max(1) - 1023 };
    let length = precision.unwrap_or(13);
    if length < 13 {
        let unit = 1u64 << (52 - 4 * length);
        let whole = lead << 52 | fraction;
        let (kept, rest) = (whole / unit, whole % unit);
        let up = rest > unit / 2 || rest == unit / 2 && kept & 1 != 0;
        let rounded = (kept + u64::from(up)) * unit;
        (lead, fraction) = (rounded >> 52, rounded & ((1 << 52) - 1));
    }
    let mut digits = format!("{fraction:013x}");
    match precision {
        Some(length) => {
            digits.truncate(length);
            digits = format!("{digits:0<length$}");
        }
        None => digits = digits.trim_end_matches('0').to_string(),
    }
    let point = if point || !digits.is_empty() { "." } else { "" };
    format!("{lead}{point}{digits}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a format and its arguments, as bits.
    fn text(format: &str, arguments: &[u64]) -> String {
        let mut arguments = arguments.iter();
        let string = |at: u64| (at == 0x1000).then(|| "text".to_string());
        format_text(format, |_| arguments.next().copied(), string).0
    }

    #[test]
    fn integers() {
        assert_eq!(
            text("%d|%5d|%-5d|%05d", &[7, 7, 7, 7]),
            "7|    7|7    |00007"
        );
        assert_eq!(text("%d %i", &[u64::MAX, 5]), "-1 5");
        assert_eq!(text("%+d % d %+d", &[5, 5, u64::MAX]), "+5  5 -1");
        assert_eq!(
            text("%u %x %X %o", &[u64::MAX, 255, 255, 8]),
            "4294967295 ff FF 10"
        );
        assert_eq!(
            text("%#x %#X %#o %#x", &[255, 255, 8, 0]),
            "0xff 0XFF 010 0"
        );
        assert_eq!(
            text("%lld %lu", &[i64::MIN as u64, u64::MAX]),
            format!("{} {}", i64::MIN, u64::MAX)
        );
        assert_eq!(text("%hhd %hu", &[0x1ff, 0x1_ffff]), "-1 65535");
        assert_eq!(
            text("%.3d|%8.3d|%-8.3d|%08.3d", &[5, 5, 5, 5]),
            "005|     005|005     |     005"
        );
        assert_eq!(text("%.0d|%*d|%-*d|", &[0, 4, 1, 4, 1]), "|   1|1   |");
        assert_eq!(text("%c%c%3c", &[65, 66, 67]), "AB  C");
    }

    #[test]
    fn strings_and_pointers() {
        assert_eq!(
            text("%s|%6s|%-6s|%.2s", &[0x1000; 4]),
            "text|  text|text  |te"
        );
        assert_eq!(text("%s %p %p", &[0, 0x1000, 0]), "(null) 0x1000 (nil)");
        assert_eq!(text("100%% %q", &[]), "100% %q");
        assert_eq!(text("end %", &[]), "end %");
    }

    #[test]
    fn floats() {
        let f = |x: f64| x.to_bits();
        assert_eq!(
            text("%f %.2f %.0f %#.0f", &[f(1.5), f(2.675), f(2.5), f(2.0)]),
            "1.500000 2.67 2 2."
        );
        assert_eq!(
            text("%e %.2E %.0e", &[f(12345.678), f(1e-10), f(5.0)]),
            "1.234568e+04 1.00E-10 5e+00"
        );
        assert_eq!(
            text("%g %g %g %g", &[f(100000.0), f(1e6), f(1e-4), f(1e-5)]),
            "100000 1e+06 0.0001 1e-05"
        );
        assert_eq!(
            text("%g %G %#g %.3g", &[f(0.1), f(1e-10), f(1.0), f(1234.0)]),
            "0.1 1E-10 1.00000 1.23e+03"
        );
        assert_eq!(
            text("%8.3f|%-8.3f|%08.3f|%+.1f", &[f(-1.5); 4]),
            "  -1.500|-1.500  |-001.500|-1.5"
        );
        let specials = [
            f(f64::INFINITY),
            f(f64::NEG_INFINITY),
            f(f64::NAN.abs()),
            f(f64::INFINITY),
        ];
        assert_eq!(text("%f %F %e %05f", &specials), "inf -INF nan   inf");
        assert_eq!(
            text("%a %a %A %.1a", &[f(1.0), f(0.5), f(255.5), f(1.97)]),
            "0x1p+0 0x1p-1 0X1.FFP+7 0x2.0p+0"
        );
    }
}

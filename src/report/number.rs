//! Numbers as people read them: thousands apart, millions and more with a suffix, no noise digits.

/// A number on its own: a category, or a tick of a logarithmic axis.
pub(super) fn number(v: f64) -> String {
    let size = v.abs();
    if v == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e15).contains(&size) {
        return scientific(v);
    }
    let (unit, suffix) = suffix(size);
    // Six digits at most, and of these only those that say something.
    let scaled = v / unit;
    let whole = digits_before_point(scaled);
    trim(&grouped(scaled, 6usize.saturating_sub(whole))) + suffix
}

/// Labels of evenly spaced ticks: the same unit and as many decimals as the spacing needs.
pub(super) fn tick_labels(values: &[f64], step: f64) -> Vec<String> {
    let largest = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    if !(1e-3..1e15).contains(&largest) {
        return values.iter().map(|v| if v.abs() < step / 2.0 { "0".into() } else { scientific(*v) }).collect();
    }
    let (mut unit, mut suffix) = suffix(largest);
    if decimals(step / unit) > 3 {
        (unit, suffix) = (1.0, "");
    }
    let places = decimals(step / unit);
    values.iter().map(|v| if v.abs() < step / 2.0 { "0".into() } else { grouped(v / unit, places) + suffix }).collect()
}

fn suffix(size: f64) -> (f64, &'static str) {
    if size >= 1e12 {
        (1e12, "T")
    } else if size >= 1e9 {
        (1e9, "G")
    } else if size >= 1e6 {
        (1e6, "M")
    } else {
        (1.0, "")
    }
}

/// Decimals that show a difference of `step`.
fn decimals(step: f64) -> usize {
    if !(step > 0.0 && step.is_finite()) {
        return 0;
    }
    (-libm::floor(libm::log10(step) + 1e-9)).clamp(0.0, 15.0) as usize
}

fn digits_before_point(v: f64) -> usize {
    format!("{:.0}", libm::trunc(v.abs())).len()
}

fn scientific(v: f64) -> String {
    let text = format!("{v:.3e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa)),
        None => text,
    }
}

/// Zeros after the point say nothing.
fn trim(text: &str) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text.to_string() }
}

/// With a comma between thousands.
fn grouped(v: f64, places: usize) -> String {
    let text = format!("{:.places$}", v.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::from(if v < 0.0 { "-" } else { "" });
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.0, "0"),
            (0.7, "0.7"),
            (0.1 + 0.2, "0.3"),
            (2048.0, "2,048"),
            (-1500.0, "-1,500"),
            (131_072.0, "131,072"),
            (1e6, "1M"),
            (2.5e9, "2.5G"),
            (1e-5, "1e-5"),
            (1e20, "1e20"),
        ];
        for (v, expect) in cases {
            assert_eq!(number(v), expect, "{v}");
        }
    }

    #[test]
    fn tick_labels_share_unit_and_decimals() {
        let cases: [(&[f64], f64, &[&str]); 5] = [
            (&[0.0, 0.5, 1.0], 0.5, &["0", "0.5", "1.0"]),
            (&[0.0, 20_000.0, 40_000.0], 20_000.0, &["0", "20,000", "40,000"]),
            (&[0.0, 5e5, 1e6, 1.5e6], 5e5, &["0", "0.5M", "1.0M", "1.5M"]),
            (&[0.0, 2e-5, 4e-5], 2e-5, &["0", "2e-5", "4e-5"]),
            (&[1_000_000_001.0, 1_000_000_002.0], 1.0, &["1,000,000,001", "1,000,000,002"]),
        ];
        for (values, step, expect) in cases {
            assert_eq!(tick_labels(values, step), expect);
        }
    }
}

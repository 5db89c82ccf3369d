//! Numbers and times from text, exactly: no value passes through a float.

use super::MAX_TOKENS;
use crate::spec::TimeUnit;

/// A count of tokens, from 0 to [`MAX_TOKENS`].
///
/// # Errors
/// What is wrong with the text, to be put behind the name of the field.
pub fn length(text: &str) -> Result<i32, String> {
    whole(text, MAX_TOKENS as u64).map(|n| n as i32)
}

/// A count of tokens, from 1 to [`MAX_TOKENS`].
///
/// # Errors
/// What is wrong with the text, to be put behind the name of the field.
pub fn tokens(text: &str) -> Result<i32, String> {
    match length(text)? {
        0 => Err("is 0: expected at least 1 token".to_string()),
        value => Ok(value),
    }
}

/// A whole number up to `most`.
///
/// # Errors
/// What is wrong with the text, to be put behind the name of the field.
pub fn whole(text: &str, most: u64) -> Result<u64, String> {
    let digits = text.as_bytes();
    // Nearly every number is short: checked and read in one go.
    if (1..=18).contains(&digits.len())
        && let Some(value) = digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
        && value <= most
    {
        return Ok(value);
    }
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(not_whole(text));
    }
    match text.parse::<u64>() {
        Ok(value) if value <= most => Ok(value),
        _ => Err(format!("is {}: too large, expected at most {most}", shorten(text))),
    }
}

fn not_whole(text: &str) -> String {
    let shown = shorten(text);
    match text.parse::<f64>() {
        _ if text.is_empty() => "is empty: expected a whole number".to_string(),
        Ok(value) if value < 0.0 => format!("is {shown}: negative, expected a whole number"),
        Ok(_) => format!("is {shown}: expected a whole number"),
        Err(_) => format!("is `{shown}`: not a number, expected a whole number"),
    }
}

/// A text short enough for a message.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

/// A time in nanoseconds: a number in `unit`, or `YYYY-MM-DD HH:MM:SS[.fffffffff][Z|+HH:MM]` (UTC where no zone is
/// given) since 1970.
///
/// # Errors
/// What is wrong with the text, to be put behind the name of the field.
pub fn time_ns(text: &str, unit: TimeUnit) -> Result<i64, String> {
    let text = text.trim();
    if text.as_bytes().get(4) == Some(&b'-') && text.as_bytes()[..4].iter().all(u8::is_ascii_digit) {
        return date_time_ns(text);
    }
    let shift = match unit {
        TimeUnit::S => 9,
        TimeUnit::Ms => 6,
        TimeUnit::Us => 3,
        TimeUnit::Ns => 0,
    };
    decimal(text, shift)
}

/// `text * 10^shift`, rounded to the nearest whole number, halves up.
fn decimal(text: &str, shift: i32) -> Result<i64, String> {
    let shown = || shorten(text);
    let not_a_number = || match text {
        "" => "is empty: expected a time".to_string(),
        _ => format!("is `{}`: not a number, expected a time", shown()),
    };
    if text.starts_with('-') {
        return Err(match text.parse::<f64>() {
            Ok(_) => format!("is {}: negative, expected a time from 0 up", shown()),
            Err(_) => not_a_number(),
        });
    }
    let (digits, exponent) = split_exponent(text).ok_or_else(not_a_number)?;
    let (mantissa, fraction_digits) = mantissa(digits).ok_or_else(not_a_number)?;
    let too_large = || format!("is {}: too large for a time, is the time unit right?", shown());
    let power = shift - fraction_digits + exponent;
    let value = match 10u128.checked_pow(power.unsigned_abs()) {
        _ if mantissa == 0 => 0,
        Some(scale) if power >= 0 => mantissa.checked_mul(scale).ok_or_else(too_large)?,
        None if power >= 0 => return Err(too_large()),
        Some(scale) => match (u64::try_from(mantissa), u64::try_from(scale)) {
            // Division of 64-bit numbers is several times faster, and nearly always enough.
            (Ok(m), Ok(s)) => u128::from(m / s + u64::from(m % s >= s.div_ceil(2))),
            _ => mantissa / scale + u128::from(mantissa % scale >= scale.div_ceil(2)),
        },
        None => 0,
    };
    // Half of what fits, so that the difference of two times always fits.
    i64::try_from(value).ok().filter(|v| *v <= i64::MAX / 2 + 1).ok_or_else(too_large)
}

/// `1.5e3` -> (`1.5`, 3). `None` where the exponent is not one.
fn split_exponent(text: &str) -> Option<(&str, i32)> {
    match text.find(['e', 'E']) {
        None => Some((text, 0)),
        Some(e) => {
            let exponent: i32 = text[e + 1..].parse().ok()?;
            (exponent.abs() <= 400).then_some((&text[..e], exponent))
        }
    }
}

/// `12.50` -> (1250, 2). Digits beyond the 36th are cut off.
fn mantissa(text: &str) -> Option<(u128, i32)> {
    // Nearly every time has few digits, and narrow numbers are several times faster.
    if text.len() <= 19 {
        let (mut value, mut digits, mut dot) = (0u64, 0, None);
        for b in text.bytes() {
            match b {
                b'0'..=b'9' => {
                    value = value * 10 + u64::from(b - b'0');
                    digits += 1;
                }
                b'.' if dot.is_none() => dot = Some(digits),
                _ => return None,
            }
        }
        return (digits > 0).then_some((u128::from(value), dot.map_or(0, |whole| digits - whole)));
    }
    let (mut value, mut digits, mut fraction, mut dot) = (0u128, 0, 0, false);
    for b in text.bytes() {
        match b {
            b'0'..=b'9' => {
                digits += 1;
                if value < 10u128.pow(36) {
                    value = value * 10 + u128::from(b - b'0');
                    fraction += i32::from(dot);
                } else if !dot {
                    fraction -= 1;
                }
            }
            b'.' if !dot => dot = true,
            _ => return None,
        }
    }
    (digits > 0).then_some((value, fraction))
}

fn date_time_ns(text: &str) -> Result<i64, String> {
    let wrong = || format!("is `{}`: expected a time such as 2023-11-16 18:15:46.6805900", shorten(text));
    date_time(text.as_bytes()).and_then(|ns| i64::try_from(ns).ok()).filter(|ns| *ns >= 0).ok_or_else(wrong)
}

fn date_time(text: &[u8]) -> Option<i128> {
    let number = |from: usize, to: usize| -> Option<i64> {
        text.get(from..to)?.iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let is = |at: usize, any: &[u8]| text.get(at).is_some_and(|b| any.contains(b));
    let punctuation = is(4, b"-") && is(7, b"-") && is(10, b" T") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let valid = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !punctuation || !valid || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if is(19, b".") {
        let digits = text[20..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        nanos = number(20, 20 + digits)? * 10i64.pow(9 - digits as u32);
        at = 20 + digits;
    }
    let offset = zone_minutes(&text[at..])?;
    let seconds = days_from_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset * 60;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

/// Minutes east of UTC of `Z`, `+HH:MM`, `-HH:MM` or nothing.
fn zone_minutes(zone: &[u8]) -> Option<i64> {
    let digit = |b: u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
    match *zone {
        [] | [b'Z'] => Some(0),
        [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            let minutes = (digit(a)? * 10 + digit(b)?) * 60 + digit(c)? * 10 + digit(d)?;
            Some(if sign == b'-' { -minutes } else { minutes })
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, by counting in years that begin in March.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        let cases = [
            ("0.1", TimeUnit::S, 100_000_000),
            ("5.8926549999999995", TimeUnit::S, 5_892_655_000),
            ("1e3", TimeUnit::Ms, 1_000_000_000),
            ("1.5E-3", TimeUnit::S, 1_500_000),
            ("82", TimeUnit::Ns, 82),
            ("0.5", TimeUnit::Ns, 1),
            ("0.00000000049999999999999999999999999999999999999", TimeUnit::S, 0),
            ("1970-01-02 00:00:00", TimeUnit::S, 86_400_000_000_000),
            ("1970-01-01 00:00:01.5", TimeUnit::S, 1_500_000_000),
            ("1970-01-01T01:00:00+01:00", TimeUnit::S, 0),
            ("2024-02-29 00:00:00Z", TimeUnit::S, 1_709_164_800_000_000_000),
            ("2023-11-16 18:15:46.6805900", TimeUnit::S, 1_700_158_546_680_590_000),
        ];
        for (text, unit, expect) in cases {
            assert_eq!(time_ns(text, unit), Ok(expect), "{text}");
        }
        for text in ["", ".", "1.2.3", "1e", "e5", "nan", "-1", "1e30", "2023-02-29 00:00:00", "2023-1-01 00:00:00"] {
            assert!(time_ns(text, TimeUnit::S).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_say_what_is_wrong() {
        assert_eq!(tokens("007"), Ok(7));
        for (text, expect) in [
            ("", "is empty"),
            ("0", "is 0"),
            ("-3", "negative"),
            ("1.5", "expected a whole number"),
            ("abc", "not a number"),
            ("99999999999999999999999", "too large"),
            ("16777217", "too large"),
        ] {
            let reason = tokens(text).expect_err(text);
            assert!(reason.contains(expect), "{text}: {reason}");
        }
    }
}

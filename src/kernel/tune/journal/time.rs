//! Times as the journal has them: ISO 8601 with microseconds and offset.

const DAY_US: i64 = 86_400_000_000;

/// Microseconds since 1970 as text, e.g. `2026-11-22T22:05:58.477102+00:00`; `None` outside of the years that Python
/// knows, less a day at either end for time zones.
pub(super) fn format(us: i64) -> Option<String> {
    let (days, rest) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    if !(days_from_1970(1, 1, 2)..days_from_1970(9999, 12, 31)).contains(&days) {
        return None;
    }
    let (year, month, day) = date(days);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00"))
}

/// Microseconds since 1970 of such a text, with any offset; without one it is taken to be UTC. `None` where it is no
/// such text.
pub(super) fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        bytes.get(from..to)?.iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let is = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|b| any.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"T ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = days_from_1970(year, month, day);
    if !(1..=12).contains(&month) || date(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if is(19, b".") {
        let digits = bytes[20..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        // More digits than six are cut off.
        let kept = digits.min(6);
        micros = number(20, 20 + kept)? * 10i64.pow(6 - kept as u32);
        at = 20 + digits;
    }
    let zone = &text[at..];
    let offset = match zone {
        "" | "Z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let whole = zone.len() == 6 && zone.starts_with(['+', '-']) && is(at + 3, b":");
            sign * whole.then(|| Some(number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?))??
        }
    };
    Some(days * DAY_US + ((hour * 60 + minute - offset) * 60 + second) * 1_000_000 + micros)
}

/// Days of the proleptic Gregorian calendar: years are counted from March, so that the leap day is their last.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    // Months from March on have 31, 30, 31, 30, 31 days, over and over: 153 in five.
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Year, month and day of a day.
fn date(days: i64) -> (i64, i64, i64) {
    // Years have 365.2425 days: the guess is at most one too high or too low.
    let mut year = 1970 + (days * 400).div_euclid(146_097);
    while days_from_1970(year, 1, 1) > days {
        year -= 1;
    }
    while days_from_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days_from_1970(year, *month, 1) <= days).unwrap_or(1);
    (year, month, days - days_from_1970(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_python() {
        // From `datetime.fromtimestamp(us / 1e6, timezone.utc).isoformat(timespec="microseconds")`.
        for (us, text) in [
            (0, "1970-01-01T00:00:00.000000+00:00"),
            (-1, "1969-12-31T23:59:59.999999+00:00"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001+00:00"),
            (1_795_385_158_477_102, "2026-11-22T22:05:58.477102+00:00"),
            (4_107_542_399_000_000, "2100-02-28T23:59:59.000000+00:00"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000+00:00"),
        ] {
            assert_eq!(format(us).as_deref(), Some(text));
            assert_eq!(parse(text), Some(us));
        }
        assert_eq!(format(i64::MAX), None);
        assert_eq!(format(i64::MIN), None);
    }

    #[test]
    fn every_day_of_800_years_round_trips() {
        for days in -146_097..146_097 {
            let text = format(days * DAY_US + 12_345).unwrap();
            assert_eq!(parse(&text), Some(days * DAY_US + 12_345), "{text}");
        }
    }

    #[test]
    fn other_forms_of_the_same_time() {
        for text in [
            "2026-11-22T23:35:58.4+01:30",
            "2026-11-22T21:05:58.400000-01:00",
            "2026-11-22 22:05:58.400",
            "2026-11-22T22:05:58.40000099Z",
        ] {
            assert_eq!(parse(text), Some(1_795_385_158_400_000), "{text}");
        }
        for text in [
            "",
            "2026-11-22",
            "2026-02-29T00:00:00",
            "2026-13-01T00:00:00",
            "2026-11-22T24:00:00",
            "2026-11-22T00:00:00.",
            "2026-11-22T00:00:00+1:00",
            "2026-11-22T00:00:00+0100",
            "2026-11-22T00:00:00.1é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

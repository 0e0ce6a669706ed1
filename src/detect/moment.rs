//! Moments as they are written.

use chrono::NaiveDate;

/// Seconds a day.
const DAY: f64 = 86_400.0;

/// From here on a number counts milliseconds: as seconds it would be the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// Moments further from 1970 are none, in seconds: three hundred million years. Nanoseconds of today are within.
const SECONDS_MAX: f64 = 1e16;

/// What is further from 1970 is written as this, in seconds: the years that a calendar reaches.
const WRITTEN_MAX: f64 = 8e12;

/// Returns the seconds of the epoch that `text` names: a number of seconds (or milliseconds, from 100 thousand millions
/// on), or `YYYY-MM-DD` with `HH:MM[:SS[.fff]]` behind a blank or `T`, and `Z` or an offset at the end; without one it is
/// UTC.
pub(crate) fn moment(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        let seconds = if number.abs() >= MILLISECONDS_FROM { number / 1000.0 } else { number };
        return (seconds.abs() <= SECONDS_MAX).then_some(seconds);
    }
    let (date, rest) = match text.split_once(['T', 't', ' ']) {
        Some((date, rest)) => (date, rest.trim()),
        None => (text, "00:00"),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (whole(parts.next()?, 4)?, whole(parts.next()?, 2)?, whole(parts.next()?, 2)?);
    if parts.next().is_some() {
        return None;
    }
    let date = NaiveDate::from_ymd_opt(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?)?;
    let (clock, offset) = split_offset(rest)?;
    Some(f64::from(date.to_epoch_days()) * DAY + seconds_of(clock)? - offset)
}

/// Returns how the moment is written: `YYYY-MM-DD HH:MM:SS`, in UTC.
pub(crate) fn written(seconds: f64) -> String {
    let whole = seconds.clamp(-WRITTEN_MAX, WRITTEN_MAX).floor() as i64;
    let (days, clock) = (whole.div_euclid(DAY as i64), whole.rem_euclid(DAY as i64));
    let date = i32::try_from(days).ok().and_then(NaiveDate::from_epoch_days).unwrap_or_default();
    format!("{} {:02}:{:02}:{:02}", date.format("%Y-%m-%d"), clock / 3600, clock / 60 % 60, clock % 60)
}

/// Returns the number that exactly `digits` digits write.
fn whole(text: &str, digits: usize) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|each| each.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// Returns the time of day and the seconds that it is ahead of UTC.
fn split_offset(text: &str) -> Option<(&str, f64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock.trim_end(), 0.0));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, 0.0)) };
    let (clock, offset) = text.split_at(at);
    let sign = if offset.starts_with('-') { -1.0 } else { 1.0 };
    let digits: String = offset[1..].chars().filter(|each| *each != ':').collect();
    let (hours, minutes) = match digits.len() {
        2 => (whole(&digits, 2)?, 0),
        4 => (whole(digits.get(..2)?, 2)?, whole(digits.get(2..)?, 2)?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then(|| (clock.trim_end(), sign * (hours * 3600 + minutes * 60) as f64))
}

/// Returns the seconds since midnight.
fn seconds_of(clock: &str) -> Option<f64> {
    let mut parts = clock.split(':');
    let (hours, minutes) = (whole(parts.next()?, 2)?, whole(parts.next()?, 2)?);
    let seconds = match parts.next() {
        None => 0.0,
        Some(text) => {
            let (before, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
            let fraction = fraction.bytes().all(|each| each.is_ascii_digit()).then(|| format!("0.{fraction}"))?;
            whole(before, 2)? as f64 + fraction.parse::<f64>().ok()?
        }
    };
    let fits = parts.next().is_none() && hours <= 24 && minutes <= 59 && seconds < 61.0;
    fits.then_some((hours * 3600 + minutes * 60) as f64 + seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_written_everywhere() {
        let table = [
            ("0", Some(0.0)),
            (" 1424986973 ", Some(1_424_986_973.0)),
            ("1424986973.25", Some(1_424_986_973.25)),
            ("1424986973250", Some(1_424_986_973.25)),
            ("2015-02-26 21:42:53", Some(1_424_986_973.0)),
            ("2015-02-26T21:42:53Z", Some(1_424_986_973.0)),
            ("2015-02-26T21:42:53.250Z", Some(1_424_986_973.25)),
            ("2015-02-26T23:42:53+02:00", Some(1_424_986_973.0)),
            ("2015-02-26T16:42:53-0500", Some(1_424_986_973.0)),
            ("2015-02-26 21:42", Some(1_424_986_920.0)),
            ("2015-02-26", Some(1_424_908_800.0)),
            ("1969-12-31 23:59:59", Some(-1.0)),
            ("2000-02-29 00:00:00", Some(951_782_400.0)),
            ("1900-02-29 00:00:00", None),
            ("2015-13-01 00:00:00", None),
            ("2015-02-26 25:00:00", None),
            ("2015-02-26 21:60:00", None),
            ("15-02-26 21:42:53", None),
            ("2015-02-26 21:42:53 noon", None),
            ("timestamp", None),
            ("nan", None),
            ("inf", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(moment(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(text in ".{0,40}") {
            prop_assert!(moment(&text).is_none_or(f64::is_finite));
        }

        #[test]
        fn what_is_written_is_read_again(seconds in -60_000_000_000_i64..250_000_000_000) {
            prop_assert_eq!(moment(&written(seconds as f64)), Some(seconds as f64));
        }
    }
}

//! Times of the local clock, as a person writes them: when nothing new is deployed, when nothing is said of a service, when one
//! is lent to experiments.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const DAY_MIN: i64 = 24 * 60;

/// The weekday of the first day of the Unix epoch, a Thursday, with Monday as 0.
const EPOCH_WEEKDAY: i64 = 3;

/// A time by the clock on the wall of the machine, once or each week again.
///
/// ```
/// # use kloros_actors::facts::window::Window;
/// for text in ["sat,sun", "mon-fri 09:00-18:00", "22:00-06:00", "2026-12-20 00:00 to 2027-01-02 06:00"] {
///     assert_eq!(text.parse::<Window>().map(|window| window.to_string()).as_deref(), Ok(text));
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    text: String,
    span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Span {
    /// Each week again: the days it begins on, with Monday as 0, and minutes from midnight on. One that ends before it
    /// begins goes on into the next day.
    Weekly { days: [bool; 7], from_min: i64, to_min: i64 },
    /// Once, in minutes of local time since 1970 began there.
    Once { from_min: i64, to_min: i64 },
}

impl Window {
    /// Returns whether it is in force at `now_ms` since the Unix epoch where local time is `utc_offset_s` ahead of UTC. Its
    /// first minute belongs to it, its end does not.
    pub fn holds(&self, now_ms: u64, utc_offset_s: i32) -> bool {
        let local_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX).saturating_add(i64::from(utc_offset_s));
        let now_min = local_s.div_euclid(60);
        match &self.span {
            Span::Once { from_min, to_min } => (*from_min..*to_min).contains(&now_min),
            Span::Weekly { days, from_min, to_min } => {
                let (day, minute) = (now_min.div_euclid(DAY_MIN), now_min.rem_euclid(DAY_MIN));
                let begins_on = |day: i64| days[(day + EPOCH_WEEKDAY).rem_euclid(7) as usize];
                if from_min < to_min {
                    begins_on(day) && (*from_min..*to_min).contains(&minute)
                } else {
                    (begins_on(day) && minute >= *from_min) || (begins_on(day - 1) && minute < *to_min)
                }
            }
        }
    }
}

impl Window {
    /// Returns when it begins where that is once and not each week again, in milliseconds of local time since 1970 began there.
    pub fn once_from_ms(&self) -> Option<u64> {
        match self.span {
            Span::Once { from_min, .. } => Some(u64::try_from(from_min).unwrap_or(0).saturating_mul(60_000)),
            Span::Weekly { .. } => None,
        }
    }
}

/// Returns the first of `windows` that is in force, if any is.
pub fn in_force(windows: &[Window], now_ms: u64, utc_offset_s: i32) -> Option<&Window> {
    windows.iter().find(|window| window.holds(now_ms, utc_offset_s))
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.text
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{text:.60?} is no window of time: {why}; write \"sat,sun\", \"mon-fri 09:00-18:00\", \"22:00-06:00\" or \
                 \"2026-12-20 00:00 to 2027-01-02 00:00\""
            )
        };
        let span = match text.split_once(" to ") {
            Some((from, to)) => {
                let (from_min, to_min) = (moment(from), moment(to));
                let (Some(from_min), Some(to_min)) = (from_min, to_min) else {
                    return Err(wrong("a moment is YYYY-MM-DD HH:MM"));
                };
                if from_min >= to_min {
                    return Err(wrong("it ends before it begins"));
                }
                Span::Once { from_min, to_min }
            }
            None => weekly(text).map_err(wrong)?,
        };
        Ok(Self { text: text.to_owned(), span })
    }
}

fn weekly(text: &str) -> Result<Span, &'static str> {
    let (days_text, hours_text) = match text.split_once(' ') {
        Some((days, hours)) => (Some(days), Some(hours)),
        None if text.contains(':') => (None, Some(text)),
        None => (Some(text), None),
    };
    let days = days_text.map_or(Ok([true; 7]), days)?;
    let (from_min, to_min) = match hours_text {
        None => (0, DAY_MIN),
        Some(hours) => {
            let (from, to) = hours.split_once('-').ok_or("a time of day is HH:MM-HH:MM")?;
            let time = |text: &str| minute_of_day(text).ok_or("a time of day is HH:MM-HH:MM");
            (time(from)?, time(to)?)
        }
    };
    if from_min == to_min {
        return Err("it ends when it begins");
    }
    Ok(Span::Weekly { days, from_min, to_min })
}

fn days(text: &str) -> Result<[bool; 7], &'static str> {
    const UNKNOWN: &str = "the days are mon, tue, wed, thu, fri, sat and sun";
    let index = |name: &str| DAY_NAMES.iter().position(|known| *known == name).ok_or(UNKNOWN);
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (index(first)?, index(last)?);
        // From Friday to Monday leads over the end of the week.
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|step| days[(first + step) % 7] = true);
    }
    Ok(days)
}

/// Returns the minutes since midnight of `HH:MM`; 24:00 is the end of the day.
fn minute_of_day(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute) = (digits(hour, 2)?, digits(minute, 2)?);
    let is_a_time = (hour < 24 && minute < 60) || (hour == 24 && minute == 0);
    is_a_time.then_some(hour * 60 + minute)
}

/// Returns the minutes between the beginning of 1970 and `YYYY-MM-DD HH:MM`.
fn moment(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ')?;
    let mut parts = date.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=days_in_month).contains(&day) {
        return None;
    }
    Some(days_from_civil(year, month, day) * DAY_MIN + minute_of_day(time)?)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|each| each.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Returns the days between 1970-01-01 and a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns a moment in milliseconds since the Unix epoch.
    fn at(text: &str) -> u64 {
        u64::try_from(moment(text).unwrap()).unwrap() * 60_000
    }

    #[track_caller]
    fn check(window: &str, moment: &str, holds: bool) {
        let window: Window = window.parse().unwrap();
        assert_eq!(window.holds(at(moment), 0), holds, "{window} at {moment}");
    }

    #[test]
    fn a_window_holds_from_its_first_minute_until_its_end() {
        // The 26th of November 2026 is a Thursday.
        for (window, moment, holds) in [
            ("thu", "2026-11-26 00:00", true),
            ("thu", "2026-11-26 23:59", true),
            ("thu", "2026-11-27 00:00", false),
            ("fri,sat", "2026-11-26 12:00", false),
            ("mon-fri 09:00-18:00", "2026-11-26 08:59", false),
            ("mon-fri 09:00-18:00", "2026-11-26 09:00", true),
            ("mon-fri 09:00-18:00", "2026-11-26 17:59", true),
            ("mon-fri 09:00-18:00", "2026-11-26 18:00", false),
            ("mon-fri 09:00-18:00", "2026-11-28 12:00", false),
            ("fri-mon", "2026-11-29 12:00", true),
            ("fri-mon", "2026-11-30 12:00", true),
            ("fri-mon", "2026-12-01 12:00", false),
            ("22:00-06:00", "2026-11-26 21:59", false),
            ("22:00-06:00", "2026-11-26 22:00", true),
            ("22:00-06:00", "2026-11-27 05:59", true),
            ("22:00-06:00", "2026-11-27 06:00", false),
            ("thu 22:00-24:00", "2026-11-26 23:59", true),
            // It belongs to the day that it begins on.
            ("thu 22:00-06:00", "2026-11-27 05:59", true),
            ("fri 22:00-06:00", "2026-11-27 05:59", false),
            ("2026-12-20 00:00 to 2027-01-02 06:30", "2026-12-19 23:59", false),
            ("2026-12-20 00:00 to 2027-01-02 06:30", "2026-12-20 00:00", true),
            ("2026-12-20 00:00 to 2027-01-02 06:30", "2027-01-02 06:29", true),
            ("2026-12-20 00:00 to 2027-01-02 06:30", "2027-01-02 06:30", false),
        ] {
            check(window, moment, holds);
        }
    }

    #[test]
    fn it_goes_by_the_clock_on_the_wall() {
        let window: Window = "thu".parse().unwrap();
        assert!(window.holds(at("2026-11-25 23:30"), 3600));
        assert!(!window.holds(at("2026-11-26 23:30"), 3600));
        assert!(window.holds(at("2026-11-27 04:00"), -5 * 3600));
        // A clock that is unset is a clock all the same.
        assert!(!window.holds(0, -86_399));
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (date, days) in
            [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((2000, 3, 1), 11_017), ((2026, 11, 26), 20_783)]
        {
            assert_eq!(days_from_civil(date.0, date.1, date.2), days, "{date:?}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_to_write_instead() {
        for text in [
            "",
            "weekend",
            "Sat",
            "mon,",
            "mon-",
            "9:00-18:00",
            "09:00",
            "09:00-09:00",
            "24:01-25:00",
            "mon 09:00-18:60",
            "mon  09:00-18:00",
            "2026-12-20 to 2027-01-02",
            "2026-02-29 00:00 to 2026-03-01 00:00",
            "2027-01-02 00:00 to 2026-12-20 00:00",
            "2026-13-01 00:00 to 2027-01-01 00:00",
            "2026-12-20 00:00 to ",
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(error.contains("\"mon-fri 09:00-18:00\""), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_and_no_time_make_it_panic(text in any::<String>(), now_ms: u64, utc_offset_s: i32) {
            if let Ok(window) = text.parse::<Window>() {
                window.holds(now_ms, utc_offset_s);
            }
        }

        #[test]
        fn in_a_week_a_window_holds_as_long_as_it_says(from in 0_i64..1440, to in 0_i64..1440, week in 0_u64..5000) {
            prop_assume!(from != to);
            let text = format!("tue {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60);
            let window: Window = text.parse().unwrap();
            let minutes = (0..7 * 1440_u64).filter(|minute| window.holds((week * 7 * 1440 + minute) * 60_000, 0)).count();
            prop_assert_eq!(i64::try_from(minutes).unwrap(), (to - from).rem_euclid(1440));
        }
    }
}

//! Numbers, times and foreign text as words.

use jiff::Timestamp;

/// A time in the past as people say it: `41s ago`, `3d4h ago`, `just now`. A time in the future
/// (clocks differ) is `just now` too.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> String {
    match seconds_between(then, now) {
        0 => "just now".to_owned(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// The time from `then` to `now`: `41s`, `3m12s`, `3d4h`.
pub(super) fn since(then: Timestamp, now: Timestamp) -> String {
    span(seconds_between(then, now))
}

fn seconds_between(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(then).as_secs()).unwrap_or(0)
}

/// Seconds in the two largest units that they have.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let (large, large_unit, small, small_unit) = if days > 0 {
        (days, "d", hours % 24, "h")
    } else if hours > 0 {
        (hours, "h", minutes % 60, "m")
    } else if minutes > 0 {
        (minutes, "m", seconds % 60, "s")
    } else {
        return format!("{seconds}s");
    };
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// A count in at most four characters and an SI prefix: `999`, `18.2k`, `412k`, `1.9M`.
pub(super) fn count(number: u64) -> String {
    if number < 1_000 {
        return number.to_string();
    }
    let mut unit = 1_000_u128;
    for prefix in ["k", "M", "G", "T", "P", "E"] {
        // Rounded to the nearest tenth; from 100 on to the nearest whole.
        let tenths = (u128::from(number) * 10 + unit / 2) / unit;
        if tenths < 1_000 {
            return format!("{}.{}{prefix}", tenths / 10, tenths % 10);
        }
        let whole = (u128::from(number) + unit / 2) / unit;
        if whole < 1_000 {
            return format!("{whole}{prefix}");
        }
        unit *= 1_000;
    }
    number.to_string()
}

/// A part of a whole in per cent, to a tenth: `33.3%`; `-` of nothing.
pub(super) fn share(part: u32, whole: u32) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let (part, whole) = (u64::from(part), u64::from(whole));
    let tenths = (part * 1_000 + whole / 2) / whole;
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// Foreign text on one line: control characters, which could move the cursor or colour the
/// screen, are escaped.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}

/// Control characters, and those that turn the direction of text (Unicode UAX 9).
fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Foreign text of several lines, each cleaned and indented.
pub(super) fn indented(text: &str, indent: &str) -> String {
    text.lines().map(|line| format!("{indent}{}\n", clean(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a second of this century")
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (41, "41s"),
            (60, "1m"),
            (192, "3m12s"),
            (3_600, "1h"),
            (3_659, "1h"),
            (3_660, "1h1m"),
            (86_399, "23h59m"),
            (86_400, "1d"),
            (273_600, "3d4h"),
            (40_000_000, "462d23h"),
        ] {
            assert_eq!(since(at(0), at(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn times_are_relative_and_never_negative() {
        assert_eq!(ago(at(100), at(141)), "41s ago");
        assert_eq!(ago(at(100), at(100)), "just now");
        assert_eq!(ago(at(100), at(50)), "just now");
        assert_eq!(since(at(100), at(50)), "0s");
    }

    #[test]
    fn counts_keep_three_digits() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (18_249, "18.2k"),
            (18_250, "18.3k"),
            (99_949, "99.9k"),
            (99_950, "100k"),
            (412_499, "412k"),
            (999_499, "999k"),
            (999_500, "1.0M"),
            (1_900_000_000, "1.9G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(number), text, "{number}");
        }
    }

    #[test]
    fn shares_are_in_per_cent() {
        assert_eq!(share(21_846, 65_537), "33.3%");
        assert_eq!(share(65_537, 65_537), "100.0%");
        assert_eq!(share(0, 65_537), "0.0%");
        assert_eq!(share(0, 0), "-");
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\u{202e}d ü"), "a\\u{1b}[31mb\\nc\\u{202e}d ü");
        assert_eq!(indented("one\ntwo\x07\n", "  "), "  one\n  two\\u{7}\n");
    }
}

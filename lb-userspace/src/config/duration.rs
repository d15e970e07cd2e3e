//! Durations as the file writes them: a whole number and a unit.

use std::time::Duration;

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads `500ms`, `2s`, `1m`, `2h` or `7d`.
///
/// # Errors
///
/// Says what is wrong, without the text itself.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("does not start with a whole number");
    }
    if unit.is_empty() {
        return Err("has no unit");
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err("has an unknown unit");
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale));
    millis.map(Duration::from_millis).ok_or("is too long")
}

/// The duration as the file would write it, in the largest unit that is exact; what is below a
/// millisecond is cut off.
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    let exact = |(_, scale): &&(&str, u64)| millis.is_multiple_of(u128::from(*scale));
    match UNITS.iter().rev().find(exact) {
        Some((unit, scale)) if millis > 0 => format!("{}{unit}", millis / u128::from(*scale)),
        _ => "0s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(parse("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_told_apart() {
        assert_eq!(parse(""), Err("does not start with a whole number"));
        assert_eq!(parse("-1s"), Err("does not start with a whole number"));
        assert_eq!(parse("2"), Err("has no unit"));
        assert_eq!(parse("1.5s"), Err("has an unknown unit"));
        assert_eq!(parse("2 s"), Err("has an unknown unit"));
        assert_eq!(parse("2é"), Err("has an unknown unit"));
        assert_eq!(parse("2w"), Err("has an unknown unit"));
        assert_eq!(parse("99999999999999999999s"), Err("is too long"));
        assert_eq!(parse("18446744073709551615h"), Err("is too long"));
        assert_eq!(parse("213503982335d"), Err("is too long"));
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for text in ["1ms", "1500ms", "90s", "2s", "3m", "36h", "7d", "0s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(show(parse("24h").unwrap()), "1d");
        assert_eq!(show(Duration::from_micros(999)), "0s");
    }
}

//! How names from a file are quoted in messages, and which name was probably meant.

/// Characters of a quoted text that are shown.
const LONGEST_QUOTE: usize = 60;

/// A text from the file as a message shows it: in backticks, control characters escaped, cut
/// where it is long.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for character in text.chars().take(LONGEST_QUOTE) {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    if text.chars().nth(LONGEST_QUOTE).is_some() {
        out.push_str("...");
    }
    out.push('`');
    out
}

/// `` `a`, `b` and `c` ``.
pub fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quotes: Vec<String> = words.into_iter().map(quoted).collect();
    match quotes.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The one of `known` that was probably meant by `text`, if any is near enough.
pub fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // No known word is longer than that, and the distance costs the product of both lengths.
    if text.len() > LONGEST_QUOTE {
        return None;
    }
    let text = text.to_ascii_lowercase().replace('_', "-");
    known
        .into_iter()
        .map(|word| (distance(&text, word), word))
        .filter(|(distance, word)| *distance <= (word.len().max(text.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `a` from `b` ("optimal
/// string alignment").
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: &Vec<usize> = &before;
                row[j] = row[j].min(swapped[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_is_one_step() {
        assert_eq!(distance("weigth", "weight"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_word_that_is_far_from_all_known_ones_has_no_nearest() {
        let known = ["interval", "fast-interval", "timeout"];
        assert_eq!(nearest("fast_interval", known), Some("fast-interval"));
        assert_eq!(nearest("Timeuot", known), Some("timeout"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn quotes_are_short_and_hold_no_control_characters() {
        assert_eq!(quoted("a\x1b[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(quoted(&"é".repeat(1_000)).chars().count(), LONGEST_QUOTE + 5);
    }
}

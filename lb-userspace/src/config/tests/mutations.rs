//! Whatever the text is, it is good or it has mistakes, each with a place in it.

use proptest::prelude::*;

use super::{EXAMPLE, parse_any};
use crate::config::Listener;

/// One change of a file.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, char),
    Delete(prop::sample::Index, usize),
    Twice(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        (
            at(),
            prop_oneof![
                any::<char>(),
                prop::sample::select(vec!['"', '[', ']', '{', '}', '=', '.', ',', '\n', '\'', '9'])
            ]
        )
            .prop_map(|(at, new)| Mutation::Insert(at, new)),
        (at(), 1..40_usize).prop_map(|(at, length)| Mutation::Delete(at, length)),
        at().prop_map(Mutation::Twice),
        (at(), at()).prop_map(|(a, b)| Mutation::Swap(a, b)),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut lines: Vec<&str> = text.lines().collect();
    if bytes.is_empty() || lines.is_empty() {
        return String::new();
    }
    match mutation {
        Mutation::Flip(at, bits) => {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        Mutation::Insert(at, new) => {
            let at = at.index(bytes.len());
            let mut encoded = [0; 4];
            bytes.splice(at..at, new.encode_utf8(&mut encoded).bytes());
        }
        Mutation::Delete(at, length) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + length).min(text.len()));
        }
        Mutation::Twice(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at]);
            return lines.join("\n");
        }
        Mutation::Swap(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
            return lines.join("\n");
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_mutated_file_is_good_or_has_mistakes_in_it(
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let text = mutations.iter().fold(EXAMPLE.to_owned(), |text, one| mutate(&text, one));
        match parse_any(&text) {
            Ok(loaded) => prop_assert!(!loaded.config.node.interfaces.is_empty()),
            Err(report) => {
                prop_assert!(!report.mistakes().is_empty());
                let lines = text.split('\n').count();
                for mistake in report.mistakes() {
                    prop_assert!((1..=lines).contains(&mistake.line), "{mistake:?}");
                }
                prop_assert!(report.to_string().contains("lb.toml"));
            }
        }
    }

    #[test]
    fn any_text_is_a_listener_or_not(text in "[0-9a-f:./%*\\[\\]udptc]{0,30}") {
        if let Ok(listener) = Listener::parse(&text) {
            prop_assert_eq!(Listener::parse(&listener.to_string()), Ok(listener));
        }
    }
}

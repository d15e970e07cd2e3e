//! The shape of `allow` and `deny`.

use crate::config::SourceRule;
use crate::config::report::Sink;
use crate::config::source::parse_prefix;
use crate::config::tree::{self, At, Fields, Value};

/// The rules of a service that could be read, those of `allow` first.
pub fn read(sink: &mut Sink, service: &Fields) -> Vec<At<SourceRule>> {
    let mut rules = Vec::new();
    for (key, allow) in [("allow", true), ("deny", false)] {
        let Some(texts) = service.get(key).and_then(|value| list(sink, key, value)) else {
            continue;
        };
        rules.extend(texts.iter().filter_map(|text| rule(sink, key, text, allow)));
    }
    rules
}

fn list<'t>(sink: &mut Sink, key: &str, value: &'t Value<'t>) -> Option<&'t [Value<'t>]> {
    let texts = tree::array(sink, key, value, "strings")?;
    if key == "allow" && texts.is_empty() {
        // Taken by the letter it would let everybody in, which is hardly what it is there for.
        let hint = "leave it out to let everybody in; to let nobody in, write deny = \
                    [\"0.0.0.0/0\", \"::/0\"]";
        sink.mistake(&value.span(), "`allow` is empty").hint(hint);
    }
    Some(texts)
}

fn rule<'t>(
    sink: &mut Sink,
    key: &str,
    value: &'t Value<'t>,
    allow: bool,
) -> Option<At<SourceRule>> {
    let text = tree::string(sink, key, value)?;
    match parse_prefix(text) {
        Ok(prefix) => Some(At { value: SourceRule { prefix, allow }, span: value.span() }),
        Err(wrong) => {
            sink.mistake(&value.span(), wrong.message).hint_if(wrong.hint);
            None
        }
    }
}

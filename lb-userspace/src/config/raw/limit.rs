//! The shape of a `limit` table.

use std::ops::Range;

use crate::config::report::Sink;
use crate::config::schema;
use crate::config::tree::{Field, Fields};

/// `limit` of a service.
#[derive(Default)]
pub struct Limit {
    /// Where it is, if it is there.
    pub place: Option<Range<usize>>,
    pub flows: Field<u32>,
    pub flows_burst: Field<u32>,
    pub source: Field<u32>,
    pub source_burst: Field<u32>,
}

/// Range of rates and bursts: more than any one host takes in a second.
const FLOWS: (u32, u32) = (1, 10_000_000);

impl Limit {
    /// Reads the table of a service, if it has one.
    pub fn read(sink: &mut Sink, service: &Fields) -> Self {
        let Some(value) = service.get("limit") else {
            return Self::default();
        };
        let Some(fields) = Fields::open(sink, "limit", value, &schema::LIMIT) else {
            return Self::default();
        };
        let number = |sink: &mut Sink, key| match fields.number(sink, key, FLOWS.0..=FLOWS.1) {
            // A misspelt rate is no burst without its rate.
            Field::Absent if !fields.lacks(key) => Field::Wrong,
            read => read,
        };
        Self {
            place: Some(value.span()),
            flows: number(sink, "flows"),
            flows_burst: number(sink, "flows-burst"),
            source: number(sink, "source"),
            source_burst: number(sink, "source-burst"),
        }
    }
}

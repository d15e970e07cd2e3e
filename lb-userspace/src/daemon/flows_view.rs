//! Goes through the remembered flows for an operator. There may be millions of them, and meanwhile
//! the VIPs' lease has to be renewed: the controller only says what to look for, and a thread of
//! its own looks and answers.

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use lb_common::maps::{FlowKey, Pin};
use lb_common::tables::Record;

use super::controller::{Controller, failed};
use crate::api::{FlowCountView, FlowQuery, FlowsView, Problem, Reply};
use crate::dataplane::bpf::Records;
use crate::flows::{Collect, Count, List, Names};

impl Controller {
    /// Answers with flows, one by one.
    pub(super) fn list_flows(&self, query: FlowQuery, reply: Reply<FlowsView>) {
        self.collect(List::new(query, self.names()), reply);
    }

    /// Answers with flows in numbers.
    pub(super) fn count_flows(&self, query: FlowQuery, reply: Reply<FlowCountView>) {
        self.collect(Count::new(query, self.names()), reply);
    }

    fn names(&self) -> Names {
        Names::new(&self.held, &self.plan.layout, self.flows.epoch(), self.idle())
    }

    /// Answers with what a collection comes to, if it can be begun.
    fn collect<C: Collect + Send + 'static>(
        &self,
        collection: Result<C, Problem>,
        reply: Reply<C::View>,
    ) {
        let begun = collection.and_then(|c| Ok((c, self.bpf.records().map_err(failed)?)));
        let (mut collection, records) = match begun {
            Ok(begun) => begun,
            Err(problem) => return drop(reply.send(Err(problem))),
        };
        // Nobody waits for the thread: it ends by itself, at the latest when nobody waits for its
        // answer any more.
        tokio::task::spawn_blocking(move || {
            let gone = || reply.is_closed();
            let walked = walk(&records, gone, |record, key, pin| collection.take(record, key, pin));
            drop(reply.send(walked.map(|()| collection.finish()).map_err(failed)));
        });
    }
}

/// Goes through all records, unless nobody wants to know any more.
pub(super) fn walk(
    records: &Records,
    gone: impl Fn() -> bool,
    mut take: impl FnMut(Record, &FlowKey, &Pin),
) -> Result<()> {
    records
        .each(|record, key, pin| {
            take(record, key, pin);
            if gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .context("failed to go through the flows")
}

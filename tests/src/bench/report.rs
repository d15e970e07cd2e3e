//! What the benchmarks found, for people and for programs.

use serde_json::json;

/// One case's figures, in nanoseconds per packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    name: String,
    product: f64,
    spread: (f64, f64),
    floor: f64,
    parse: f64,
    above: f64,
}

impl Outcome {
    /// From the samples of the product, the swap floor and the parse floor.
    pub(super) fn new(name: String, [product, swap, parse]: [Vec<f64>; 3]) -> Self {
        // Taken in turn, so that a round's two figures are of one moment of the machine.
        let above = product.iter().zip(&swap).map(|(product, floor)| product - floor).collect();
        let sorted = sorted(product);
        let spread = (sorted[0], sorted[sorted.len() - 1]);
        Self {
            name,
            product: median(&sorted),
            spread,
            floor: median(&self::sorted(swap)),
            parse: median(&self::sorted(parse)),
            above: median(&self::sorted(above)),
        }
    }
}

fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

/// The table for people.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut lines = vec![format!(
        "{:<28} {:>7} {:>15} {:>7} {:>7} {:>12}",
        "CASE", "NS/PKT", "MIN-MAX", "FLOOR", "PARSE", "ABOVE FLOOR"
    )];
    for outcome in outcomes {
        lines.push(format!(
            "{:<28} {:>7.1} {:>7.1}-{:<7.1} {:>7.1} {:>7.1} {:>+12.1}",
            outcome.name,
            outcome.product,
            outcome.spread.0,
            outcome.spread.1,
            outcome.floor,
            outcome.parse,
            outcome.above,
        ));
    }
    lines.push(
        "medians of CPU time per packet, driver included; floor: MAC swap and XDP_TX; parse: \
         parsing alone; above floor: median of the rounds' differences"
            .to_owned(),
    );
    lines.join("\n")
}

/// `{"schema":"lb.bench/1","results":[...]}`
pub fn json(outcomes: &[Outcome]) -> serde_json::Value {
    let results: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            json!({
                "name": outcome.name,
                "ns": outcome.product,
                "ns_min": outcome.spread.0,
                "ns_max": outcome.spread.1,
                "floor_ns": outcome.floor,
                "parse_ns": outcome.parse,
                "above_floor_ns": outcome.above,
            })
        })
        .collect();
    json!({ "schema": "lb.bench/1", "results": results })
}

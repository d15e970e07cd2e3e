//! What the benchmarks found, for people and for programs.

use std::time::Duration;

use serde_json::json;

use super::control::Step;

/// One case's figures, in nanoseconds per packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    name: String,
    product: f64,
    spread: (f64, f64),
    floor: f64,
    parse: f64,
    above: f64,
    /// Another object's, and how many times as much the product takes.
    against: Option<(f64, f64)>,
}

impl Outcome {
    /// From the samples of the product, the swap floor, the parse floor and another object's program,
    /// if there was one.
    pub(super) fn new(name: String, [product, swap, parse, against]: [Vec<f64>; 4]) -> Self {
        // Taken in turn, so that a round's two figures are of one moment of the machine.
        let above = product.iter().zip(&swap).map(|(product, floor)| product - floor).collect();
        let ratios = product.iter().zip(&against).map(|(product, other)| product / other).collect();
        let ratio = median(&sorted(ratios));
        let other = median(&sorted(against));
        let sorted = sorted(product);
        let spread = (sorted[0], sorted[sorted.len() - 1]);
        Self {
            name,
            product: median(&sorted),
            spread,
            floor: median(&self::sorted(swap)),
            parse: median(&self::sorted(parse)),
            above: median(&self::sorted(above)),
            against: (other > 0.0).then_some((other, ratio)),
        }
    }
}

pub(super) fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples
}

/// 0 of none.
pub(super) fn median(sorted: &[f64]) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
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
        if let Some((other, ratio)) = outcome.against {
            lines.push(format!("{:<28} {other:>7.1}   ratio {ratio:.3}", "  the other object's"));
        }
    }
    lines.push(
        "medians of CPU time per packet, driver included; floor: MAC swap and XDP_TX; parse: \
         parsing alone; above floor: median of the rounds' differences"
            .to_owned(),
    );
    lines.join("\n")
}

/// The table of the daemon's own work.
pub fn control_table(steps: &[Step]) -> String {
    let mut lines = vec![format!("{:<56} {:>10}  {}", "STEP", "TIME", "MIN-MAX")];
    for step in steps {
        let (least, most) = (time(step.spread.0), time(step.spread.1));
        lines.push(format!("{:<56} {:>10}  {least}-{most}", step.name, time(step.median)));
    }
    lines.push("wall-clock time; medians of what was done often".to_owned());
    lines.join("\n")
}

fn time(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 1e5 { format!("{micros:.0} us") } else { format!("{:.0} ms", micros / 1e3) }
}

/// `{"schema":"lb.bench/1","results":[...],"control":[...]}`
pub fn json(outcomes: &[Outcome], steps: &[Step]) -> serde_json::Value {
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
                "against_ns": outcome.against.map(|(other, _)| other),
                "against_ratio": outcome.against.map(|(_, ratio)| ratio),
            })
        })
        .collect();
    let control: Vec<_> = steps
        .iter()
        .map(|step| {
            json!({
                "name": step.name,
                "us": step.median.as_secs_f64() * 1e6,
                "us_min": step.spread.0.as_secs_f64() * 1e6,
                "us_max": step.spread.1.as_secs_f64() * 1e6,
            })
        })
        .collect();
    json!({ "schema": "lb.bench/1", "results": results, "control": control })
}

//! Figures, their goals, and how they are printed: a Markdown table that can be pasted into
//! docs/performance.md.

use std::time::Duration;

/// One figure.
struct Figure {
    what: String,
    value: String,
    /// The goal and whether it was reached; none: for information.
    goal: Option<(String, bool)>,
}

/// All of a run.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// A figure that has to stay at or below its goal.
    pub fn at_most(&mut self, what: &str, value: f64, goal: f64, unit: &str) {
        let goal = (format!("≤ {goal} {unit}"), value <= goal);
        self.0.push(Figure { what: what.to_owned(), value: format!("{value:.1} {unit}"), goal: Some(goal) });
    }

    /// A figure that has to reach its goal.
    pub fn at_least(&mut self, what: &str, value: f64, goal: f64, unit: &str) {
        let goal = (format!("≥ {goal} {unit}"), value >= goal);
        self.0.push(Figure { what: what.to_owned(), value: format!("{value:.1} {unit}"), goal: Some(goal) });
    }

    /// A figure that explains another.
    pub fn note(&mut self, what: &str, value: String) {
        self.0.push(Figure { what: what.to_owned(), value, goal: None });
    }

    /// Whether every goal was reached.
    pub fn all_reached(&self) -> bool {
        self.0.iter().all(|figure| figure.goal.as_ref().is_none_or(|(_, reached)| *reached))
    }

    /// To standard output.
    pub fn print(&self) {
        println!("\n| what | measured | goal | |\n|---|---|---|---|");
        for Figure { what, value, goal } in &self.0 {
            let (goal, verdict) = match goal {
                Some((goal, true)) => (goal.as_str(), "reached"),
                Some((goal, false)) => (goal.as_str(), "MISSED"),
                None => ("", ""),
            };
            println!("| {what} | {value} | {goal} | {verdict} |");
        }
    }
}

/// The value below which this share of the samples lies (nearest rank).
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    assert!(!samples.is_empty(), "no samples");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = ((sorted.len() as f64) * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The middle one.
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

/// In milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

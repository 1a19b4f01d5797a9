//! Aligned text for people: tables, coloured words, times.
//!
//! What comes from outside (names, messages) is shown without control characters, so that no name
//! can drive a terminal.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::model::api::JobView;
use crate::model::job::JobState;
use crate::model::units::human_duration;

/// How a cell looks where colours are welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Good,
    Bad,
    Attention,
    Active,
    Faint,
}

impl Paint {
    fn code(self) -> Option<&'static str> {
        match self {
            Paint::Plain => None,
            Paint::Good => Some("32"),
            Paint::Bad => Some("31"),
            Paint::Attention => Some("33"),
            Paint::Active => Some("36"),
            Paint::Faint => Some("2"),
        }
    }

    /// The text in this paint, or as it is.
    pub(super) fn on(self, text: &str, color: bool) -> String {
        match self.code() {
            Some(code) if color => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// How a job in this state looks.
    pub(super) fn of(state: JobState) -> Paint {
        match state {
            JobState::Succeeded => Paint::Good,
            JobState::Failed => Paint::Bad,
            JobState::Waiting => Paint::Attention,
            JobState::Running => Paint::Active,
            JobState::Cancelled | JobState::Skipped => Paint::Faint,
            JobState::Queued => Paint::Plain,
        }
    }
}

/// One cell.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    paint: Paint,
    right: bool,
}

/// A cell of words.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell { text: printable(text.as_ref()), paint: Paint::Plain, right: false }
}

/// A cell of a number.
pub(super) fn number(number: impl fmt::Display + Copy) -> Cell {
    Cell { text: number.to_string(), paint: Paint::Plain, right: true }
}

impl Cell {
    pub(super) fn paint(mut self, paint: Paint) -> Cell {
        self.paint = paint;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Rows below a head, aligned by column.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, each line ended.
    pub(super) fn render(&self, color: bool) -> String {
        let right =
            |column: usize| self.rows.first().and_then(|row| row.get(column)).is_some_and(|c| c.right);
        let head: Vec<Cell> = (self.head.iter().enumerate())
            .map(|(column, name)| Cell {
                text: (*name).to_owned(),
                paint: Paint::Faint,
                right: right(column),
            })
            .collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|row| row.get(column)).map(Cell::width).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in lines() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let room = " ".repeat(widths.get(column).map_or(0, |width| width - cell.width()));
                let painted = cell.paint.on(&cell.text, color);
                line.push_str(&if cell.right { room + &painted } else { painted + &room });
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Jobs as `list`, `submit` and the acting commands show them.
pub(super) fn jobs(jobs: &[JobView], color: bool) -> String {
    let mut table = Table::new(&["JOB", "BATCH", "VM", "STATE", "STAGE", "DONE", "ATTEMPT", "SUBMITTED"]);
    for job in jobs {
        table.row([
            number(job.job_id),
            cell(&job.batch_id),
            cell(&job.vm_id),
            cell(state_words(job)).paint(Paint::of(job.state)),
            cell(job.current_stage.map_or("-", |stage| stage.name())),
            number(format_args!("{:.0}%", job.progress_percentage)),
            number(job.attempt),
            cell(moment(job.submitted_at)),
        ]);
    }
    table.render(color)
}

/// `waiting (network)`, or just the state.
pub(super) fn state_words(job: &JobView) -> String {
    match job.waiting_reason {
        Some(reason) if job.state == JobState::Waiting => format!("{} ({reason})", job.state),
        _ => job.state.to_string(),
    }
}

/// `2026-11-20 14:03:09` in this machine's time zone.
pub(super) fn moment(epoch_s: f64) -> String {
    let duration = SignedDuration::try_from_secs_f64(epoch_s).unwrap_or_default();
    match Timestamp::from_duration(duration) {
        Ok(timestamp) => timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "-".to_owned(),
    }
}

/// How long ago, or how long, or `-`.
pub(super) fn span(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), human_duration)
}

/// A text without anything that could drive a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right() {
        let mut table = Table::new(&["N", "NAME", "STATE"]);
        table.row([number(7), cell("a"), cell("ok")]);
        table.row([number(1234), cell("longer"), cell("")]);
        assert_eq!(table.render(false), "   N  NAME    STATE\n   7  a       ok\n1234  longer\n");
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row([cell("x").paint(Paint::Bad), cell("y")]);
        assert!(table.render(true).contains("\x1b[31mx\x1b[0m  y"));
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}

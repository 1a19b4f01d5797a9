//! The progress of a batch as it goes: bars per disk on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::table::printable;
use super::ui::complain;
use super::{Failure, Ui};
use crate::model::job::{JobState, Stage};
use crate::model::progress::{BatchProgress, VmProgress};
use crate::model::units::{human_duration, human_size};

/// A plain line is worth printing after this many percent.
const LINE_EVERY_PERCENT: f64 = 10.0;
/// How the bytes of one disk are shown on a terminal.
pub(super) const DISK_LINE: &str = "  {prefix:20!} {bar:30} {binary_bytes}/{binary_total_bytes} {msg}";

/// Shows moment after moment.
pub(super) struct ProgressView {
    ui: Ui,
    /// Where plain lines go: standard output if they are the result.
    lines_are_the_result: bool,
    bars: Option<Bars>,
    told: HashMap<String, Told>,
}

/// What was last said of a VM.
#[derive(PartialEq, Clone)]
struct Told {
    state: JobState,
    stage: Option<Stage>,
    tenths: u64,
}

impl ProgressView {
    /// For a command whose result it is.
    pub(super) fn as_the_result(ui: &Ui) -> ProgressView {
        ProgressView::new(ui, true)
    }

    /// For a command that prints something else in the end.
    pub(super) fn beside_the_result(ui: &Ui) -> ProgressView {
        ProgressView::new(ui, false)
    }

    fn new(ui: &Ui, lines_are_the_result: bool) -> ProgressView {
        let person = std::io::stderr().is_terminal() && !ui.json && !ui.quiet;
        ProgressView {
            ui: ui.clone(),
            lines_are_the_result,
            bars: person.then(Bars::new),
            told: HashMap::new(),
        }
    }

    /// Shows this moment.
    pub(super) fn show(&mut self, progress: &BatchProgress) -> Result<(), Failure> {
        if let Some(bars) = &mut self.bars {
            bars.show(progress);
            return Ok(());
        }
        if self.ui.json || (self.ui.quiet && !self.lines_are_the_result) {
            return Ok(());
        }
        for vm in progress.vms.values() {
            let told = Told {
                state: vm.state,
                stage: vm.current_stage,
                tenths: (vm.progress_percentage / LINE_EVERY_PERCENT) as u64,
            };
            if self.told.insert(vm.vm_id.clone(), told.clone()).is_some_and(|before| before == told) {
                continue;
            }
            let line = line(&progress.batch_id, vm);
            match self.lines_are_the_result {
                true => self.ui.print(&format!("{line}\n"))?,
                false => complain(&line),
            }
        }
        Ok(())
    }

    /// Leaves the last moment on the screen.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            bars.finish();
        }
    }
}

/// `web/vm1: running, convert (disk 1/2), 31 %, 412.0 MiB/s`.
fn line(batch_id: &str, vm: &VmProgress) -> String {
    let mut text = format!("{}/{}: {}", printable(batch_id), printable(&vm.vm_id), vm.state);
    if let Some(reason) = vm.waiting_reason {
        text.push_str(&format!(" ({reason})"));
    }
    if let (Some(stage), false) = (vm.current_stage, vm.state.is_final()) {
        text.push_str(&format!(", {stage}"));
        if let Some(detail) = &vm.stage_detail {
            text.push_str(&format!(" ({})", printable(detail)));
        }
    }
    if !vm.state.is_final() {
        text.push_str(&format!(", {:.0} %", vm.progress_percentage));
    }
    let rate: u64 = vm.disks.values().map(|disk| disk.bytes_per_second).sum();
    if rate > 0 && vm.state == JobState::Running {
        text.push_str(&format!(", {}/s", human_size(rate)));
    }
    if let Some(error) = &vm.error {
        text.push_str(&format!(": {}", printable(error)));
    }
    if let (Some(duration), true) = (vm.duration, vm.state.is_final()) {
        text.push_str(&format!(" in {}", human_duration(duration)));
    }
    text
}

/// Bars on a terminal: a line per VM, and one per disk that is being copied.
struct Bars {
    all: MultiProgress,
    lines: HashMap<String, ProgressBar>,
    vm_style: ProgressStyle,
    disk_style: ProgressStyle,
}

impl Bars {
    fn new() -> Bars {
        let style = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        Bars {
            all: MultiProgress::new(),
            lines: HashMap::new(),
            vm_style: style("{msg}"),
            disk_style: style(DISK_LINE),
        }
    }

    fn show(&mut self, progress: &BatchProgress) {
        for vm in progress.vms.values() {
            let head = self.line(&vm.vm_id, &self.vm_style.clone());
            head.set_message(line(&progress.batch_id, vm));
            if vm.state.is_final() {
                self.clear_disks_of(&vm.vm_id);
                continue;
            }
            for (disk_id, disk) in &vm.disks {
                let bar = self.line(&disk_key(&vm.vm_id, disk_id), &self.disk_style.clone());
                bar.set_prefix(printable(disk_id));
                bar.set_length(disk.bytes_total);
                bar.set_position(disk.bytes_done);
                bar.set_message(speed(
                    disk.bytes_total.saturating_sub(disk.bytes_done),
                    disk.bytes_per_second,
                ));
            }
        }
    }

    fn clear_disks_of(&mut self, vm_id: &str) {
        let all = &self.all;
        self.lines.retain(|key, bar| {
            let stays = !key.starts_with(&disk_key(vm_id, ""));
            if !stays {
                bar.finish_and_clear();
                all.remove(bar);
            }
            stays
        });
    }

    fn line(&mut self, key: &str, style: &ProgressStyle) -> ProgressBar {
        let all = &self.all;
        self.lines
            .entry(key.to_owned())
            .or_insert_with(|| all.add(ProgressBar::new(0).with_style(style.clone())))
            .clone()
    }

    fn finish(&self) {
        for bar in self.lines.values() {
            bar.abandon();
        }
    }
}

/// No id holds a NUL, so this is no VM's.
fn disk_key(vm_id: &str, disk_id: &str) -> String {
    format!("{vm_id}\0{disk_id}")
}

/// `412.0 MiB/s, 04:10 left`.
fn speed(left: u64, bytes_per_second: u64) -> String {
    match bytes_per_second {
        0 => String::new(),
        rate => format!("{}/s, {} left", human_size(rate), human_duration(left as f64 / rate as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_what_is_left_over_the_speed() {
        assert_eq!(speed(10 << 20, 1 << 20), "1.0 MiB/s, 00:10 left");
        assert_eq!(speed(10, 0), "");
    }
}

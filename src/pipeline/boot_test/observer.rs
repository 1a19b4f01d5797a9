//! Watching one guest come up: hears its console, its agent and its machine, types passphrases, and decides.
//!
//! Everything happens in [`Observer::tick`], on the thread that watches the process; nothing in it waits. Time
//! counts while the guest runs, so a pause costs none of it. What is not here: what the words mean
//! ([`super::judge`]), how the machine is made, and who runs it ([`super::hands`]).

use std::time::{Duration, Instant};

use serde_json::json;

use super::console::Console;
use super::hands::{Begun, Hands, Happening};
use super::judge::{Judge, Sign};
use super::line::JsonLine;
use super::record::Record;
use super::screen::Screen;
use super::serial::Serial;
use crate::model::boot::Verdict;
use crate::sys::process::Watch;

/// How often everything is looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// What follows the first bad line belongs to it: a panic has a trace, a shell a banner.
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// The picture at the end is taken at once, or not at all.
const PICTURE_WITHIN: Duration = Duration::from_secs(10);
/// An agent that opened its port answers when it has started.
const PING_EVERY: Duration = Duration::from_secs(3);
/// A guest that starts again this often does nothing else.
const MOST_RESTARTS: u32 = 3;
/// Trouble in which nothing else is said for so long is not going to end.
const STUCK_FOR: Duration = Duration::from_secs(120);
/// Whether a passphrase was heard shows after so long, and twice as long each further time.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// So often it is typed again.
const MOST_AGAIN: u32 = 4;
/// So many lines after it, trouble is behind a guest.
const LINES_BEYOND: u32 = 10;
/// A guest that has said this much has a serial console; fewer lines may be the firmware's and a boot loader's.
const LINES_OF_A_CONSOLE: u32 = 40;
/// Lines kept for whoever reads about the end.
const TAIL_LINES: usize = 20;

/// What was decided.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) evidence: String,
    /// Why it did not come up.
    pub(super) error: Option<String>,
}

/// What a guest is at, for whoever looks on.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// How long it has run.
    pub seconds: f64,
    /// How long it may.
    pub limit_s: f64,
    /// The last thing it said.
    pub saying: String,
}

/// Trouble that may pass.
struct Trouble {
    what: &'static str,
    line: String,
    since: Duration,
    lines_since: u32,
}

/// A passphrase that was typed, and nothing was said since.
struct Typed {
    line: String,
    at: Duration,
    again: u32,
}

enum Phase {
    /// The machine is made.
    Opening,
    /// The guest runs.
    Running,
    /// Decided: the console may say its last words.
    Ending { outcome: Outcome, until: Duration },
    /// A last picture is being taken.
    Picture { outcome: Outcome, until: Duration },
}

/// One guest under watch.
pub(super) struct Observer<'a, H> {
    hands: H,
    judge: Judge,
    passphrases: std::vec::IntoIter<String>,
    knows_passphrases: bool,
    answered: bool,
    typed: Option<Typed>,
    serial: Serial,
    console: Console,
    record: Record,
    screen: Option<Screen>,
    agent: Option<JsonLine>,
    phase: Phase,
    limit: Duration,
    ran: Duration,
    looked: Instant,
    silent_since: Duration,
    lines_heard: u32,
    trouble: Option<Trouble>,
    restarts: u32,
    agent_open: bool,
    pinged: Option<Duration>,
    decided_after: Duration,
    progress: &'a mut dyn FnMut(&Moment),
    told: Option<Duration>,
}

/// What an observer needs to know.
pub(super) struct Watched<'a, H> {
    pub(super) hands: H,
    pub(super) judge: Judge,
    pub(super) passphrases: Vec<String>,
    pub(super) serial: Serial,
    pub(super) record: Record,
    pub(super) screen: Option<Screen>,
    pub(super) limit: Duration,
    pub(super) progress: &'a mut dyn FnMut(&Moment),
}

impl<'a, H: Hands> Observer<'a, H> {
    pub(super) fn new(watched: Watched<'a, H>) -> Observer<'a, H> {
        Observer {
            hands: watched.hands,
            judge: watched.judge,
            knows_passphrases: !watched.passphrases.is_empty(),
            passphrases: watched.passphrases.into_iter(),
            answered: false,
            typed: None,
            serial: watched.serial,
            console: Console::new(),
            record: watched.record,
            screen: watched.screen,
            agent: None,
            phase: Phase::Opening,
            limit: watched.limit,
            ran: Duration::ZERO,
            looked: Instant::now(),
            silent_since: Duration::ZERO,
            lines_heard: 0,
            trouble: None,
            restarts: 0,
            agent_open: false,
            pinged: None,
            decided_after: Duration::ZERO,
            progress: watched.progress,
            told: None,
        }
    }

    /// How long the guest ran until it was decided.
    pub(super) fn seconds(&self) -> f64 {
        self.decided_after.as_secs_f64()
    }

    /// The last lines of the console.
    pub(super) fn tail(&self) -> String {
        self.console.tail(TAIL_LINES).join("\n")
    }

    /// The machine itself.
    #[cfg_attr(
        not(feature = "libvirt"),
        allow(dead_code, reason = "only of libvirt's there is more to be known")
    )]
    pub(super) fn hands(&mut self) -> &mut H {
        &mut self.hands
    }

    /// What was decided, with the last picture of the screen; none if the machine ended before.
    pub(super) fn finish(mut self) -> (Option<Outcome>, Option<Vec<u8>>) {
        let last = self.console.prompt();
        self.record.line(&last);
        let picture = self.screen.and_then(Screen::picture);
        match self.phase {
            Phase::Ending { outcome, .. } | Phase::Picture { outcome, .. } => (Some(outcome), picture),
            Phase::Opening | Phase::Running => (None, picture),
        }
    }

    /// Looks at everything once.
    pub(super) fn tick(&mut self) -> Watch {
        let now = Instant::now();
        if !self.hands.stands_still() {
            self.ran += now - self.looked;
        }
        self.looked = now;
        if matches!(self.phase, Phase::Opening) {
            return self.open();
        }
        if !self.hear_machine() {
            return Watch::End("it cannot be watched any more".to_owned());
        }
        self.hear_console();
        self.type_again();
        self.hear_agent();
        self.look_at_screen();
        self.tell();
        self.go_on()
    }

    fn open(&mut self) -> Watch {
        match self.hands.begin() {
            Begun::Runs(agent) => {
                self.agent = Some(agent);
                self.phase = Phase::Running;
                self.ran = Duration::ZERO;
                Watch::GoOn
            }
            Begun::Never => Watch::End("it does not begin".to_owned()),
            Begun::NotYet if self.ran > H::BEGINS_WITHIN => Watch::End("it does not begin".to_owned()),
            Begun::NotYet => Watch::GoOn,
        }
    }

    /// Whether there is anything more to be heard.
    fn hear_machine(&mut self) -> bool {
        let heard = self.hands.heard();
        let is_lost = heard.contains(&Happening::Lost);
        for happening in heard {
            self.happened(happening);
        }
        !is_lost
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Restarted => self.restarted(),
            Happening::Off(reason) => self.fail("the guest switched itself off", reason),
            Happening::Crashed => {
                self.fail("the guest crashed", "the machine was told so by its guest".to_owned());
            }
            Happening::Agent { is_open } => {
                self.agent_open = is_open;
                self.pinged = None;
            }
            Happening::Picture(picture) => {
                if let Some(screen) = &mut self.screen {
                    screen.take(picture);
                }
            }
            Happening::Lost => {}
        }
    }

    fn restarted(&mut self) {
        self.restarts += 1;
        self.trouble = None;
        if self.restarts > MOST_RESTARTS {
            self.fail("the guest starts over and over again", format!("restart {}", self.restarts));
        }
    }

    fn hear_console(&mut self) {
        let mut said = false;
        let (console, record) = (&mut self.console, &mut self.record);
        let mut fresh = Vec::new();
        self.serial.heard(&mut |bytes| {
            said = true;
            console.take(bytes);
            fresh.extend(console.fresh());
        });
        if !said {
            return;
        }
        self.silent_since = self.ran;
        for line in &fresh {
            record.line(line);
        }
        for line in &fresh {
            // Whatever was asked, this is another line.
            self.answered = false;
            self.lines_heard = self.lines_heard.saturating_add(1);
            if let Some(happening) = self.hands.said(line) {
                self.happened(happening);
            }
            let sign = self.judge.line(line);
            self.weigh(sign, true);
        }
        let prompt = self.console.prompt();
        let sign = self.judge.prompt(&prompt);
        self.weigh(sign, false);
    }

    fn weigh(&mut self, sign: Option<Sign>, finished: bool) {
        match sign {
            Some(Sign::Booted(evidence)) => {
                self.decide(Outcome { verdict: Verdict::Booted, evidence, error: None }, Duration::ZERO);
            }
            Some(Sign::Failed { what, line }) => self.fail(what, line),
            Some(Sign::Stuck { what, line }) => {
                let since = self.trouble.as_ref().filter(|trouble| trouble.what == what);
                let since = since.map_or(self.ran, |trouble| trouble.since);
                self.trouble = Some(Trouble { what, line, since, lines_since: 0 });
            }
            Some(Sign::Passphrase(prompt)) => self.answer(&prompt),
            None => {
                if finished && let Some(trouble) = &mut self.trouble {
                    trouble.lines_since += 1;
                    if trouble.lines_since > LINES_BEYOND {
                        self.trouble = None;
                    }
                }
            }
        }
    }

    /// Types the next passphrase, once for each time it is asked.
    fn answer(&mut self, prompt: &str) {
        if std::mem::replace(&mut self.answered, true) || !matches!(self.phase, Phase::Running) {
            return;
        }
        let asked = format!("it asks for the passphrase of an encrypted disk: {prompt}");
        match self.passphrases.next() {
            // What the key of that name sends.
            Some(passphrase) => {
                let line = format!("{passphrase}\r");
                self.serial.type_in(&line);
                self.typed = Some(Typed { line, at: self.ran, again: 0 });
            }
            _ if self.knows_passphrases => self.decide(
                undetermined(format!("{asked}; those that are known were typed and refused")),
                LAST_WORDS,
            ),
            _ if self.judge.expects() => {
                self.decide(undetermined(format!("{asked}; none is known")), Duration::ZERO);
            }
            _ => {
                let evidence =
                    format!("{asked}; none is known, and the prompt itself shows that the guest starts");
                self.decide(Outcome { verdict: Verdict::Booted, evidence, error: None }, Duration::ZERO);
            }
        }
    }

    /// Who asks for a passphrase may throw away what was typed before it began to listen. As long as nothing was said since, it is typed
    /// again; a guest that is still at work with the first one meets the second as an answer to nothing.
    fn type_again(&mut self) {
        let Some(typed) = &mut self.typed else { return };
        let was_heard = self.silent_since > typed.at;
        if was_heard || typed.again == MOST_AGAIN || !matches!(self.phase, Phase::Running) {
            self.typed = None;
        } else if self.ran - typed.at >= AGAIN_AFTER * (1 << typed.again) {
            self.serial.type_in(&typed.line);
            typed.again += 1;
        }
    }

    fn hear_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        let answers = agent.heard();
        if answers.iter().any(|answer| answer.get("return").is_some()) && !self.judge.expects() {
            let evidence = "the guest agent answered".to_owned();
            self.decide(Outcome { verdict: Verdict::Booted, evidence, error: None }, Duration::ZERO);
            return;
        }
        // Nothing is said into a port that nobody has opened: it would be kept and answered many times over.
        if self.agent_open && self.pinged.is_none_or(|pinged| self.ran > pinged + PING_EVERY) {
            self.pinged = Some(self.ran);
            agent.say(&json!({ "execute": "guest-ping" }));
        }
    }

    /// A guest that uses its serial console tells there how it is; only one that does not is watched by its screen.
    fn look_at_screen(&mut self) {
        if self.lines_heard > LINES_OF_A_CONSOLE {
            return;
        }
        let (Some(screen), Phase::Running) = (&mut self.screen, &self.phase) else { return };
        let hands = &mut self.hands;
        if screen.wants_one(self.ran, self.silent_since, || hands.processor_time()) {
            hands.take_picture();
        }
        if let Some(evidence) = screen.stands_still() {
            self.decide(undetermined(evidence), Duration::ZERO);
        }
    }

    fn tell(&mut self) {
        if !matches!(self.phase, Phase::Running)
            || self.told.is_some_and(|told| self.ran < told + Duration::from_secs(1))
        {
            return;
        }
        self.told = Some(self.ran);
        let saying = self.console.tail(1).pop().unwrap_or_default();
        let moment = Moment { seconds: self.ran.as_secs_f64(), limit_s: self.limit.as_secs_f64(), saying };
        (self.progress)(&moment);
    }

    fn go_on(&mut self) -> Watch {
        match &self.phase {
            Phase::Running => {
                let stuck = self.trouble.as_ref().is_some_and(|trouble| self.ran > trouble.since + STUCK_FOR);
                if stuck || self.ran > self.limit {
                    self.time_is_over();
                }
            }
            Phase::Ending { outcome, until } if self.ran >= *until => {
                let Some(screen) = &mut self.screen else {
                    return Watch::End("decided".to_owned());
                };
                screen.wants_a_last_one();
                self.hands.take_picture();
                self.phase = Phase::Picture { outcome: outcome.clone(), until: self.ran + PICTURE_WITHIN };
            }
            Phase::Picture { until, .. } => {
                let taken = self.screen.as_ref().is_none_or(Screen::is_done);
                if taken || self.ran > *until {
                    return Watch::End("decided".to_owned());
                }
            }
            Phase::Opening | Phase::Ending { .. } => {}
        }
        Watch::GoOn
    }

    fn time_is_over(&mut self) {
        let within = format!("within {:.0} s", self.limit.as_secs_f64());
        if let Some(trouble) = self.trouble.take() {
            self.fail(trouble.what, trouble.line);
            return;
        }
        let evidence = match (self.judge.saw_login(), self.silent_since == Duration::ZERO) {
            (true, _) => format!("a login prompt, but not the expected text {within}"),
            (_, true) => format!("nothing on the serial console {within}"),
            (_, false) => format!("neither a login prompt nor a known failure {within}"),
        };
        self.decide(undetermined(evidence), Duration::ZERO);
    }

    fn fail(&mut self, what: &str, line: String) {
        let mut error = what.to_owned();
        if let Some(trouble) = &self.trouble {
            error.push_str(&format!(" (before that: {})", trouble.line));
        }
        let outcome = Outcome { verdict: Verdict::Failed, evidence: line, error: Some(error) };
        self.decide(outcome, LAST_WORDS);
    }

    /// The first decision counts: what a guest says after it belongs to it.
    fn decide(&mut self, outcome: Outcome, wait: Duration) {
        if matches!(self.phase, Phase::Running) {
            self.decided_after = self.ran;
            self.phase = Phase::Ending { outcome, until: self.ran + wait };
        }
    }
}

fn undetermined(evidence: String) -> Outcome {
    Outcome { verdict: Verdict::Undetermined, evidence, error: None }
}

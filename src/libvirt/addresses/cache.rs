//! What is remembered of machines' addresses: each method's answer for as long as it is worth something, and who is being asked.
//!
//! All of it is of one run of a machine: with another id or state, or when it is [dropped](Cache::forget), nothing of it is taken for true, and
//! answers to what was asked before are thrown away. An agent is never asked twice at a time, dropped or not: one that hangs holds one thread
//! for as long as its machine runs, however often it is wanted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cards::Facts;
use super::merge::Finding;
use super::methods::Method;
use crate::libvirt::domains::State;

/// How long it is remembered that nothing was found, or that a method failed.
const NOTHING_FOR: Duration = Duration::from_secs(1);
/// More machines than one host has; beyond them the cache begins anew.
const MOST: usize = 4096;

/// What tells one run of a machine from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) id: Option<u32>,
    pub(super) state: State,
}

/// What a method answered: what it found, or why it failed.
pub(super) type Outcome = Result<Vec<Finding>, String>;

/// An answer, and how long it took.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) outcome: Arc<Outcome>,
    pub(super) took: Duration,
    at: Instant,
}

impl Answer {
    /// The addresses in it.
    pub(super) fn found(&self) -> &[Finding] {
        self.outcome.as_ref().as_ref().map(Vec::as_slice).unwrap_or_default()
    }
}

/// One machine.
#[derive(Debug)]
struct Known {
    name: String,
    run: Run,
    /// Which of all that were ever known this is: answers to others are not taken.
    ticket: u64,
    facts: Option<Arc<Facts>>,
    answers: BTreeMap<Method, Answer>,
    asked: BTreeMap<Method, Asked>,
}

/// Somebody is asking.
#[derive(Debug)]
struct Asked {
    since: Instant,
    /// Which of all questions.
    number: u64,
    /// The machine was dropped since: what is answered is not taken.
    dropped: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Cache {
    machines: HashMap<String, Known>,
    tickets: u64,
    questions: u64,
    statistics: Statistics,
}

/// How often what was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Answers for which nobody was asked.
    pub hits: u64,
    /// Answers for which somebody was.
    pub misses: u64,
    /// Of each method that was ever used.
    pub methods: BTreeMap<Method, MethodStatistics>,
}

/// How often one method was used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MethodStatistics {
    /// It was asked.
    pub attempts: u64,
    /// It found an address.
    pub successes: u64,
    /// It did not find out.
    pub failures: u64,
    /// It has answered, in whichever way.
    pub answers: u64,
    /// How long an answer took, milliseconds.
    pub mean_ms: f64,
}

impl Known {
    fn forget(&mut self) {
        self.facts = None;
        self.answers.clear();
        // The others answer at once, and may be asked again.
        self.asked.retain(|method, _| *method == Method::Agent);
        self.asked.values_mut().for_each(|asked| asked.dropped = true);
    }
}

impl MethodStatistics {
    fn note(&mut self, took: Duration, outcome: &Outcome) {
        match outcome {
            Ok(found) if found.is_empty() => {}
            Ok(_) => self.successes += 1,
            Err(_) => self.failures += 1,
        }
        self.answers += 1;
        let ms = took.as_secs_f64() * 1000.0;
        self.mean_ms += (ms - self.mean_ms) / self.answers as f64;
    }
}

impl Cache {
    /// Begins to look at a run of a machine; what is known of another run of it goes. Gives the ticket.
    pub(super) fn begin(&mut self, uuid: &str, name: &str, run: Run) -> u64 {
        if let Some(known) = self.machines.get_mut(uuid).filter(|known| known.run == run) {
            // It may have been renamed.
            known.name.clear();
            known.name.push_str(name);
            return known.ticket;
        }
        if self.machines.len() >= MOST {
            self.machines.clear();
        }
        self.tickets += 1;
        let known = Known {
            name: name.to_owned(),
            run,
            ticket: self.tickets,
            facts: None,
            answers: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        self.machines.insert(uuid.to_owned(), known);
        self.tickets
    }

    fn known(&mut self, uuid: &str, ticket: u64) -> Option<&mut Known> {
        self.machines.get_mut(uuid).filter(|known| known.ticket == ticket)
    }

    /// What a method has answered, if that is still worth something.
    pub(super) fn answer(&mut self, uuid: &str, ticket: u64, method: Method) -> Option<Answer> {
        let answer = self.last_answer(uuid, ticket, method)?;
        let lifetime = if answer.found().is_empty() { NOTHING_FOR } else { method.lifetime() };
        (answer.at.elapsed() < lifetime).then_some(answer)
    }

    /// What a method has answered, unless it is being asked again.
    pub(super) fn last_answer(&mut self, uuid: &str, ticket: u64, method: Method) -> Option<Answer> {
        self.known(uuid, ticket)?.answers.get(&method).cloned()
    }

    /// Notes that somebody asks, and gives the number of the question; `None`: somebody does already, or the ticket has run out.
    pub(super) fn ask(&mut self, uuid: &str, ticket: u64, method: Method) -> Option<u64> {
        let number = self.questions + 1;
        let known = self.known(uuid, ticket)?;
        if known.asked.contains_key(&method) {
            return None;
        }
        known.asked.insert(method, Asked { since: Instant::now(), number, dropped: false });
        known.answers.remove(&method);
        self.questions = number;
        self.statistics.methods.entry(method).or_default().attempts += 1;
        Some(number)
    }

    /// Since when somebody has been asking.
    pub(super) fn asked_since(&mut self, uuid: &str, ticket: u64, method: Method) -> Option<Instant> {
        self.known(uuid, ticket)?.asked.get(&method).map(|asked| asked.since)
    }

    /// Takes the answer to a question, unless it has come too late.
    pub(super) fn answered(
        &mut self,
        uuid: &str,
        (ticket, number): (u64, u64),
        method: Method,
        took: Duration,
        outcome: Outcome,
    ) {
        self.statistics.methods.entry(method).or_default().note(took, &outcome);
        let Some(known) = self.known(uuid, ticket) else { return };
        let is_it = |asked: &Asked| asked.number == number;
        if known.asked.get(&method).is_some_and(is_it)
            && let Some(asked) = known.asked.remove(&method)
            && !asked.dropped
        {
            known.answers.insert(method, Answer { outcome: Arc::new(outcome), took, at: Instant::now() });
        }
    }

    /// What the definition says, as it was kept.
    pub(super) fn facts(&mut self, uuid: &str, ticket: u64) -> Option<Arc<Facts>> {
        self.known(uuid, ticket)?.facts.clone()
    }

    /// Keeps it.
    pub(super) fn keep_facts(&mut self, uuid: &str, ticket: u64, facts: Arc<Facts>) {
        if let Some(known) = self.known(uuid, ticket) {
            known.facts = Some(facts);
        }
    }

    /// Notes whether anybody had to be asked.
    pub(super) fn count(&mut self, hit: bool) {
        if hit { self.statistics.hits += 1 } else { self.statistics.misses += 1 }
    }

    /// Drops a machine, by name or UUID.
    pub(super) fn forget(&mut self, machine: &str) {
        let are_it =
            self.machines.iter_mut().filter(|(uuid, known)| *uuid == machine || known.name == machine);
        are_it.for_each(|(_, known)| known.forget());
    }

    /// Drops all.
    pub(super) fn forget_all(&mut self) {
        self.machines.values_mut().for_each(Known::forget);
    }

    /// How often what was done.
    pub(super) fn statistics(&self) -> Statistics {
        self.statistics.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: Run = Run { id: Some(1), state: State::Running };

    fn found() -> Outcome {
        let address = "10.0.0.7".parse().unwrap();
        Ok(vec![Finding { address, prefix: None, mac: None, guest_interface: None }])
    }

    /// Asks and answers.
    fn note(cache: &mut Cache, uuid: &str, ticket: u64, method: Method, took: u64, outcome: Outcome) {
        let number = cache.ask(uuid, ticket, method).unwrap();
        cache.answered(uuid, (ticket, number), method, Duration::from_millis(took), outcome);
    }

    #[test]
    fn an_answer_is_kept_until_the_machine_runs_anew_or_is_dropped() {
        let mut cache = Cache::default();
        let ticket = cache.begin("u", "web", RUNS);
        let number = cache.ask("u", ticket, Method::Lease).unwrap();
        assert_eq!(cache.ask("u", ticket, Method::Lease), None);
        cache.answered("u", (ticket, number), Method::Lease, Duration::from_millis(4), found());
        assert!(cache.answer("u", ticket, Method::Lease).is_some());
        assert_eq!(cache.begin("u", "web", RUNS), ticket);
        let late = cache.ask("u", ticket, Method::Arp).unwrap();
        // Another run, and what is answered about the one before.
        let next = cache.begin("u", "web", Run { id: Some(2), ..RUNS });
        cache.answered("u", (ticket, late), Method::Arp, Duration::from_millis(8), found());
        for ticket in [ticket, next] {
            assert!(cache.answer("u", ticket, Method::Lease).is_none());
            assert!(cache.answer("u", ticket, Method::Arp).is_none());
        }
        // Dropped by either name, and nobody else with it.
        let other = cache.begin("v", "db", RUNS);
        note(&mut cache, "v", other, Method::Arp, 1, found());
        for name in ["web", "u"] {
            let ticket = cache.begin("u", "web", RUNS);
            note(&mut cache, "u", ticket, Method::Arp, 1, found());
            cache.forget(name);
            assert!(cache.answer("u", ticket, Method::Arp).is_none());
        }
        assert!(cache.answer("v", other, Method::Arp).is_some());
        cache.forget_all();
        assert!(cache.answer("v", other, Method::Arp).is_none());
    }

    #[test]
    fn what_is_answered_about_a_time_before_a_machine_was_dropped_is_not_taken() {
        let mut cache = Cache::default();
        let ticket = cache.begin("u", "web", RUNS);
        let agent = cache.ask("u", ticket, Method::Agent).unwrap();
        let lease = cache.ask("u", ticket, Method::Lease).unwrap();
        cache.forget("web");
        // An agent is not asked again as long as it has not answered; the others are.
        assert_eq!(cache.ask("u", ticket, Method::Agent), None);
        let again = cache.ask("u", ticket, Method::Lease).unwrap();
        cache.answered("u", (ticket, lease), Method::Lease, Duration::ZERO, found());
        cache.answered("u", (ticket, agent), Method::Agent, Duration::ZERO, found());
        for method in [Method::Agent, Method::Lease] {
            assert!(cache.answer("u", ticket, method).is_none());
        }
        cache.answered("u", (ticket, again), Method::Lease, Duration::ZERO, found());
        assert!(cache.answer("u", ticket, Method::Lease).is_some());
        assert!(cache.ask("u", ticket, Method::Agent).is_some());
    }

    #[test]
    fn that_nothing_was_found_is_remembered_for_a_moment_only() {
        let mut cache = Cache::default();
        let ticket = cache.begin("u", "web", RUNS);
        for outcome in [Ok(Vec::new()), Err("no agent".to_owned())] {
            note(&mut cache, "u", ticket, Method::Agent, 0, outcome);
            assert!(cache.answer("u", ticket, Method::Agent).is_some());
            std::thread::sleep(NOTHING_FOR);
            assert!(cache.answer("u", ticket, Method::Agent).is_none());
        }
    }

    #[test]
    fn each_method_has_its_numbers() {
        let mut cache = Cache::default();
        let ticket = cache.begin("u", "web", RUNS);
        for (took, outcome) in [(2, found()), (4, Ok(Vec::new())), (6, Err("x".to_owned()))] {
            note(&mut cache, "u", ticket, Method::Lease, took, outcome);
        }
        cache.count(true);
        cache.count(false);
        let statistics = cache.statistics();
        assert_eq!((statistics.hits, statistics.misses), (1, 1));
        let lease = &statistics.methods[&Method::Lease];
        assert_eq!((lease.attempts, lease.answers, lease.successes, lease.failures), (3, 3, 1, 1));
        assert!((lease.mean_ms - 4.0).abs() < 0.001, "{lease:?}");
    }
}

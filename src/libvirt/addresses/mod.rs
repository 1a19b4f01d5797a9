//! The addresses of a machine: asked for in several ways at a time, merged, and remembered.
//!
//! A [`Finder`] serves one libvirt, from any number of threads. One that stays [follows](Finder::follow) what happens to machines. What is not
//! here: what an address is worth to somebody who wants to reach the machine: one that is known is not one that answers.

mod asking;
mod cache;
mod cards;
mod following;
mod merge;
mod methods;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use virt::domain::Domain;

use super::domains::State;
use super::failure::told;
use super::link::Link;
use super::networks::{askable, shown};
use crate::model::error::{Error, Kind, Result};
use asking::Asker;
use cache::{Answer, Cache, Run};
use cards::Facts;

pub use cache::{MethodStatistics, Statistics};
pub use following::Following;
pub use merge::{Address, Scope};
pub use methods::Method;

/// What has not answered by then is not waited for any longer.
const WITHIN: Duration = Duration::from_secs(5);
/// Once the others have found an address, the agent is not waited for any longer than this.
const AGENT_WITHIN: Duration = Duration::from_millis(250);
/// How often it is looked again while an address is waited for.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The addresses of a machine.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Its name.
    pub domain: String,
    /// Its UUID.
    pub uuid: String,
    /// How it is.
    pub state: State,
    /// Its addresses, the most certain first.
    pub addresses: Vec<Address>,
    /// What was done to find them.
    pub methods: Vec<Used>,
    /// Why there are none but those that were configured.
    pub note: Option<String>,
    /// Nobody was asked: all of it was remembered.
    pub cached: bool,
    /// How long it took altogether, milliseconds.
    pub took_ms: f64,
}

/// One method of those that were used.
#[derive(Debug, Clone, Serialize)]
pub struct Used {
    /// Which.
    pub name: Method,
    /// How long it took when it was asked, milliseconds.
    pub took_ms: f64,
    /// How many addresses it found.
    pub found: usize,
    /// It was not asked now.
    pub cached: bool,
    /// Why it did not find out.
    pub error: Option<String>,
}

/// Finds addresses, and remembers them.
#[derive(Debug, Default)]
pub struct Finder {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    cache: Mutex<Cache>,
    /// Somebody has answered.
    answered: Condvar,
}

impl Shared {
    /// A thread that panicked has left nothing half-changed: every change is one call.
    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Finder {
    /// One that remembers nothing yet.
    #[must_use]
    pub fn new() -> Finder {
        Finder::default()
    }

    /// Drops what is remembered of a machine, by name or UUID: it has started, stopped, moved or changed its cards.
    pub fn forget(&self, machine: &str) {
        self.shared.lock().forget(machine);
        self.shared.answered.notify_all();
    }

    /// Drops all that is remembered: events may have been missed.
    pub fn forget_all(&self) {
        self.shared.lock().forget_all();
        self.shared.answered.notify_all();
    }

    /// How often what was done.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.lock().statistics()
    }

    /// The addresses of a machine, by these methods (none: all). A machine that is off has only those that were configured.
    pub fn find(&self, link: &Link, name: &str, wanted: &[Method]) -> Result<Found> {
        let begun = Instant::now();
        let domain = lookup(link, name)?;
        let failed = |error| told(&format!("cannot look at {}", shown(name)), &error);
        let uuid = domain.get_uuid_string().map_err(failed)?;
        let state = State::from_number(domain.get_state().map_err(failed)?.0);
        let run = Run { id: domain.get_id(), state };
        let is_off = run.id.is_none();
        let wanted: Vec<Method> = (Method::ALL.into_iter())
            .filter(|method| wanted.is_empty() || wanted.contains(method))
            .filter(|method| !is_off || *method == Method::Configured)
            .collect();

        let ticket = self.shared.lock().begin(&uuid, name, run);
        let machine = Machine { shared: &self.shared, uuid: &uuid, ticket };
        let asked = machine.ask(link, &domain, &wanted).map_err(failed)?;
        let answers = machine.answers(&wanted);
        let facts = self.shared.lock().facts(&uuid, ticket).unwrap_or_default();
        self.shared.lock().count(asked.is_empty());

        let findings = answers.iter().flat_map(|(method, answer)| {
            let found = answer.as_ref().map(Answer::found).unwrap_or_default();
            found.iter().map(|finding| (*method, finding))
        });
        let note = format!("{} does not run: only what was configured inside it is known", shown(name));
        Ok(Found {
            addresses: merge::merge(&facts, findings),
            methods: answers
                .iter()
                .map(|(method, answer)| used(*method, answer, asked.contains(method)))
                .collect(),
            domain: name.to_owned(),
            uuid,
            state,
            note: is_off.then_some(note),
            cached: asked.is_empty(),
            took_ms: milliseconds(begun.elapsed()),
        })
    }

    /// Waits until a machine has an address of use that is at least so certain.
    pub fn wait(
        &self,
        link: &Link,
        name: &str,
        wanted: &[Method],
        confidence: f64,
        timeout: Duration,
    ) -> Result<Found> {
        let begun = Instant::now();
        loop {
            let mut found = self.find(link, name, wanted)?;
            let is_enough = |address: &Address| address.is_of_use() && address.confidence >= confidence;
            if found.addresses.iter().any(is_enough) {
                found.took_ms = milliseconds(begun.elapsed());
                return Ok(found);
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(in_vain(&found, confidence, timeout));
            }
            std::thread::sleep(AGAIN_AFTER.min(left));
        }
    }
}

/// One run of a machine, as it is looked at.
struct Machine<'m> {
    shared: &'m Arc<Shared>,
    uuid: &'m str,
    ticket: u64,
}

impl Machine<'_> {
    /// Has all those asked whose answers are not known. Gives which.
    fn ask(
        &self,
        link: &Link,
        domain: &Domain,
        wanted: &[Method],
    ) -> Result<Vec<Method>, virt::error::Error> {
        let unknown: Vec<Method> = {
            let mut cache = self.shared.lock();
            let is_unknown = |method: &&Method| {
                cache.answer(self.uuid, self.ticket, **method).is_none()
                    && cache.asked_since(self.uuid, self.ticket, **method).is_none()
            };
            wanted.iter().filter(is_unknown).copied().collect()
        };
        if unknown.is_empty() {
            return Ok(unknown);
        }
        // Cards may have been plugged in since the definition was read.
        let facts = Arc::new(Facts::read(&domain.get_xml_desc(0)?));
        self.shared.lock().keep_facts(self.uuid, self.ticket, Arc::clone(&facts));
        let asker = Arc::new(Asker::new(link, domain, &facts));
        for method in &unknown {
            // Out of the condition, whose lock would be held for as long as its block.
            let question = self.shared.lock().ask(self.uuid, self.ticket, *method);
            if let Some(number) = question {
                self.begin(*method, number, Arc::clone(&asker));
            }
        }
        Ok(unknown)
    }

    fn begin(&self, method: Method, number: u64, asker: Arc<Asker>) {
        let (shared, uuid, asked) = (Arc::clone(self.shared), self.uuid.to_owned(), (self.ticket, number));
        let work = move || {
            let begun = Instant::now();
            let outcome = asker.ask(method);
            // Before anybody is told: whoever is told may end the program, and a connection is closed in good order.
            drop(asker);
            shared.lock().answered(&uuid, asked, method, begun.elapsed(), outcome);
            shared.answered.notify_all();
        };
        let thread = std::thread::Builder::new().name(format!("address-{}", method.name()));
        if let Err(error) = thread.spawn(work) {
            let outcome = Err(format!("cannot start a thread: {error}"));
            self.shared.lock().answered(self.uuid, asked, method, Duration::ZERO, outcome);
        }
    }

    /// The answers, as far as they come in time.
    fn answers(&self, wanted: &[Method]) -> Vec<(Method, Result<Answer, String>)> {
        let mut cache = self.shared.lock();
        loop {
            let answers: Vec<(Method, Option<Answer>)> = wanted
                .iter()
                .map(|method| (*method, cache.last_answer(self.uuid, self.ticket, *method)))
                .collect();
            let is_found = answers.iter().any(|(method, answer)| {
                *method != Method::Configured
                    && answer.as_ref().is_some_and(|answer| !answer.found().is_empty())
            });
            let pending = answers.iter().filter(|(_, answer)| answer.is_none());
            let since = |cache: &mut Cache, method| cache.asked_since(self.uuid, self.ticket, method);
            let until = pending.filter_map(|(method, _)| {
                let patience = if *method == Method::Agent && is_found { AGENT_WITHIN } else { WITHIN };
                since(&mut cache, *method).map(|since| since + patience)
            });
            let until = until.max().map(|until| until.saturating_duration_since(Instant::now()));
            let Some(left) = until.filter(|left| !left.is_zero()) else {
                let silent = |cache: &mut Cache, method| match since(cache, method) {
                    Some(since) => format!("no answer for {:.1} s", since.elapsed().as_secs_f64()),
                    None => "the machine changed while it was asked".to_owned(),
                };
                let told = |(method, answer): (Method, Option<Answer>)| {
                    (method, answer.ok_or_else(|| silent(&mut cache, method)))
                };
                return answers.into_iter().map(told).collect();
            };
            cache = self.shared.answered.wait_timeout(cache, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lookup(link: &Link, name: &str) -> Result<Domain> {
    let name = askable("machine", name)?;
    Domain::lookup_by_name(link.raw(), name)
        .map_err(|error| told(&format!("cannot look at {}", shown(name)), &error))
}

fn used(method: Method, answer: &Result<Answer, String>, asked: bool) -> Used {
    let (took, found, error) = match answer {
        Ok(answer) => (answer.took, answer.found().len(), answer.outcome.as_ref().as_ref().err().cloned()),
        Err(silent) => (Duration::ZERO, 0, Some(silent.clone())),
    };
    Used { name: method, took_ms: milliseconds(took), found, cached: !asked, error }
}

/// To a thousandth: an answer that is remembered takes less than one.
fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

fn in_vain(found: &Found, confidence: f64, timeout: Duration) -> Error {
    let name = shown(&found.domain);
    let best = match found.addresses.iter().find(|address| address.is_of_use()) {
        Some(best) => format!("the most certain is {} ({})", best.address, best.confidence),
        None => "none was found".to_owned(),
    };
    let seconds = timeout.as_secs_f64();
    let cause = format!("{name} has no address of confidence {confidence} or more after {seconds} s: {best}");
    let error = Error::new(Kind::Network, cause);
    if found.note.is_some() {
        error.advice("it does not run: start it")
    } else {
        error.advice("see what each method says (`hyper2kvm libvirt addresses`), and the guest's console")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::link::Access;

    #[test]
    fn addresses_are_asked_for_once_and_then_remembered_until_they_are_dropped() {
        let link = Link::open("test:///default", Access::Changes).unwrap();
        let finder = Finder::new();
        let find = || finder.find(&link, "test", &[Method::Lease]).unwrap();
        let found = find();
        assert!(!found.cached && found.state == State::Running && found.note.is_none(), "{found:?}");
        assert_eq!(found.methods.len(), 1);
        assert!(found.methods[0].error.is_none() || found.methods[0].found == 0, "{found:?}");
        assert!(find().cached);
        finder.forget("test");
        assert!(!find().cached);
        finder.forget_all();
        assert!(!find().cached);
        let statistics = finder.statistics();
        assert_eq!((statistics.hits, statistics.misses), (1, 3));
        assert_eq!(statistics.methods[&Method::Lease].attempts, 3);
    }

    #[test]
    fn a_machine_that_nobody_knows_and_names_that_none_can_have_are_told() {
        let link = Link::open("test:///default", Access::Reads).unwrap();
        let finder = Finder::new();
        for (name, kind) in [("no such", Kind::Libvirt), ("a\0b", Kind::Manifest), ("", Kind::Manifest)] {
            let error = finder.find(&link, name, &[]).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.details().advice.is_some());
        }
    }
}

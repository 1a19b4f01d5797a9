//! The pre-flight in words: what a rule is, how bad a finding is, who may say otherwise, and what they all come to.
//!
//! A finding is an [`Error`] with the name of the rule that it breaks and a severity; so whatever fails has the kind, the advice and the way of being
//! tried again of what really is wrong. What is not here: looking (see `pipeline::preflight`).

mod rules;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Disposition, Error, Kind};
use super::plan::Preflight;
pub use rules::{RULES, Rule};

/// Findings of validators that an administrator has written are told under this name, and theirs.
pub const CUSTOM: &str = "custom";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// A person should look at it; the work goes on.
    Warning,
    /// The work does not begin.
    Error,
    /// The same, and it is told first.
    Critical,
}

impl Severity {
    /// The name as people and scripts see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
            Severity::Critical => "critical",
        }
    }

    /// Whether the work does not begin.
    #[must_use]
    pub fn fails(self) -> bool {
        self >= Severity::Error
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a manifest or the configuration makes of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It is not told at all.
    Off,
    /// Good to know.
    Info,
    /// A person should look at it; the work goes on.
    Warning,
    /// The work does not begin.
    Error,
    /// The same, and it is told first.
    Critical,
}

impl Weight {
    /// How bad a breach of the rule is then; none: it is not told.
    #[must_use]
    pub fn severity(self) -> Option<Severity> {
        match self {
            Weight::Off => None,
            Weight::Info => Some(Severity::Info),
            Weight::Warning => Some(Severity::Warning),
            Weight::Error => Some(Severity::Error),
            Weight::Critical => Some(Severity::Critical),
        }
    }

    /// Whether the work begins in spite of a breach.
    #[must_use]
    pub fn lets_pass(self) -> bool {
        self < Weight::Error
    }
}

/// By the name of a rule.
pub type Weights = BTreeMap<String, Weight>;

/// What holds where the configuration says one thing and a manifest another: what the configuration names is raised by a manifest and never lowered.
#[must_use]
pub fn together(configured: &Weights, manifest: &Weights) -> Weights {
    let mut weights = configured.clone();
    for (rule, weight) in manifest {
        let held = weights.entry(rule.clone()).or_insert(*weight);
        *held = (*held).max(*weight);
    }
    weights
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The rule that it breaks.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// The disk, the card or the field that it is about.
    pub about: Option<String>,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// What kind of failure it is where it fails the pre-flight.
    pub kind: Kind,
}

/// The same with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// As it is told.
    pub finding: Finding,
    /// What the work fails with, if it does.
    pub error: Error,
}

/// How many there are of each severity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Of the worst.
    pub critical: u64,
    /// That fail it, too.
    pub error: u64,
    /// That a person should look at.
    pub warning: u64,
    /// That are good to know.
    pub info: u64,
}

impl Counts {
    fn add(&mut self, severity: Severity) {
        let count = match severity {
            Severity::Critical => &mut self.critical,
            Severity::Error => &mut self.error,
            Severity::Warning => &mut self.warning,
            Severity::Info => &mut self.info,
        };
        *count += 1;
    }
}

/// What a pre-flight came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Validation {
    /// Whether the work may begin.
    pub ok: bool,
    /// How much was looked at.
    pub level: Preflight,
    /// How many there are of each severity.
    pub counts: Counts,
    /// What was found, the worst first.
    pub results: Vec<Finding>,
}

impl Validation {
    /// Of all that was found.
    #[must_use]
    pub fn of(level: Preflight, mut results: Vec<Finding>) -> Validation {
        results.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let mut counts = Counts::default();
        results.iter().for_each(|finding| counts.add(finding.severity));
        Validation { ok: counts.critical + counts.error == 0, level, counts, results }
    }
}

/// What is found, weighed as it comes.
#[derive(Debug)]
pub struct Findings {
    weights: Weights,
    found: Vec<Raised>,
}

impl Findings {
    /// Nothing yet.
    #[must_use]
    pub fn new(weights: Weights) -> Findings {
        Findings { weights, found: Vec::new() }
    }

    /// A breach of a rule, as bad as the rule says.
    pub fn add(&mut self, rule: &str, about: Option<&str>, error: Error) {
        // One that nobody knows is a mistake of ours, and must not be harmless for it.
        let severity = Rule::named(rule).map_or(Severity::Error, |rule| rule.severity);
        self.at(severity, rule, about, error);
    }

    /// A breach that is as bad as this here, unless somebody says otherwise.
    pub fn at(&mut self, severity: Severity, rule: &str, about: Option<&str>, error: Error) {
        if let Some(severity) = weighed(rule, severity, self.weights.get(rule).copied()) {
            self.raise(rule, severity, about, error);
        }
    }

    /// What a validator of the administrator's has found: nobody else's word counts.
    pub fn raise(&mut self, rule: &str, severity: Severity, about: Option<&str>, error: Error) {
        let details = error.details();
        let about = about.map(str::to_owned).or_else(|| details.place.field.clone());
        let finding = Finding {
            rule: rule.to_owned(),
            severity,
            message: details.cause.clone(),
            about,
            suggestion: details.advice.clone(),
            kind: details.kind,
        };
        if !self.found.iter().any(|known| known.finding == finding) {
            self.found.push(Raised { finding, error });
        }
    }

    /// An error by the rule that it names, or else by this one.
    pub fn error(&mut self, otherwise: &str, about: Option<&str>, error: Error) {
        let rule = error.details().rule.clone().unwrap_or_else(|| otherwise.to_owned());
        self.add(&rule, about, error);
    }

    /// In the order in which it was found.
    #[must_use]
    pub fn found(&self) -> &[Raised] {
        &self.found
    }

    /// As it is told.
    pub fn told(&self) -> impl Iterator<Item = &Finding> {
        self.found.iter().map(|raised| &raised.finding)
    }

    /// What the work fails with: the worst, and with it all else that fails.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        let mut failing: Vec<&Raised> =
            self.found.iter().filter(|raised| raised.finding.severity.fails()).collect();
        // What would pass by itself does not matter where something else stays.
        failing.sort_by_key(|raised| {
            let stays = raised.error.disposition() == Disposition::Permanent;
            (std::cmp::Reverse(raised.finding.severity), !stays)
        });
        let (first, others) = failing.split_first()?;
        let others: Vec<&str> = others.iter().map(|raised| raised.finding.message.as_str()).collect();
        Some(first.error.clone().rule(first.finding.rule.clone()).and_also(&others))
    }
}

/// How bad a breach is, with what somebody says of the rule; none: it is not told.
fn weighed(rule: &str, severity: Severity, weight: Option<Weight>) -> Option<Severity> {
    let Some(weight) = weight else { return Some(severity) };
    let wanted = weight.severity();
    let guarded = Rule::named(rule).is_none_or(|rule| rule.guarded);
    match guarded && severity.fails() {
        true => Some(wanted.map_or(severity, |wanted| wanted.max(severity))),
        false => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(given: &[(&str, Weight)]) -> Weights {
        given.iter().map(|(rule, weight)| ((*rule).to_owned(), *weight)).collect()
    }

    fn broken(kind: Kind, cause: &str) -> Error {
        Error::new(kind, cause).advice("mend it")
    }

    #[test]
    fn every_rule_has_one_name_with_its_group_in_it() {
        for (number, rule) in RULES.iter().enumerate() {
            let (group, name) = rule.name.split_once('.').unwrap();
            assert!(
                ["manifest", "source", "host", "target", "disk", "guest", "network", "domain", "libvirt"]
                    .contains(&group),
                "{group}"
            );
            assert!(
                !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
            );
            assert!(RULES[..number].iter().all(|other| other.name != rule.name), "{}", rule.name);
            assert!(!rule.guarded || rule.severity.fails(), "{} guards nothing", rule.name);
        }
    }

    #[test]
    fn a_rule_is_lowered_raised_and_switched_off_by_name() {
        for (weight, expected) in [
            (Weight::Off, None),
            (Weight::Info, Some(Severity::Info)),
            (Weight::Warning, Some(Severity::Warning)),
            (Weight::Critical, Some(Severity::Critical)),
        ] {
            let mut findings = Findings::new(weights(&[("guest.hibernated", weight)]));
            findings.add("guest.hibernated", None, broken(Kind::Guest, "it sleeps"));
            assert_eq!(findings.told().next().map(|finding| finding.severity), expected);
        }
    }

    #[test]
    fn what_guards_data_is_raised_and_never_lowered() {
        for rule in RULES.iter().filter(|rule| rule.guarded) {
            for weight in [Weight::Off, Weight::Info, Weight::Warning, Weight::Error] {
                let mut findings = Findings::new(weights(&[(rule.name, weight)]));
                findings.add(rule.name, None, broken(Kind::Source, "it is broken"));
                assert_eq!(findings.told().next().unwrap().severity, Severity::Error, "{}", rule.name);
                assert!(findings.failure().is_some());
            }
            let mut findings = Findings::new(weights(&[(rule.name, Weight::Critical)]));
            findings.add(rule.name, None, broken(Kind::Source, "it is broken"));
            assert_eq!(findings.told().next().unwrap().severity, Severity::Critical);
        }
    }

    #[test]
    fn what_the_configuration_says_of_a_rule_is_raised_by_a_manifest_and_never_lowered() {
        let configured = weights(&[("guest.space", Weight::Error), ("host.kvm", Weight::Warning)]);
        let manifest = weights(&[
            ("guest.space", Weight::Off),
            ("host.kvm", Weight::Critical),
            ("guest.hostname", Weight::Off),
        ]);
        let expected = weights(&[
            ("guest.space", Weight::Error),
            ("host.kvm", Weight::Critical),
            ("guest.hostname", Weight::Off),
        ]);
        assert_eq!(together(&configured, &manifest), expected);
    }

    #[test]
    fn a_failure_has_the_kind_of_what_is_worst_and_tells_all_that_fails() {
        let mut findings = Findings::new(weights(&[("guest.space", Weight::Critical)]));
        assert_eq!(findings.failure(), None);
        findings.add("host.kvm", None, broken(Kind::Unsupported, "no KVM"));
        assert_eq!(findings.failure(), None, "a warning fails nothing");
        findings.add("target.space", None, broken(Kind::DiskSpace, "no room").space(2, 1));
        assert_eq!(findings.failure().unwrap().details().need_bytes, Some(2));
        findings.add("disk.cut_off", Some("boot"), broken(Kind::Source, "its end is missing"));
        let failure = findings.failure().unwrap();
        assert_eq!((failure.kind(), failure.details().rule.as_deref()), (Kind::Source, Some("disk.cut_off")));
        assert_eq!(failure.details().cause, "its end is missing; also: no room");
        findings.add("guest.space", None, broken(Kind::Guest, "the guest is full"));
        assert_eq!(findings.failure().unwrap().kind(), Kind::Guest);
        let validation = Validation::of(Preflight::Full, findings.told().cloned().collect());
        assert!(!validation.ok);
        assert_eq!(validation.counts, Counts { critical: 1, error: 2, warning: 1, info: 0 });
        let order: Vec<Severity> = validation.results.iter().map(|finding| finding.severity).collect();
        assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
    }

    #[test]
    fn the_same_is_told_once() {
        let mut findings = Findings::new(Weights::new());
        for _ in 0..2 {
            findings.add("disk.note", Some("boot"), broken(Kind::Source, "its footer is damaged"));
        }
        assert_eq!(findings.found().len(), 1);
    }
}

//! Validators that an administrator has written: programs that are given the plan and answer with findings.
//!
//! They are run as hooks are ([`crate::pipeline::hooks`]): root's file, by descriptor, in a group of its own, within limits of time, memory and words. What they
//! answer is taken as it is, or not at all: an answer that cannot be understood is a critical finding of theirs, and so is none. Nobody but the
//! administrator decides about them, so no manifest lowers what they say.

use serde::Deserialize;

use super::{Scene, Validator};
use crate::model::config::CustomValidator;
use crate::model::error::{Error, Kind};
use crate::model::validation::{CUSTOM, Findings, Severity};
use crate::pipeline::hooks;

/// More findings of one validator nobody reads.
const MOST_FINDINGS: usize = 100;
/// Nor longer texts.
const MOST_CHARS: usize = 1000;

pub(super) struct Custom;

impl Validator for Custom {
    fn name(&self) -> &'static str {
        CUSTOM
    }

    fn applies(&self, scene: &Scene<'_>) -> bool {
        !scene.limits.preflight.validators.is_empty()
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        let plan = serde_json::to_string(&scene.plan.clone().without_secrets()).unwrap_or_default();
        for validator in &scene.limits.preflight.validators {
            if scene.control.interruption().is_some() {
                return;
            }
            let answered = match &scene.programs {
                Some(programs) => hooks::consult(programs, validator, scene.limits, &plan, scene.control),
                None => Err("there is nobody to run it".to_owned()),
            };
            match answered.and_then(|answer| read(&answer)) {
                Ok(told) => told.iter().for_each(|finding| raise(validator, finding, findings)),
                Err(why) => {
                    let rule = format!("{CUSTOM}.{}", validator.name);
                    let cause =
                        format!("the validator {} does not answer as it should: {why}", validator.name);
                    let advice = format!(
                        "mend {}, or take it out of `preflight.validators`",
                        validator.path.display()
                    );
                    findings.raise(
                        &rule,
                        Severity::Critical,
                        None,
                        Error::new(Kind::Hook, cause).advice(advice),
                    );
                }
            }
        }
    }
}

/// One finding, as it is answered.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    /// Which of its rules.
    #[serde(default)]
    rule: Option<String>,
    severity: Severity,
    message: String,
    #[serde(default)]
    about: Option<String>,
    #[serde(default)]
    suggestion: Option<String>,
}

fn read(answer: &str) -> Result<Vec<Told>, String> {
    let told: Vec<Told> = serde_json::from_str(answer)
        .map_err(|error| format!("its answer is no list of findings: {error}"))?;
    match told.len() {
        0..=MOST_FINDINGS => Ok(told),
        many => Err(format!("it has {many} findings, and {MOST_FINDINGS} are read")),
    }
}

fn raise(validator: &CustomValidator, told: &Told, findings: &mut Findings) {
    let rule = match told.rule.as_deref().map(plain).filter(|rule| !rule.is_empty()) {
        Some(rule) => format!("{CUSTOM}.{}.{rule}", validator.name),
        None => format!("{CUSTOM}.{}", validator.name),
    };
    let mut error = Error::new(Kind::Hook, plain(&told.message));
    if let Some(suggestion) = &told.suggestion {
        error = error.advice(plain(suggestion));
    }
    findings.raise(&rule, told.severity, told.about.as_deref().map(plain).as_deref(), error);
}

/// A text as it may be shown: one line, and not too long.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_list_of_findings_and_nothing_else() {
        let good = r#"[{"severity": "warning", "message": "no owner", "about": "boot", "suggestion": "name one", "rule": "owner"},
                       {"severity": "info", "message": "fine"}]"#;
        assert_eq!(read(good).unwrap().len(), 2);
        assert_eq!(read("[]").unwrap(), []);
        for bad in [
            "",
            "ok",
            "{}",
            "[1]",
            r#"[{"severity": "fatal", "message": "x"}]"#,
            r#"[{"message": "x"}]"#,
            r#"[{"severity": "info", "message": "x", "colour": "red"}]"#,
            "[] []",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many = format!("[{}]", vec![r#"{"severity":"info","message":"x"}"#; 101].join(","));
        assert!(read(&many).unwrap_err().contains("101"));
    }

    #[test]
    fn what_it_says_cannot_drive_a_terminal() {
        assert_eq!(plain("a\x1b[2J\nb"), "a [2J b");
        assert_eq!(plain(&"x".repeat(5000)).len(), MOST_CHARS);
    }
}

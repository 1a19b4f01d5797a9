//! `preflight`: how much is looked at before bytes move, and how bad a breach of which rule is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize as DeserializeTrait, Deserializer, MapAccess, Visitor};

use crate::model::parse::{closest, refuse};
use crate::model::plan::Preflight;
use crate::model::validation::{RULES, Rule, Weight, Weights};

/// `preflight`: a word, or a map of `level` and `rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreflightChoice {
    /// How much is looked at.
    pub level: Option<Preflight>,
    /// What becomes of which rule.
    pub rules: Option<RuleWeights>,
}

/// By rule.
pub type RuleWeights = BTreeMap<RuleName, Weight>;

/// The name of a rule that there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName(&'static str);

impl PreflightChoice {
    /// What becomes of which rule.
    #[must_use]
    pub fn weights(&self) -> Weights {
        self.rules.as_ref().map(weights).unwrap_or_default()
    }
}

/// As the pre-flight takes them.
#[must_use]
pub fn weights(rules: &RuleWeights) -> Weights {
    rules.iter().map(|(rule, weight)| (rule.0.to_owned(), *weight)).collect()
}

/// The same as a map.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PreflightMap {
    /// How much is looked at.
    level: Option<Preflight>,
    /// What becomes of which rule.
    rules: Option<RuleWeights>,
}

impl<'de> DeserializeTrait<'de> for PreflightChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;
        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = PreflightChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("full, metadata, off, or a map of `level` and `rules`")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<PreflightChoice, E> {
                let level = Preflight::ALL.into_iter().find(|level| level.name() == name);
                let Some(level) = level else {
                    let names = Preflight::ALL.map(Preflight::name);
                    let advice = closest(name, names)
                        .map(|meant| format!("did you mean `{meant}`?"))
                        .unwrap_or_default();
                    let cause = format!("`{}` is no such choice", name.escape_debug());
                    return Err(E::custom(refuse(cause, advice).allowed(names.join(", "))));
                };
                Ok(PreflightChoice { level: Some(level), rules: None })
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<PreflightChoice, M::Error> {
                let PreflightMap { level, rules } =
                    PreflightMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(PreflightChoice { level, rules })
            }
        }
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

impl JsonSchema for PreflightChoice {
    fn schema_name() -> Cow<'static, str> {
        "PreflightChoice".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<Preflight>();
        let map = generator.subschema_for::<PreflightMap>();
        json_schema!({ "anyOf": [word, map] })
    }
}

impl<'de> DeserializeTrait<'de> for RuleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if let Some(rule) = Rule::named(&name) {
            return Ok(RuleName(rule.name));
        }
        let near = closest(&name, RULES.iter().map(|rule| rule.name));
        let advice = near.map_or_else(
            || "docs/validation.md lists the rules".to_owned(),
            |meant| format!("did you mean `{meant}`?"),
        );
        Err(de::Error::custom(refuse(format!("there is no rule `{}`", name.escape_debug()), advice)))
    }
}

impl JsonSchema for RuleName {
    fn schema_name() -> Cow<'static, str> {
        "RuleName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": RULES.iter().map(|rule| rule.name).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Manifest;
    use crate::model::parse::parse;

    fn read(preflight: &str) -> Result<PreflightChoice, crate::model::error::Error> {
        let text = format!("manifest_version: \"1.0\"\npreflight: {preflight}\n");
        let manifest: Manifest = parse(text.as_bytes(), "vm.yaml")?.decode()?;
        Ok(manifest.preflight.unwrap_or_default())
    }

    #[test]
    fn it_is_a_word_or_a_map_of_level_and_rules() {
        assert_eq!(read("metadata").unwrap().level, Some(Preflight::Metadata));
        let choice = read("{level: full, rules: {guest.hibernated: warning, disk.note: off}}").unwrap();
        assert_eq!(choice.level, Some(Preflight::Full));
        let weights = choice.weights();
        assert_eq!(weights["guest.hibernated"], Weight::Warning);
        assert_eq!(weights["disk.note"], Weight::Off);
        assert_eq!(
            read("{rules: {}}").unwrap(),
            PreflightChoice { level: None, rules: Some(BTreeMap::new()) }
        );
    }

    #[test]
    fn what_is_none_of_it_is_refused_at_its_place() {
        for (text, field, said) in [
            ("ful", "preflight", "did you mean `full`"),
            ("7", "preflight", "full, metadata, off"),
            ("{levels: full}", "preflight.levels", "did you mean `level`"),
            ("{rules: {guest.hibernate: warning}}", "preflight.rules.guest.hibernate", "guest.hibernated"),
            ("{rules: {disk.note: never}}", "preflight.rules.disk.note", "off"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.details().place.field.as_deref(), Some(field), "{error}");
            assert_eq!(error.details().place.line, Some(2), "{error}");
        }
    }
}

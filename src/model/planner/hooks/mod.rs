//! What is run between stages: from the manifest to the plan, and what is refused of it.
//!
//! A drop may decide what is run only among what an administrator has put below `hooks.allowed_dirs`, and may not reach into what is run by other
//! ways: variables that change what a program loads are refused, and so is a secret, which would lie in the queue. What is not here: whether the
//! files are there and may be trusted, which is asked where they are opened; and what names stand for ([`names`]).

mod names;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value as Json;

use names::{Unknown, file_of, is_word};

use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::hook::{
    Content, DEFAULT_DELAY_S, DEFAULT_MAX_DELAY_S, DEFAULT_TIMEOUT_S, HookCall, HookRetries, PlannedHook,
    percent_encoded,
};
use crate::model::manifest::values::{Seconds, normalised};
use crate::model::manifest::{Hook, HookStage, HookType, Manifest, RetryStrategy};
use crate::model::parse::Tree;
use crate::model::redaction::names_secret;
use crate::model::template::Template;

/// No hook is worth waiting longer for.
const LONGEST_S: f64 = 86_400.0;
/// What a request may be.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];
/// Headers that follow from the request itself.
const OWN_HEADERS: [&str; 5] = ["host", "content-length", "transfer-encoding", "connection", "upgrade"];
/// Variables that decide what programs load, or how they read what they are given: with them, a drop would run what it likes.
const DECIDING_VARIABLES: [&str; 12] = [
    "ENV",
    "PATH",
    "IFS",
    "HOME",
    "CDPATH",
    "SHELLOPTS",
    "PS4",
    "TMPDIR",
    "CLASSPATH",
    "EDITOR",
    "PAGER",
    "LOCPATH",
];
/// The same, by how they begin.
const DECIDING_PREFIXES: [&str; 16] = [
    "LD_", "BASH", "PYTHON", "PERL", "RUBY", "NODE_", "GCONV", "GLIBC_", "MALLOC_", "JAVA_", "JDK_", "LUA_",
    "GIT_", "SSL_", "OPENSSL_", "XDG_",
];
/// Ours.
const OWN_VARIABLES: &str = "H2K_";

/// A hook of the manifest and where it stands.
struct Entry<'a> {
    tree: &'a Tree,
    stage: HookStage,
    number: usize,
    hook: &'a Hook,
}

/// Refuses hooks that cannot be run, or may not be.
pub(super) fn check(tree: &Tree, manifest: &Manifest, settings: &Settings) -> Result<()> {
    entries(tree, manifest).try_for_each(|entry| entry.check(&settings.hooks.allowed_dirs))
}

/// What the planner knows by name.
pub(super) type Known = BTreeMap<&'static str, String>;

/// The hooks of a plan, in the order in which they run.
pub(super) fn planned(tree: &Tree, manifest: &Manifest, known: &Known) -> Result<Vec<PlannedHook>> {
    entries(tree, manifest).map(|entry| entry.planned(known)).collect()
}

/// Hooks of stages that are off: nobody would notice otherwise.
pub(super) fn warnings(tree: &Tree, manifest: &Manifest) -> Vec<String> {
    let stages = manifest.hooks.iter().flat_map(|hooks| &hooks.0).filter(|(_, hooks)| !hooks.is_empty());
    stages
        .filter_map(|(point, _)| {
            let stage = point.of().filter(|stage| !super::build::is_on(tree, *stage))?;
            Some(format!("hooks.{} will not run: the stage `{stage}` is off", point.name()))
        })
        .collect()
}

fn entries<'a>(tree: &'a Tree, manifest: &'a Manifest) -> impl Iterator<Item = Entry<'a>> {
    let stages = manifest.hooks.iter().flat_map(|hooks| &hooks.0);
    stages.flat_map(move |(stage, hooks)| {
        let each = move |(number, hook)| Entry { tree, stage: *stage, number, hook };
        hooks.iter().enumerate().map(each)
    })
}

impl Entry<'_> {
    fn field(&self, key: &str) -> String {
        let Entry { stage, number, .. } = self;
        match key {
            "" => format!("hooks.{}[{number}]", stage.name()),
            key => format!("hooks.{}[{number}].{key}", stage.name()),
        }
    }

    fn error(&self, key: &str, cause: impl Into<String>) -> Error {
        self.tree.error(Kind::Manifest, &self.field(key), cause)
    }

    fn check(&self, roots: &[PathBuf]) -> Result<()> {
        self.check_keys()?;
        self.check_times()?;
        match self.hook.hook_type {
            HookType::Script => self.check_script(roots)?,
            HookType::Python => self.check_python(roots)?,
            HookType::Http => self.check_http()?,
        }
        // All texts are understood, and their names are known.
        self.planned(&Known::new()).map(drop)
    }

    /// Every type has keys of its own: one of another would be ignored.
    fn check_keys(&self) -> Result<()> {
        use HookType::{Http, Python, Script};
        let hook = self.hook;
        let keys: [(&str, bool, &[HookType], bool); 10] = [
            ("path", hook.path.is_some(), &[Script], true),
            ("args", hook.args.is_some(), &[Script, Python], false),
            ("env", hook.env.is_some(), &[Script], false),
            ("working_directory", hook.working_directory.is_some(), &[Script], false),
            ("module", hook.module.is_some(), &[Python], true),
            ("function", hook.function.is_some(), &[Python], true),
            ("url", hook.url.is_some(), &[Http], true),
            ("method", hook.method.is_some(), &[Http], false),
            ("headers", hook.headers.is_some(), &[Http], false),
            ("body", hook.body.is_some(), &[Http], false),
        ];
        let kind = hook.hook_type;
        for (key, there, types, required) in keys {
            if there && !types.contains(&kind) {
                let of: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
                return Err(self
                    .error(key, format!("`{key}` belongs to a hook of type {}", of.join(" or ")))
                    .advice("remove it, or change `type`"));
            }
            if !there && required && types.contains(&kind) {
                return Err(self.error(key, format!("a hook of type {} needs `{key}`", kind.name())));
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<()> {
        let (hook, retry) = (self.hook, self.hook.retry.as_ref());
        let times = [
            ("timeout", hook.timeout, 0.001),
            ("retry_delay", hook.retry_delay, 0.0),
            ("max_delay", hook.max_delay, 0.0),
            ("retry.initial_delay", retry.and_then(|retry| retry.initial_delay), 0.0),
            ("retry.max_delay", retry.and_then(|retry| retry.max_delay), 0.0),
        ];
        for (key, seconds, least) in times {
            let Some(Seconds(seconds)) = seconds else { continue };
            if !(least..=LONGEST_S).contains(&seconds) {
                let error = self.error(key, format!("{seconds} s is out of range"));
                return Err(error.allowed([format!("{least} to {LONGEST_S}")]));
            }
        }
        let Some(retry) = retry else { return Ok(()) };
        let twice = [
            ("max_retries", "max_retries", hook.max_retries.is_some() && retry.max_retries.is_some()),
            ("retry_delay", "initial_delay", hook.retry_delay.is_some() && retry.initial_delay.is_some()),
            ("retry_strategy", "strategy", hook.retry_strategy.is_some() && retry.strategy.is_some()),
            ("max_delay", "max_delay", hook.max_delay.is_some() && retry.max_delay.is_some()),
        ];
        match twice.into_iter().find(|(.., there)| *there) {
            Some((key, name, _)) => Err(self
                .error(key, format!("this is the same as `retry.{name}`, which is there too"))
                .advice("keep one of them")),
            None => Ok(()),
        }
    }

    fn check_script(&self, roots: &[PathBuf]) -> Result<()> {
        if let Some(path) = &self.hook.path {
            if path.as_str().contains("{{") {
                return Err(self
                    .error("path", "which program is run cannot depend on a name")
                    .advice("write its path, and give it the value as an argument"));
            }
            self.check_place("path", Path::new(path.as_str()), roots)?;
        }
        self.check_arguments()?;
        for name in self.hook.env.iter().flat_map(BTreeMap::keys) {
            let field = format!("env.{name}");
            if !is_word(name) {
                return Err(
                    self.error(&field, format!("`{}` is not the name of a variable", name.escape_debug()))
                );
            }
            let decides = DECIDING_VARIABLES.contains(&name.as_str())
                || DECIDING_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if decides || name.starts_with(OWN_VARIABLES) {
                let why = if decides { "decides what programs load" } else { "is told by hyper2kvm itself" };
                return Err(self
                    .error(&field, format!("`{name}` {why}: a hook may not set it"))
                    .advice("choose another name, or set it in the script itself"));
            }
            self.refuse_secret(&field, name)?;
        }
        Ok(())
    }

    fn check_python(&self, roots: &[PathBuf]) -> Result<()> {
        if let Some(module) = &self.hook.module {
            let path = Path::new(module.as_str());
            if path.is_absolute() {
                self.check_place("module", path, roots)?;
            } else {
                self.check_roots("module", roots)?;
            }
            if path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)) {
                return Err(self
                    .error("module", "`.` and `..` are not allowed in the name of a module")
                    .advice("name a file as it lies below one of `hooks.allowed_dirs`"));
            }
        }
        if let Some(function) = &self.hook.function
            && !is_word(function.as_str())
        {
            return Err(self
                .error("function", format!("`{function}` is not the name of a function"))
                .advice("name a function that the file itself defines"));
        }
        match self.hook.args.as_ref().map(|args| &args.0) {
            None => Ok(()),
            Some(Json::Object(args)) => {
                for name in args.keys() {
                    if !is_word(name) {
                        return Err(self.error(
                            "args",
                            format!("`{}` is not the name of an argument", name.escape_debug()),
                        ));
                    }
                }
                self.refuse_secrets("args", &Json::Object(args.clone()))
            }
            Some(_) => Err(self
                .error("args", "the arguments of a function are a map")
                .advice("write them as `name: value`")),
        }
    }

    fn check_http(&self) -> Result<()> {
        let url = self.hook.url.as_ref().map_or("", |url| url.as_str());
        let after = url.split_once("://").map_or(url, |(_, rest)| rest);
        if after.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@')) {
            return Err(self
                .error("url", "a URL may not hold a login: it would lie in the queue")
                .advice("let a script send the request, which reads its secret from a file of its own"));
        }
        if let Some(method) = &self.hook.method
            && !METHODS.contains(&method.as_str())
        {
            return Err(self
                .error("method", format!("`{method}` is not a method that is known"))
                .allowed(METHODS));
        }
        for name in self.hook.headers.iter().flat_map(BTreeMap::keys) {
            let field = format!("headers.{name}");
            let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || !name.chars().all(is_token) {
                return Err(
                    self.error("headers", format!("`{}` is not the name of a header", name.escape_debug()))
                );
            }
            if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(self
                    .error(&field, format!("`{name}` follows from the request itself"))
                    .advice("remove it"));
            }
            self.refuse_secret(&field, name)?;
        }
        let Some(body) = self.hook.body.as_ref().map(|body| &body.0) else { return Ok(()) };
        self.refuse_secrets("body", body)?;
        let is_query = matches!(self.method(), "GET" | "HEAD");
        let flat = |body: &Json| {
            body.as_object()
                .is_some_and(|fields| fields.values().all(|value| !value.is_object() && !value.is_array()))
        };
        if is_query && !flat(body) {
            return Err(self
                .error("body", format!("the body of a {} becomes its query, which is flat", self.method()))
                .advice("write it as `name: value`, or use POST"));
        }
        Ok(())
    }

    fn check_arguments(&self) -> Result<()> {
        let scalar = |value: &Json| !value.is_object() && !value.is_array();
        match self.hook.args.as_ref().map(|args| &args.0) {
            None => Ok(()),
            Some(Json::Array(args)) if args.iter().all(scalar) => Ok(()),
            Some(_) => Err(self
                .error("args", "the arguments of a program are a list of texts")
                .advice("write each on a line of its own; none of them goes through a shell")),
        }
    }

    fn check_roots(&self, key: &str, roots: &[PathBuf]) -> Result<()> {
        if roots.is_empty() {
            return Err(self
                .error(key, "no directory is configured from which hooks may be run")
                .advice("have the administrator name one in `hooks.allowed_dirs` of the configuration"));
        }
        Ok(())
    }

    fn check_place(&self, key: &str, path: &Path, roots: &[PathBuf]) -> Result<()> {
        self.check_roots(key, roots)?;
        let path = normalised(path);
        if roots.iter().any(|root| path.starts_with(root) && path != *root) {
            return Ok(());
        }
        Err(self
            .error(key, format!("{} does not lie below any of `hooks.allowed_dirs`", path.display()))
            .allowed(roots.iter().map(|root| root.display().to_string()))
            .advice("move it there, or have the administrator add its directory"))
    }

    fn refuse_secret(&self, field: &str, name: &str) -> Result<()> {
        if !names_secret(name) {
            return Ok(());
        }
        Err(self
            .error(field, format!("a hook may not hold a secret, which `{name}` is by its name"))
            .advice("let a script read it from a file of its own, whose path it may be given (`…_FILE`)"))
    }

    fn refuse_secrets(&self, field: &str, value: &Json) -> Result<()> {
        match value {
            Json::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                self.refuse_secret(field, name).and_then(|()| self.refuse_secrets(field, value))
            }),
            Json::Array(items) => items.iter().try_for_each(|item| self.refuse_secrets(field, item)),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Ok(()),
        }
    }

    fn method(&self) -> &str {
        self.hook.method.as_ref().map_or("POST", |method| method.as_str())
    }

    fn planned(&self, known: &Known) -> Result<PlannedHook> {
        let hook = self.hook;
        let number = u32::try_from(self.number + 1).unwrap_or(u32::MAX);
        let name = hook.name.as_ref().map_or_else(
            || format!("{}[{}]", self.stage.name(), self.number),
            |name| name.as_str().to_owned(),
        );
        let retry = hook.retry.as_ref();
        let seconds = |one: Option<_>, other: Option<_>, default: f64| {
            one.or(other).map_or(default, |seconds: Seconds| seconds.0)
        };
        let max_retries = hook.max_retries.or(retry.and_then(|retry| retry.max_retries));
        Ok(PlannedHook {
            stage: self.stage,
            number,
            name,
            call: self.call(known)?,
            timeout_s: hook.timeout.map_or(DEFAULT_TIMEOUT_S, |timeout| timeout.0),
            continue_on_error: hook.continue_on_error.unwrap_or(false),
            beside: hook.beside.unwrap_or(false),
            retry: HookRetries {
                max_retries: max_retries.and_then(|most| u32::try_from(most.get()).ok()).unwrap_or(0),
                initial_delay_s: seconds(
                    hook.retry_delay,
                    retry.and_then(|retry| retry.initial_delay),
                    DEFAULT_DELAY_S,
                ),
                strategy: hook
                    .retry_strategy
                    .or(retry.and_then(|retry| retry.strategy))
                    .unwrap_or(RetryStrategy::Exponential),
                max_delay_s: seconds(
                    hook.max_delay,
                    retry.and_then(|retry| retry.max_delay),
                    DEFAULT_MAX_DELAY_S,
                ),
                retry_on_timeout: retry.and_then(|retry| retry.retry_on_timeout).unwrap_or(true),
            },
        })
    }

    fn call(&self, known: &Known) -> Result<HookCall> {
        let hook = self.hook;
        let texts = |key: &str, map: &Option<BTreeMap<String, String>>| {
            let each = map.iter().flatten().map(|(name, text)| {
                Ok((name.clone(), self.template(&format!("{key}.{name}"), text, known)?))
            });
            each.collect::<Result<BTreeMap<_, _>>>()
        };
        Ok(match hook.hook_type {
            HookType::Script => HookCall::Script {
                path: hook.path.as_ref().map(|path| normalised(Path::new(path.as_str()))).unwrap_or_default(),
                args: self.arguments(known)?,
                env: texts("env", &hook.env)?,
                working_directory: hook
                    .working_directory
                    .as_ref()
                    .map(|path| self.template("working_directory", path.as_str(), known))
                    .transpose()?,
            },
            HookType::Python => HookCall::Python {
                module: hook.module.as_ref().map(|module| file_of(module.as_str())).unwrap_or_default(),
                function: hook.function.as_ref().map_or("", |function| function.as_str()).to_owned(),
                args: match self.content("args", hook.args.as_ref().map(|args| &args.0), known)? {
                    Some(Content::Map(args)) => args.into_iter().collect(),
                    _ => BTreeMap::new(),
                },
            },
            HookType::Http => HookCall::Http {
                url: self.url(known)?,
                method: self.method().to_owned(),
                headers: texts("headers", &hook.headers)?,
                body: self.content("body", hook.body.as_ref().map(|body| &body.0), known)?,
            },
        })
    }

    /// A value cannot become another part of the URL than it stands in.
    fn url(&self, known: &Known) -> Result<Template> {
        let template = self.parsed("url", self.hook.url.as_ref().map_or("", |url| url.as_str()))?;
        Ok(template.filled(&|name| self.value(name, known).map(|value| percent_encoded(&value))))
    }

    fn arguments(&self, known: &Known) -> Result<Vec<Template>> {
        let Some(Json::Array(args)) = self.hook.args.as_ref().map(|args| &args.0) else {
            return Ok(Vec::new());
        };
        let each = args.iter().enumerate().map(|(number, value)| match value {
            Json::String(text) => self.template(&format!("args[{number}]"), text, known),
            Json::Null => Ok(Template::plain("")),
            other => Ok(Template::plain(other.to_string())),
        });
        each.collect()
    }

    fn content(&self, key: &str, value: Option<&Json>, known: &Known) -> Result<Option<Content>> {
        let Some(value) = value else { return Ok(None) };
        let content = Content::parse(value).map_err(|cause| self.bad_template(key, &cause))?;
        self.check_content(key, &content)?;
        Ok(Some(content.each(&|template| template.filled(&|name| self.value(name, known)))))
    }

    fn check_content(&self, key: &str, content: &Content) -> Result<()> {
        match content {
            Content::Text(template) => self.check_names(key, template),
            Content::List(items) => items.iter().try_for_each(|item| self.check_content(key, item)),
            Content::Map(fields) => fields.iter().try_for_each(|(_, field)| self.check_content(key, field)),
            Content::Plain(_) => Ok(()),
        }
    }

    fn template(&self, key: &str, text: &str, known: &Known) -> Result<Template> {
        Ok(self.parsed(key, text)?.filled(&|name| self.value(name, known)))
    }

    fn parsed(&self, key: &str, text: &str) -> Result<Template> {
        let template = Template::parse(text).map_err(|cause| self.bad_template(key, &cause))?;
        self.check_names(key, &template)?;
        Ok(template)
    }

    fn bad_template(&self, key: &str, cause: &str) -> Error {
        self.error(key, cause).advice(
            "write `{{ name }}` with a variable, or a path into the manifest such as `disks.0.local_path`",
        )
    }
    fn check_names(&self, key: &str, template: &Template) -> Result<()> {
        for name in template.names().filter(|name| !names::is_variable(name)) {
            if let Err(Unknown { cause, allowed, meant }) = names::at(self.tree, name) {
                let error = self.error(key, cause).allowed(allowed);
                return Err(match meant {
                    Some(meant) => error.advice(format!("did you mean `{meant}`?")),
                    None => error.advice("docs/hooks.md lists the variables; a path into the manifest looks like `disks.0.local_path`"),
                });
            }
        }
        Ok(())
    }

    fn value(&self, name: &str, known: &Known) -> Option<String> {
        names::value(self.tree, self.stage, name, known)
    }
}

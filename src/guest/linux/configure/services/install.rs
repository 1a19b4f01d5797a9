//! The section `[Install]` of a unit: what `systemctl enable` would make of it.
//!
//! Pure. What is not here: where units lie, and the links.

/// What the section says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Install {
    /// Units that want it, each with the kind of its directory: `wants`, `requires`, `upholds`.
    pub(super) by: Vec<(&'static str, String)>,
    /// Other names for it.
    pub(super) aliases: Vec<String>,
    /// Units that go with it.
    pub(super) also: Vec<String>,
    /// The instance of a template that names none.
    pub(super) default_instance: Option<String>,
}

impl Install {
    /// Whether there is anything to enable.
    pub(super) fn says_nothing(&self) -> bool {
        self.by.is_empty() && self.aliases.is_empty() && self.also.is_empty()
    }

    /// What a unit's text says; `instance` stands for `%i`.
    pub(super) fn of(text: &str, instance: Option<&str>) -> Install {
        let mut install = Install::default();
        let mut inside = false;
        // A backslash at the end of a line joins it with the next.
        let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
        for line in joined.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == "[Install]";
                continue;
            }
            if !inside || line.starts_with(['#', ';']) {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            install.take(key.trim(), value.trim(), instance);
        }
        install
    }

    fn take(&mut self, key: &str, value: &str, instance: Option<&str>) {
        let kind = match key {
            "WantedBy" => "wants",
            "RequiredBy" => "requires",
            "UpheldBy" => "upholds",
            "Alias" => return extend(&mut self.aliases, value, instance),
            "Also" => return extend(&mut self.also, value, instance),
            "DefaultInstance" => {
                self.default_instance = Some(value.to_owned()).filter(|value| is_plain(value));
                return;
            }
            _ => return,
        };
        let mut units = Vec::new();
        extend(&mut units, value, instance);
        if value.is_empty() {
            self.by.retain(|(of, _)| *of != kind);
        }
        self.by.extend(units.into_iter().map(|unit| (kind, unit)));
    }
}

/// Adds the units that a value names; an empty value takes back what was said before.
fn extend(units: &mut Vec<String>, value: &str, instance: Option<&str>) {
    if value.is_empty() {
        units.clear();
    }
    let spelled = value.split_whitespace().map(|unit| match instance {
        Some(instance) => unit.replace("%i", instance),
        None => unit.to_owned(),
    });
    units.extend(spelled.filter(|unit| is_unit(unit)));
}

/// Whether this names a unit, and nothing outside of a directory of units.
pub(super) fn is_unit(name: &str) -> bool {
    name.contains('.') && name.len() < 200 && is_plain(name)
}

fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.\\@:".contains(c);
    !word.is_empty() && !word.starts_with('.') && word.chars().all(plain)
}

/// A unit's template and the instance in its name: `getty@tty1.service` is `tty1` of `getty@.service`.
pub(super) fn template(unit: &str) -> Option<(String, &str)> {
    let (stem, end) = unit.rsplit_once('.')?;
    let (name, instance) = stem.split_once('@')?;
    Some((format!("{name}@.{end}"), instance))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSH: &str = "\
[Unit]
WantedBy=not-here.target
[Install]
# WantedBy=commented.target
WantedBy=multi-user.target \\
  cloud.target
RequiredBy=a.target
Alias=sshd.service
Also=ssh.socket
";

    fn by(kind: &'static str, unit: &str) -> (&'static str, String) {
        (kind, unit.to_owned())
    }

    #[test]
    fn the_section_is_read_as_systemd_does() {
        let install = Install::of(SSH, None);
        assert_eq!(
            install.by,
            [by("wants", "multi-user.target"), by("wants", "cloud.target"), by("requires", "a.target")]
        );
        assert_eq!((install.aliases, install.also), (vec!["sshd.service".into()], vec!["ssh.socket".into()]));
    }

    #[test]
    fn an_empty_value_takes_back_what_was_said() {
        let install = Install::of("[Install]\nWantedBy=a.target\nRequiredBy=b.target\nWantedBy=\n", None);
        assert_eq!(install.by, [by("requires", "b.target")]);
        assert!(Install::of("[Service]\nExecStart=/x\n", None).says_nothing());
    }

    #[test]
    fn an_instance_stands_where_its_template_says() {
        let text = "[Install]\nWantedBy=dev-%i.device\nDefaultInstance=tty1\n";
        assert_eq!(Install::of(text, Some("sda")).by, [by("wants", "dev-sda.device")]);
        assert_eq!(Install::of(text, None).default_instance.as_deref(), Some("tty1"));
        assert_eq!(template("getty@tty1.service"), Some(("getty@.service".to_owned(), "tty1")));
        assert_eq!(template("ssh.service"), None);
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        let install = Install::of(
            "[Install]\nWantedBy=../../x.target a/b.target %n.target\nAlias=../x.service\n",
            None,
        );
        assert!(install.says_nothing(), "{install:?}");
    }
}

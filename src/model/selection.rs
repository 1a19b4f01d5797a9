//! Several VMs of a server, as an entry of a batch selects them: by folder, names, places, tags and power.
//!
//! Which of those that are there are meant is decided here, by what was told of them; what they are called in the batch, too: the same answer gives
//! the same VMs under the same names. What is not here: asking the server, and what becomes of them ([`planner::expand`](super::planner::expand)).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Error, Kind, Result};
use super::pattern::fits;
use super::units::safe_id;

/// One entry stands for no more.
pub const MOST_SELECTED: usize = 1000;

/// So much of a name leaves room for the server's behind it.
const MOST_PLAIN: usize = 96;

/// In one message.
const MOST_TOLD: usize = 20;

/// Whether VMs that are selected run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SelectedPower {
    /// They do.
    On,
    /// They do not.
    Off,
}

/// Which VMs of a server an entry of a batch stands for. What is not said leaves nothing out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selecting {
    /// The entry: `vms[1]`.
    pub entry: String,
    /// In this folder, however deep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// With all of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Like one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// But like none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Only those that run, or only those that do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<SelectedPower>,
    /// What "the same content" means for each of its VMs, but for which one it is.
    #[serde(default)]
    pub content: String,
}

/// A VM that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// What people call it.
    pub name: String,
    /// Where it stands: `/DC0/vm/web/web01`.
    pub path: String,
    /// What the server calls it.
    pub moref: String,
    /// Whether it runs, if that is known.
    pub power: Option<SelectedPower>,
    /// Whether it is only there to be copied.
    pub is_template: bool,
}

/// A VM that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectedVm {
    /// What people call it.
    pub name: String,
    /// What the server calls it.
    pub moref: String,
}

impl Selecting {
    /// For people: `web-*, db-* in prod`.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut shown = match self.names.as_slice() {
            [] => "all machines".to_owned(),
            names => names.join(", "),
        };
        if let Some(folder) = &self.folder {
            shown.push_str(&format!(" in {folder}"));
        }
        if !self.tags.is_empty() {
            shown.push_str(&format!(" tagged {}", self.tags.join(", ")));
        }
        match self.power {
            Some(SelectedPower::On) => shown.push_str(" that run"),
            Some(SelectedPower::Off) => shown.push_str(" that are off"),
            None => {}
        }
        if !self.exclude.is_empty() {
            shown.push_str(&format!(" but {}", self.exclude.join(", ")));
        }
        shown
    }

    /// The VMs that are meant, of those of its folder and tags, by their places; an error if there is none, or if a name fits none.
    pub fn of(&self, candidates: &[Candidate]) -> Result<Vec<SelectedVm>> {
        let machines: Vec<&Candidate> =
            candidates.iter().filter(|candidate| !candidate.is_template).collect();
        let refused = |field: &str, cause: String, advice: &str| {
            let told = machines.iter().take(MOST_TOLD).map(|candidate| candidate.path.clone());
            Error::new(Kind::Source, cause)
                .field(format!("{}.select{field}", self.entry))
                .allowed(told)
                .advice(advice)
        };
        if let Some((index, wanted)) = self
            .names
            .iter()
            .enumerate()
            .find(|(_, wanted)| !machines.iter().any(|candidate| is_like(wanted, candidate)))
        {
            let cause = format!("no machine there is called like `{wanted}`, as far as this account sees");
            return Err(refused(&format!(".names[{index}]"), cause, "mend the name, or remove it"));
        }
        let is_one_of = |patterns: &[String], candidate: &Candidate| {
            patterns.iter().any(|pattern| is_like(pattern, candidate))
        };
        let mut meant: Vec<&Candidate> = machines
            .iter()
            .copied()
            .filter(|candidate| self.names.is_empty() || is_one_of(&self.names, candidate))
            .filter(|candidate| !is_one_of(&self.exclude, candidate))
            .filter(|candidate| self.power.is_none() || candidate.power == self.power)
            .collect();
        meant.sort_by(|one, other| one.path.cmp(&other.path).then_with(|| one.moref.cmp(&other.moref)));
        match meant.len() {
            0 => Err(refused(
                "",
                format!("there is no machine that is meant: {}", self.shown()),
                "see which there are: `hyper2kvm vsphere list`; templates are left out",
            )),
            count if count > MOST_SELECTED => Err(Error::new(
                Kind::Source,
                format!("{count} machines are meant, and one entry stands for {MOST_SELECTED} at most"),
            )
            .field(format!("{}.select", self.entry))
            .advice("select less, in several entries or batches")),
            _ => Ok(meant
                .into_iter()
                .map(|candidate| SelectedVm { name: candidate.name.clone(), moref: candidate.moref.clone() })
                .collect()),
        }
    }
}

/// What each is called in its batch: like there. Of several that would be called the same, each has the server's name for it behind that.
#[must_use]
pub fn ids(selected: &[SelectedVm]) -> Vec<String> {
    let plain: Vec<String> = selected.iter().map(|vm| safe_id(&vm.name)).collect();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    plain.iter().for_each(|id| *count.entry(id).or_default() += 1);
    let named = |(id, vm): (&String, &SelectedVm)| match count.get(id.as_str()) {
        Some(1) => id.clone(),
        // An id is ASCII.
        _ => safe_id(&format!("{}-{}", &id[..id.len().min(MOST_PLAIN)], vm.moref)),
    };
    plain.iter().zip(selected).map(named).collect()
}

/// A pattern with a `/` is one of places, or of the end of one; any other one of names.
fn is_like(pattern: &str, candidate: &Candidate) -> bool {
    match pattern.contains('/') {
        true if pattern.starts_with('/') => fits(pattern, &candidate.path),
        true => fits(&format!("*/{pattern}"), &candidate.path),
        false => fits(pattern, &candidate.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there() -> Vec<Candidate> {
        let vm = |path: &str, moref: &str, power| Candidate {
            name: path.rsplit('/').next().unwrap().to_owned(),
            path: path.to_owned(),
            moref: moref.to_owned(),
            power: Some(power),
            is_template: false,
        };
        vec![
            vm("/DC0/vm/prod/web-2", "vm-2", SelectedPower::Off),
            vm("/DC0/vm/prod/web-1", "vm-1", SelectedPower::On),
            vm("/DC0/vm/test/web-1", "vm-3", SelectedPower::Off),
            vm("/DC0/vm/test/db", "vm-4", SelectedPower::Off),
            Candidate { is_template: true, ..vm("/DC0/vm/web-golden", "vm-5", SelectedPower::Off) },
        ]
    }

    fn selecting(change: impl FnOnce(&mut Selecting)) -> Selecting {
        let mut selecting = Selecting { entry: "vms[1]".to_owned(), ..Selecting::default() };
        change(&mut selecting);
        selecting
    }

    fn meant(selecting: &Selecting) -> Vec<String> {
        selecting.of(&there()).unwrap().into_iter().map(|vm| vm.moref).collect()
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn machines_are_meant_by_name_place_and_power_and_templates_never_are() {
        assert_eq!(meant(&selecting(|_| {})), ["vm-1", "vm-2", "vm-4", "vm-3"]);
        assert_eq!(meant(&selecting(|all| all.names = words(&["web-*"]))), ["vm-1", "vm-2", "vm-3"]);
        assert_eq!(meant(&selecting(|all| all.names = words(&["prod/*", "db"]))), ["vm-1", "vm-2", "vm-4"]);
        assert_eq!(meant(&selecting(|all| all.names = words(&["/DC0/vm/test/*"]))), ["vm-4", "vm-3"]);
        assert_eq!(meant(&selecting(|all| all.exclude = words(&["web-1", "test/d?"]))), ["vm-2"]);
        assert_eq!(meant(&selecting(|all| all.power = Some(SelectedPower::On))), ["vm-1"]);
    }

    #[test]
    fn what_nothing_fits_is_an_error_with_what_is_there() {
        for (selecting, field) in [
            (selecting(|all| all.names = words(&["web-*", "mail"])), "vms[1].select.names[1]"),
            (selecting(|all| all.names = words(&["web-golden"])), "vms[1].select.names[0]"),
            (selecting(|all| all.exclude = words(&["*"])), "vms[1].select"),
        ] {
            let error = selecting.of(&there()).unwrap_err();
            assert_eq!((error.kind(), error.details().place.field.as_deref()), (Kind::Source, Some(field)));
            assert_eq!(error.details().place.allowed.len(), 4, "{error}");
        }
        let many: Vec<Candidate> = (0..=MOST_SELECTED)
            .map(|number| Candidate { name: format!("vm{number}"), ..there().remove(0) })
            .collect();
        let error = selecting(|_| {}).of(&many).unwrap_err();
        assert!(error.to_string().contains("1001 machines are meant"), "{error}");
        assert_eq!(selecting(|_| {}).of(&many[1..]).unwrap().len(), MOST_SELECTED);
    }

    #[test]
    fn each_has_a_name_of_its_own_that_does_not_depend_on_their_order() {
        let vm = |name: &str, moref: &str| SelectedVm { name: name.to_owned(), moref: moref.to_owned() };
        let vms = [vm("web 1", "vm-1"), vm("web-1", "vm-2"), vm("db", "vm-3"), vm("///", "vm-4")];
        assert_eq!(ids(&vms), ["web-1-vm-1", "web-1-vm-2", "db", "unnamed"]);
        let turned: Vec<SelectedVm> = vms.iter().rev().cloned().collect();
        let mut again = ids(&turned);
        again.reverse();
        assert_eq!(again, ids(&vms));
        assert!(ids(&vms).iter().all(|id| crate::model::units::is_id(id)));
    }
}

//! `/etc/hosts`, edited in place: comments, order and columns of all other lines stay.
//!
//! The first line that fits a name decides, so a name that is given an address is taken out of lines of other addresses of the same
//! family. What is not here: the guest's own name elsewhere (see [`super::hostname`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::guest::linux::text::{Rewritten, split_end};
use crate::model::setup::HostName;

/// Where Debian has the guest's own name, so that it resolves without a network.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

/// What the file is to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'s> {
    /// The guest's own name.
    pub(super) host: Option<&'s HostName>,
    /// Whether its own name always has a line.
    pub(super) debian: bool,
    /// Addresses and their names.
    pub(super) table: &'s BTreeMap<IpAddr, Vec<String>>,
}

/// One line that is an entry.
struct Entry<'l> {
    address: IpAddr,
    /// The address as written, with what is before and behind it.
    head: &'l str,
    names: Vec<&'l str>,
    /// A comment, with the space before it.
    tail: &'l str,
}

/// The file as it is to be.
pub(super) fn rewrite(text: &str, wanted: &Wanted<'_>) -> Rewritten {
    let mut result = Rewritten::default();
    let table = with_own_name(text, wanted);
    let mut missing: BTreeSet<IpAddr> = table.keys().copied().collect();
    for line in text.split_inclusive('\n') {
        let (body, end) = split_end(line);
        let Some(entry) = entry(body) else {
            result.text.push_str(line);
            continue;
        };
        let names: Vec<&str> = match table.get(&entry.address) {
            Some(names) if missing.remove(&entry.address) => names.iter().map(String::as_str).collect(),
            Some(_) => entry.names.clone(),
            None => {
                let is_elsewhere = |name: &&str| {
                    !entry.address.is_loopback()
                        && table.iter().any(|(address, names)| {
                            address.is_ipv4() == entry.address.is_ipv4()
                                && names.iter().any(|known| known == name)
                        })
                };
                entry.names.iter().copied().filter(|name| !is_elsewhere(name)).collect()
            }
        };
        if names == entry.names {
            result.text.push_str(line);
        } else if names.is_empty() {
            result.changed(format!("{} has no name left", entry.address));
        } else {
            result.changed(format!("{} is {}", entry.address, names.join(" ")));
            result.text.push_str(&format!("{}{}{}{end}", entry.head, names.join(" "), entry.tail));
        }
    }
    for address in missing {
        let Some(names) = table.get(&address) else { continue };
        if !result.text.is_empty() && !result.text.ends_with('\n') {
            result.text.push('\n');
        }
        result.changed(format!("{address} is {}", names.join(" ")));
        result.text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    result
}

/// The table, with the guest's own name where it needs a line.
fn with_own_name(text: &str, wanted: &Wanted<'_>) -> BTreeMap<IpAddr, Vec<String>> {
    let mut table = wanted.table.clone();
    let Some(host) = wanted.host else { return table };
    let full = host.full.as_ref().unwrap_or(&host.name);
    let entries = || text.lines().filter_map(entry);
    let by_others = entries().any(|entry| {
        entry.address != OWN
            && !table.contains_key(&entry.address)
            && entry.names.iter().any(|name| name == full)
    });
    let by_table = table.values().any(|names| names.contains(full));
    let has_line = entries().any(|entry| entry.address == OWN);
    let needs_line = has_line || (!by_others && !by_table && (wanted.debian || host.full.is_some()));
    if needs_line && !table.contains_key(&OWN) {
        let mut names = vec![full.clone()];
        let short = host.name.split('.').next().unwrap_or(&host.name);
        if short != full {
            names.push(short.to_owned());
        }
        table.insert(OWN, names);
    }
    table
}

fn entry(body: &str) -> Option<Entry<'_>> {
    let code = body.find('#').map_or(body, |at| &body[..at]);
    let trimmed = code.trim_end();
    let start = trimmed.len() - trimmed.trim_start().len();
    let word = trimmed[start..].split_whitespace().next()?;
    let address: IpAddr = word.parse().ok()?;
    let behind = &trimmed[start + word.len()..];
    let gap = behind.len() - behind.trim_start().len();
    let names: Vec<&str> = behind.split_whitespace().collect();
    let head = &body[..start + word.len() + gap];
    (!names.is_empty()).then_some(Entry { address, head, names, tail: &body[trimmed.len()..] })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
127.0.0.1\tlocalhost
127.0.1.1\told.example.org\told # by the installer

# servers
192.0.2.9   db  backup
";

    fn host(full: Option<&str>) -> HostName {
        HostName { name: "web".to_owned(), full: full.map(str::to_owned) }
    }

    fn table(entries: &[(&str, &str)]) -> BTreeMap<IpAddr, Vec<String>> {
        let names = |names: &str| names.split(' ').map(str::to_owned).collect();
        entries.iter().map(|(address, of)| (address.parse().unwrap(), names(of))).collect()
    }

    #[track_caller]
    fn rewritten(text: &str, host: Option<&HostName>, debian: bool, entries: &[(&str, &str)]) -> String {
        let table = table(entries);
        let wanted = Wanted { host, debian, table: &table };
        let new = rewrite(text, &wanted).text;
        assert_eq!(rewrite(&new, &wanted), Rewritten { text: new.clone(), ..Rewritten::default() }, "twice");
        new
    }

    #[test]
    fn the_line_of_the_own_name_is_replaced_and_all_else_stays() {
        let new = rewritten(DEBIAN, Some(&host(Some("web.example.com"))), true, &[]);
        assert_eq!(new, DEBIAN.replace("old.example.org\told", "web.example.com web"));
    }

    #[test]
    fn a_name_without_a_domain_gets_a_line_only_where_that_is_the_custom() {
        assert_eq!(rewritten("", Some(&host(None)), true, &[]), "127.0.1.1\tweb\n");
        assert_eq!(rewritten("", Some(&host(None)), false, &[]), "");
        assert_eq!(
            rewritten("", Some(&host(Some("web.example.com"))), false, &[]),
            "127.0.1.1\tweb.example.com web\n"
        );
    }

    #[test]
    fn a_name_that_has_an_address_of_its_own_needs_no_other() {
        let text = "192.0.2.10 web.example.com web\n";
        assert_eq!(rewritten(text, Some(&host(Some("web.example.com"))), true, &[]), text);
        let new = rewritten(
            "",
            Some(&host(Some("web.example.com"))),
            true,
            &[("192.0.2.10", "web.example.com web")],
        );
        assert_eq!(new, "192.0.2.10\tweb.example.com web\n");
    }

    #[test]
    fn a_name_moves_to_the_address_that_it_is_given() {
        let new = rewritten(DEBIAN, None, true, &[("192.0.2.5", "db.example.com db"), ("2001:db8::5", "db")]);
        let old_line = "192.0.2.9   backup\n";
        let new_lines = "192.0.2.5\tdb.example.com db\n2001:db8::5\tdb\n";
        assert_eq!(new, DEBIAN.replace("192.0.2.9   db  backup\n", &format!("{old_line}{new_lines}")));
    }

    #[test]
    fn a_line_without_an_end_gets_one_before_another_follows() {
        assert_eq!(rewritten("# x", None, false, &[("192.0.2.1", "a")]), "# x\n192.0.2.1\ta\n");
        assert_eq!(rewritten("192.0.2.1 b", None, false, &[("192.0.2.1", "a")]), "192.0.2.1 a");
    }

    #[test]
    fn any_text_passes_through() {
        for text in ["#", " ", "127.0.0.1", "127.0.0.1 #x", "x y z\n", "\u{e4} \u{85}1.2.3.4 \u{e4}#\u{e4}"] {
            let _ = rewritten(text, Some(&host(None)), true, &[("1.2.3.4", "b")]);
        }
    }
}

//! Addresses in ifupdown's stanzas: `/etc/network/interfaces` and what it includes.
//!
//! Each address after a family's first gets a stanza of its own, as interfaces(5) has it. Aliases of old (`ens192:1`) are such
//! addresses, too, and go. What is not here: commands (`up ip route …`), which stay.

use std::collections::BTreeSet;

use super::request::{Version, Wanted};
use crate::guest::linux::text::Rewritten;

/// Options that say what an address is; the gateway's is decided apart.
const OF_ADDRESSES: [&str; 5] = ["address", "netmask", "broadcast", "network", "gateway"];
const DNS: [&str; 2] = ["dns-nameservers", "dns-nameserver"];

/// A line with those that continue it, as it is.
#[derive(Debug, Clone)]
struct Line {
    raw: String,
    words: Vec<String>,
}

/// A stanza of a card, or lines between such.
#[derive(Debug, Clone)]
struct Block {
    /// Name and family, as the stanza says them.
    of: Option<(String, String)>,
    lines: Vec<Line>,
}

impl Block {
    fn is_of(&self, name: &str, version: Version) -> bool {
        self.of.as_ref().is_some_and(|(of, family)| of == name && family == word(version))
    }

    /// A further address in the old form: `ens192:1`.
    fn is_alias_of(&self, name: &str, version: Version) -> bool {
        let Some((of, family)) = &self.of else { return false };
        family == word(version) && of.split_once(':').is_some_and(|(below, _)| below == name)
    }

    fn options(&self) -> &[Line] {
        self.lines.get(1..).unwrap_or_default()
    }
}

/// What a stanza is given.
struct Given {
    addresses: Vec<String>,
    gateway: Option<String>,
    dns: Option<String>,
}

/// The file with these addresses; only the card's first file has them, others lose what they say of the same families.
pub(super) fn rewrite(text: &str, name: &str, wanted: &Wanted, first: bool, told: &mut Rewritten) -> String {
    let mut blocks = blocks(text);
    if !wanted.dns.is_empty() {
        for block in &mut blocks {
            if block.of.as_ref().is_some_and(|(of, _)| of == name) {
                block.lines.retain(|line| !is_one_of(line, &DNS));
            }
        }
    }
    let mut dns = Some(wanted.dns_joined(" ")).filter(|servers| !servers.is_empty());
    for version in wanted.versions() {
        let old: Vec<Block> = taken(&mut blocks, name, version);
        if first {
            let gateways = old.iter().flat_map(Block::options).filter(|line| is_one_of(line, &["gateway"]));
            let gateways: Vec<&str> =
                gateways.filter_map(|line| line.words.get(1).map(String::as_str)).collect();
            let given = Given {
                addresses: wanted.of(version).map(ToString::to_string).collect(),
                gateway: wanted.gateway(version, gateways, told).map(|ip| ip.to_string()),
                dns: dns.take(),
            };
            place(&mut blocks, name, stanzas(name, version, &old, &given, wanted));
        }
    }
    blocks.iter().flat_map(|block| &block.lines).map(|line| line.raw.as_str()).collect()
}

fn word(version: Version) -> &'static str {
    match version {
        Version::V4 => "inet",
        Version::V6 => "inet6",
    }
}

fn is_one_of(line: &Line, options: &[&str]) -> bool {
    line.words.first().is_some_and(|word| options.contains(&word.as_str()))
}

fn begins(word: &str) -> bool {
    [
        "iface",
        "mapping",
        "auto",
        "source",
        "source-directory",
        "rename",
        "no-auto-down",
        "no-scripts",
        "template",
    ]
    .contains(&word)
        || word.starts_with("allow-")
}

fn lines(text: &str) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let mut open = false;
    for raw in text.split_inclusive('\n') {
        let body = raw.trim_end_matches(['\n', '\r']);
        let bare = body.strip_suffix('\\');
        let words = bare.unwrap_or(body).split_whitespace().map(str::to_owned);
        match found.last_mut().filter(|_| open) {
            Some(line) => {
                line.raw.push_str(raw);
                line.words.extend(words);
            }
            None => {
                let comment = body.trim_start().starts_with('#');
                let words = if comment { Vec::new() } else { words.collect() };
                found.push(Line { raw: raw.to_owned(), words });
            }
        }
        open = bare.is_some();
    }
    found
}

/// The file in blocks: a stanza ends with its last option, so that comments and empty lines before the next are no part of it.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = vec![Block { of: None, lines: Vec::new() }];
    let mut between: Vec<Line> = Vec::new();
    for line in lines(text) {
        let Some(first) = line.words.first() else {
            between.push(line);
            continue;
        };
        let of = match line.words.as_slice() {
            [iface, name, family, ..] if iface == "iface" => Some((name.clone(), family.clone())),
            _ => None,
        };
        if begins(first) || blocks.last().is_some_and(|block| block.of.is_none()) {
            let lines = std::mem::take(&mut between);
            blocks.push(Block { of: None, lines });
            blocks.push(Block { of, lines: vec![line] });
        } else if let Some(block) = blocks.last_mut() {
            block.lines.append(&mut between);
            block.lines.push(line);
        }
    }
    blocks.push(Block { of: None, lines: between });
    blocks
}

/// Takes the stanzas of a family out, and leaves an empty one where the first was.
fn taken(blocks: &mut [Block], name: &str, version: Version) -> Vec<Block> {
    let mut aliases = BTreeSet::new();
    let mut found = Vec::new();
    for block in blocks.iter_mut() {
        if block.is_alias_of(name, version) {
            aliases.extend(block.of.take().map(|(alias, _)| alias));
            block.lines.clear();
        } else if block.is_of(name, version) {
            found.push(block.clone());
            block.lines.clear();
            if found.len() > 1 {
                block.of = None;
            }
        }
    }
    for (other, _) in blocks.iter().filter_map(|block| block.of.as_ref()) {
        aliases.remove(other);
    }
    for line in blocks.iter_mut().flat_map(|block| &mut block.lines) {
        let starts = line.words.first().is_some_and(|word| word == "auto" || word.starts_with("allow-"));
        if starts && line.words.iter().any(|word| aliases.contains(word)) {
            line.words.retain(|word| !aliases.contains(word));
            let nothing_left = line.words.len() < 2;
            line.raw = if nothing_left { String::new() } else { format!("{}\n", line.words.join(" ")) };
        }
    }
    found
}

/// Puts stanzas where the old ones of the family were; else behind the card's last; else at the end of the file.
fn place(blocks: &mut Vec<Block>, name: &str, new: Block) {
    let of_card = |block: &Block| block.of.as_ref().is_some_and(|(of, _)| of == name);
    if let Some(empty) = blocks.iter_mut().find(|block| of_card(block) && block.lines.is_empty()) {
        *empty = new;
        return;
    }
    let at = blocks.iter().rposition(of_card).map_or(blocks.len(), |at| at + 1);
    // What is before has to have an end of its line.
    let before = blocks[..at].iter_mut().flat_map(|block| &mut block.lines).next_back();
    if let Some(line) = before
        && !line.raw.ends_with('\n')
    {
        line.raw.push('\n');
    }
    blocks.insert(at, new);
}

/// The first stanza with all that the old ones said beyond addresses, and one for each further address.
fn stanzas(name: &str, version: Version, old: &[Block], given: &Given, wanted: &Wanted) -> Block {
    let family = word(version);
    let all = || old.iter().flat_map(Block::options);
    let indent = all().map(|line| &line.raw).find_map(|raw| {
        let text = raw.trim_start();
        (!text.starts_with('#')).then(|| raw[..raw.len() - text.len()].to_owned())
    });
    let indent = indent.unwrap_or_else(|| "\t".to_owned());
    let has = |option: &str| all().any(|line| is_one_of(line, &[option]));
    let with_mask = has("netmask");
    let head = match old.first().and_then(|block| block.lines.first()) {
        Some(line) if line.words.get(3).is_some_and(|method| method == "static") => line.raw.clone(),
        Some(line) if line.words.len() > 4 => {
            format!("iface {name} {family} static {}\n", line.words[4..].join(" "))
        }
        _ => format!("iface {name} {family} static\n"),
    };
    let head = if head.ends_with('\n') { head } else { format!("{head}\n") };
    let mut first = vec![head.clone()];
    let mut further = Vec::new();
    for (index, address) in given.addresses.iter().enumerate() {
        let lines = if index == 0 { &mut first } else { &mut further };
        if index > 0 {
            lines.push(format!("iface {name} {family} static\n"));
        }
        let mask = wanted.of(version).nth(index).map(|address| match address.netmask() {
            Some(mask) => mask.to_string(),
            None => address.prefix.to_string(),
        });
        match (address.split_once('/'), mask) {
            (Some((ip, _)), Some(mask)) if with_mask => {
                lines.push(format!("{indent}address {ip}\n{indent}netmask {mask}\n"));
            }
            _ => lines.push(format!("{indent}address {address}\n")),
        }
    }
    if let Some(gateway) = &given.gateway {
        first.push(format!("{indent}gateway {gateway}\n"));
    }
    let kept = all().filter(|line| !is_one_of(line, &OF_ADDRESSES));
    first.extend(
        kept.map(|line| if line.raw.ends_with('\n') { line.raw.clone() } else { format!("{}\n", line.raw) }),
    );
    if let Some(dns) = &given.dns {
        first.push(format!("{indent}dns-nameservers {dns}\n"));
    }
    let line = |raw: String| Line { words: raw.split_whitespace().map(str::to_owned).collect(), raw };
    first.extend(further);
    Block { of: Some((name.to_owned(), family.to_owned())), lines: first.into_iter().map(line).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::request::testing::{self, wanted};
    use super::*;

    fn rewritten(text: &str, words: &str) -> String {
        let first =
            |text: &str, wanted: &Wanted, told: &mut Rewritten| rewrite(text, "ens192", wanted, true, told);
        testing::rewritten(first, text, words).0
    }

    const DEBIAN: &str = "# The loopback network interface\nauto lo\niface lo inet loopback\n\n# The primary network interface\n\
        allow-hotplug ens192\niface ens192 inet static\n\taddress 198.51.100.7/24\n\tgateway 198.51.100.1\n\t# of resolvconf\n\
        \tdns-nameservers 198.51.100.53\n\tup ip route add 203.0.113.0/24 via 198.51.100.9\n\niface ens192.5 inet manual\n";

    #[test]
    fn a_static_card_of_debian_gets_other_addresses_and_keeps_all_else() {
        insta::assert_snapshot!(rewritten(DEBIAN, "192.0.2.10/24 192.0.2.11/24 2001:db8::10/64 via 192.0.2.1 dns 192.0.2.53"), @r"
        # The loopback network interface
        auto lo
        iface lo inet loopback

        # The primary network interface
        allow-hotplug ens192
        iface ens192 inet static
        	address 192.0.2.10/24
        	gateway 192.0.2.1
        	# of resolvconf
        	up ip route add 203.0.113.0/24 via 198.51.100.9
        	dns-nameservers 192.0.2.53
        iface ens192 inet static
        	address 192.0.2.11/24
        iface ens192 inet6 static
        	address 2001:db8::10/64

        iface ens192.5 inet manual
        ");
    }

    #[test]
    fn dhcp_becomes_static_and_the_other_family_stays() {
        let text = "auto ens192\niface ens192 inet dhcp\n    mtu 9000\niface ens192 inet6 auto\n";
        assert_eq!(
            rewritten(text, "192.0.2.10/24"),
            "auto ens192\niface ens192 inet static\n    address 192.0.2.10/24\n    mtu 9000\niface ens192 inet6 auto\n"
        );
        let six = rewritten(text, "2001:db8::10/64 via fe80::1");
        assert!(
            six.ends_with(
                "mtu 9000\niface ens192 inet6 static\n\taddress 2001:db8::10/64\n\tgateway fe80::1\n"
            ),
            "{six}"
        );
    }

    #[test]
    fn the_old_form_with_a_mask_and_aliases_stays_in_its_form_and_aliases_go() {
        let text = "auto ens192 ens192:1\niface ens192 inet static\n  address 198.51.100.7\n  netmask 255.255.255.0\n  network 198.51.100.0\n\
            \niface ens192:1 inet static\n  address 198.51.100.8\n  netmask 255.255.255.0\nauto eth1\niface eth1 inet dhcp";
        assert_eq!(
            rewritten(text, "192.0.2.10/25"),
            "auto ens192\niface ens192 inet static\n  address 192.0.2.10\n  netmask 255.255.255.128\n\nauto eth1\niface eth1 inet dhcp"
        );
    }

    #[test]
    fn a_card_without_a_stanza_gets_one_and_a_second_file_loses_what_it_said() {
        let new = rewritten("auto lo\niface lo inet loopback", "192.0.2.10/24");
        assert_eq!(
            new,
            "auto lo\niface lo inet loopback\niface ens192 inet static\n\taddress 192.0.2.10/24\n"
        );
        let wanted = wanted("192.0.2.10/24");
        let left = rewrite(DEBIAN, "ens192", &wanted, false, &mut Rewritten::default());
        assert!(
            !left.contains("iface ens192 inet static") && left.contains("iface ens192.5 inet manual"),
            "{left}"
        );
    }

    #[test]
    fn lines_that_go_on_are_one_and_hostile_ones_do_no_harm() {
        let text = "iface ens192 inet static\n  address \\\n    198.51.100.7/24\n  up echo \\\n    done\n";
        let new = rewritten(text, "192.0.2.10/24");
        assert_eq!(new, "iface ens192 inet static\n  address 192.0.2.10/24\n  up echo \\\n    done\n");
        for text in ["", "\\", "iface", "iface ens192", "address 1\n\\\n", "iface ens192 inet"] {
            assert!(rewritten(text, "192.0.2.10/24").contains("address 192.0.2.10/24\n"), "{text}");
        }
    }
}

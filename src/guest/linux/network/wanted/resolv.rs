//! Name servers that hold for the whole guest: `/etc/resolv.conf` where nobody makes it, and SUSE's `config`.
//!
//! What is not here: those that belong to one card.

use super::ifcfg::entry;
use crate::guest::linux::text::split_end;

/// SUSE's list of name servers.
const SUSE_KEY: &str = "NETCONFIG_DNS_STATIC_SERVERS";

/// The file with these servers where the first old one was.
pub(super) fn rewrite(text: &str, servers: &[String]) -> String {
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let is_old = |line: &str| line.split_whitespace().next() == Some("nameserver");
    placed(text, &lines, is_old)
}

/// SUSE's configuration with these servers.
pub(super) fn rewrite_suse(text: &str, servers: &[String]) -> String {
    let line = format!("{SUSE_KEY}=\"{}\"\n", servers.join(" "));
    placed(text, &line, |line| entry(line).is_some_and(|(key, _)| key == SUSE_KEY))
}

/// The text with these lines in the place of the first old one, or at its end.
pub(super) fn placed(text: &str, lines: &str, is_old: impl Fn(&str) -> bool) -> String {
    let mut new = String::with_capacity(text.len() + lines.len());
    let mut placed = false;
    for line in text.split_inclusive('\n') {
        if !is_old(split_end(line).0) {
            new.push_str(line);
        } else if !std::mem::replace(&mut placed, true) {
            new.push_str(lines);
        }
    }
    if !placed && !lines.is_empty() {
        if !new.is_empty() && !new.ends_with('\n') {
            new.push('\n');
        }
        new.push_str(lines);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_stand_where_the_old_ones_stood() {
        let servers = ["192.0.2.53".to_owned(), "2001:db8::53".to_owned()];
        let text = "# by hand\nsearch example.org\nnameserver 198.51.100.53\noptions edns0\nnameserver 198.51.100.54\n";
        let new = rewrite(text, &servers);
        assert_eq!(
            new,
            "# by hand\nsearch example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n"
        );
        assert_eq!(rewrite(&new, &servers), new);
        assert_eq!(rewrite("search a", &servers[..1]), "search a\nnameserver 192.0.2.53\n");
    }

    #[test]
    fn suse_has_them_in_one_line() {
        let text = "## Default: \"\"\nNETCONFIG_DNS_STATIC_SERVERS=\"198.51.100.53\"\nNETCONFIG_DNS_RANKING=\"auto\"\n";
        let new = rewrite_suse(text, &["192.0.2.53".to_owned(), "192.0.2.54".to_owned()]);
        assert_eq!(new, text.replace("198.51.100.53", "192.0.2.53 192.0.2.54"));
    }
}

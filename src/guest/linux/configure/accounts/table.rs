//! Lines of fields between colons: passwd, shadow, group and gshadow.
//!
//! Lines that are not touched stay as they are, also those that are no entries. What is not here: what a field means.

/// One such file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    lines: Vec<String>,
    /// How many fields a whole line has.
    fields: usize,
}

impl Table {
    /// A file's text; its lines have this many fields.
    pub(super) fn of(text: &str, fields: usize) -> Table {
        Table { lines: text.lines().map(str::to_owned).collect(), fields }
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// All entries, without comments and without lines that ask a directory service.
    pub(super) fn entries(&self) -> impl Iterator<Item = Vec<&str>> {
        let whole = self.fields;
        let is_entry = |line: &&String| !line.is_empty() && !line.starts_with(['#', '+', '-']);
        self.lines.iter().filter(is_entry).map(move |line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            // Older tools leave out what is empty at the end.
            fields.resize(fields.len().max(whole), "");
            fields
        })
    }

    /// The first entry of a name.
    pub(super) fn find(&self, name: &str) -> Option<Vec<String>> {
        let found = self.entries().find(|fields| fields[0] == name);
        found.map(|fields| fields.into_iter().map(str::to_owned).collect())
    }

    /// Puts an entry in the place of the one of its name, or behind all others.
    pub(super) fn set(&mut self, entry: &[String]) {
        let line = entry.join(":");
        let Some(name) = entry.first() else { return };
        match self.position(name) {
            Some(at) => {
                // An entry that says the same stays as it is written.
                let mut there: Vec<&str> = self.lines[at].split(':').collect();
                there.resize(there.len().max(self.fields), "");
                if there != *entry {
                    self.lines[at] = line;
                }
            }
            None => {
                let asks = |line: &String| line.starts_with(['+', '-']);
                let at = self.lines.iter().position(asks).unwrap_or(self.lines.len());
                self.lines.insert(at, line);
            }
        }
    }

    /// Takes out the entries of a name.
    pub(super) fn remove(&mut self, name: &str) {
        self.lines.retain(|line| line.split(':').next() != Some(name));
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.lines.iter().position(|line| line.split(':').next() == Some(name))
    }
}

/// A list of names between commas, with one more; none if it is there.
pub(super) fn with_member(list: &str, name: &str) -> Option<String> {
    let mut names = list.split(',').map(str::trim).filter(|known| !known.is_empty());
    if names.any(|known| known == name) {
        return None;
    }
    let list = list.trim_end_matches([',', ' ']);
    Some(if list.is_empty() { name.to_owned() } else { format!("{list},{name}") })
}

/// The same without one; none if it is not there.
pub(super) fn without_member(list: &str, name: &str) -> Option<String> {
    let left: Vec<&str> = list.split(',').filter(|known| known.trim() != name).collect();
    let left = left.join(",");
    (left != list).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\n# by hand\n\nweb:x:1000:1000::/home/web:/bin/sh\n+::::::\n";

    fn entry(line: &str) -> Vec<String> {
        line.split(':').map(str::to_owned).collect()
    }

    #[test]
    fn only_the_line_in_question_changes() {
        let mut table = Table::of(PASSWD, 7);
        table.set(&entry("web:x:1000:1000::/home/web:/bin/bash"));
        assert_eq!(table.text(), PASSWD.replace("web:/bin/sh", "web:/bin/bash"));
        table.remove("web");
        assert_eq!(table.text(), PASSWD.replace("web:x:1000:1000::/home/web:/bin/sh\n", ""));
        assert_eq!(table.find("web"), None);
    }

    #[test]
    fn a_new_entry_stands_before_what_asks_a_directory_service() {
        let mut table = Table::of(PASSWD, 7);
        table.set(&entry("db:x:1001:1001::/home/db:/bin/sh"));
        assert!(table.text().ends_with("db:x:1001:1001::/home/db:/bin/sh\n+::::::\n"), "{}", table.text());
    }

    #[test]
    fn an_entry_with_fewer_fields_is_read_as_if_they_were_empty_and_stays() {
        let mut table = Table::of("web:*:19000\n", 9);
        let found = table.find("web").unwrap();
        assert_eq!((found.len(), found[7].as_str()), (9, ""));
        table.set(&found);
        assert_eq!(table.text(), "web:*:19000\n");
    }

    #[test]
    fn members_come_and_go_once() {
        assert_eq!(with_member("", "a").as_deref(), Some("a"));
        assert_eq!(with_member("a,b", "c").as_deref(), Some("a,b,c"));
        assert_eq!(with_member("a,b", "b"), None);
        assert_eq!(without_member("a,b,c", "b").as_deref(), Some("a,c"));
        assert_eq!(without_member("ab", "a"), None);
    }
}
